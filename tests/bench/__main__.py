"""`python -m tests.bench`: our daemon and containerd's overlayfs snapshotter, side by side in one run."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from cvmfsrepo.errors import ContractError
from tests.bench import publications, pulls, report, stores, verbs
from tests.bench.disks import own_disk
from tests.engines.debs import DebsError
from tests.engines.process import EngineError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Fewer rounds: a minute or two, and numbers of less worth.")
@click.option("--pull/--no-pull", default=True, help="Pull a Debian image too; needs the network once.")
@click.option("--store/--no-store", default=True, help="Build the podman store of 1,000 images too.")
@click.option("--publish/--no-publish", default=True, help="Publish a Debian image too; needs the network once.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the numbers to this file.")
@click.option("--write", "page", type=click.Path(path_type=Path, exists=True), help="Put the table into this page.")
@click.option("--below", type=click.Path(path_type=Path), default=Path("/tmp"), show_default=True,
              help="Where the state is kept meanwhile: a disk, or nothing waits for it.")  # fmt: skip
def main(quick: bool, pull: bool, store: bool, publish: bool, json_path: Path | None, page: Path | None,
         below: Path) -> None:  # fmt: skip
    """Measures the snapshotter against containerd's overlayfs. Both get the same calls by turns; what counts is the
    ratio, not the microseconds."""
    if os.geteuid() != 0:
        raise click.ClickException("needs root, for snapshots have owners: sudo make bench")
    console, progress = Console(), Console(stderr=True)
    size = verbs.QUICK if quick else verbs.WHOLE_SIZE
    with progress.status("building") as status, _directory(below) as directory:
        with own_disk(directory, "verbs") as disk:
            results = verbs.measure(disk, size, status.update).results(verbs.ROWS)
        if pull:
            try:
                with own_disk(directory, "pulls") as disk:
                    results += pulls.measure(disk, 1 if quick else 3, status.update).results(pulls.ROWS)
            except (EngineError, DebsError, ContractError) as error:
                progress.print(f"no pull: {error}", style="bold red", markup=False)
        if store:
            with own_disk(directory, "stores") as disk:
                results += stores.measure(disk, status.update).results(stores.ROWS)
        if publish:
            with own_disk(directory, "publications") as disk:
                samples = publications.measure(disk, 1 if quick else 3, status.update)
            results += samples.results(publications.ROWS)
    machine = report.this_machine()
    console.print(report.table(results))
    if json_path:
        json_path.write_bytes(report.as_json(results, machine))
    if page:
        report.replace_table(page, report.markdown(results, machine))


@contextmanager
def _directory(below: Path) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="cv-", dir=below))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    try:
        main()
    except (EngineError, DebsError) as error:
        sys.exit(f"error: {error}")

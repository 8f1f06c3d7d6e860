"""The story, told once from top to bottom."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cvmfsrepo.compare import Difference
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from tests.demo.preflight import problems
from tests.demo.stage import Stage, stage
from tests.engines import debs
from tests.engines.cri import Cri
from tests.engines.process import EngineError
from tests.fidelity.proof import differences_of_image
from tests.images.debian import debian_image
from tests.images.ocilayout import Image

VERSION = "2.1"
NAME = "demo/debian:12"
_COMMAND = ["/bin/sh", "-c", '. /etc/os-release; echo "$PRETTY_NAME, $(ls /usr/bin | wc -l) programs in /usr/bin"']

console = Console(highlight=False)


def main() -> None:
    """Exit status 1 where the machine cannot do it or a promise was not kept."""
    found = list(problems(Path.cwd()))
    for problem in found:
        console.print(f"[red]demo:[/red] {problem}")
    if found:
        sys.exit(1)
    try:
        run()
    except (debs.DebsError, EngineError, ContractError) as error:
        console.print(f"[red]demo:[/red] {error}")
        sys.exit(1)


def run() -> None:
    """Publish, pull both ways, run, compare."""
    began = time.monotonic()
    _step("Fetching containerd, runc and a registry (unpacked under .cache/, not installed)")
    for packages in (debs.CONTAINERD[VERSION], debs.RUNC, debs.REGISTRY, debs.SKOPEO):
        packages.root()
    _step("Building a Debian image of six layers with mmdebstrap, buildah and umoci (once)")
    image = debian_image()
    with stage() as place:
        if place.without_fuse:
            console.print(f"  [yellow]no FUSE ({place.without_fuse}): the repository is a plain directory[/yellow]")
        _step("Pushing it to a registry and publishing it into the repository")
        place.registry.push(image.path, image.ref, NAME)
        publish(image, place)
        _step(f"Pulling it with containerd {VERSION} the ordinary way (overlayfs), and from the repository")
        rows, honest = pull_and_compare(image, place)
    table = Table(title=f"Debian image, {len(image.layers)} layers, containerd {VERSION}", title_justify="left")
    table.add_column("")
    table.add_column("overlayfs", justify="right")
    table.add_column("from CVMFS", justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"Done in {time.monotonic() - began:.0f} s; nothing is left running or mounted.")
    sys.exit(0 if honest else 1)


def publish(image: Image, place: Stage) -> None:
    """With the command that an operator uses."""
    reference = place.registry.reference(NAME)
    command = [sys.executable, "-m", "publisher.cli.main", "image", image.source]
    command += ["--repository", str(place.repository), "--name", reference]
    done = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    if done.returncode:
        raise EngineError(f"cvmfs-publisher ended with {done.returncode}")


def pull_and_compare(image: Image, place: Stage) -> tuple[list[tuple[str, str, str]], bool]:
    """The rows of the table, and whether every promise was kept."""
    reference = place.registry.reference(NAME)
    total = sum(image.blob(layer).stat().st_size for layer in image.layers)
    with place.overlayfs(VERSION) as pulled, Cri(pulled.socket) as cri:
        ordinary = _seconds(lambda: cri.pull(reference))
        with place.served(VERSION) as (snapshotter, containerd), Cri(containerd.socket) as served:
            mark = place.registry.mark()
            fast = _seconds(lambda: served.pull(reference))
            fetched = set(place.registry.blob_requests(mark)) & set(image.layers)
            result = served.run(reference, _COMMAND)
            hits = [line for line in snapshotter.events("remote prepare") if line["outcome"] == "hit"]
            _step("Comparing the two root file systems, every name, attribute and byte")
            differences = differences_of_image(pulled, containerd, [Digest.parse(d) for d in image.diff_ids])
    downloaded = sum(image.blob(layer).stat().st_size for layer in fetched)
    rows = [
        ("layers from CVMFS", "0", f"{len(hits)} of {len(image.layers)}"),
        ("downloaded", _megabytes(total), _megabytes(downloaded)),
        ("not downloaded", "", _megabytes(total - downloaded)),
        ("pull", f"{ordinary:.2f} s", f"{fast:.3f} s ({ordinary / fast:.0f} times faster)"),
        ("what the container said", "", result.output.strip()),
        ("root file systems equal", "", _verdict(differences, mount=not place.without_fuse)),
    ]
    equal = not [d for d in differences if d.field != "hard-links"]
    return rows, equal and not fetched and len(hits) >= len(image.layers) and result.exit_code == 0


def _verdict(differences: list[Difference], mount: bool) -> str:
    """A CVMFS client shows each name of a hard-linked file as a file of its own: named, and nothing else let pass."""
    others = [difference for difference in differences if difference.field != "hard-links"]
    for difference in others[:10]:
        console.print(f"  [red]{difference}[/red]")
    if others:
        return f"[red]no, {len(others)} differences[/red]"
    links = len(differences)
    return "[green]yes[/green]" + (f", but {links} names of hard-linked files stand alone" if links and mount else "")


def _step(text: str) -> None:
    console.print(f"[bold]>[/bold] {text}")


def _seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    main()

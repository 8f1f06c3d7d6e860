"""`prefetch`: brings an image into the cache before somebody needs it."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import click

from cvmfsrepo.errors import InvalidArgument
from snapshotter.cli import exits
from snapshotter.cli.apart import apart
from snapshotter.cli.options import node_options, registries_option
from snapshotter.cli.output import Output, counted, size
from snapshotter.cli.resolving import From, Resolved, guarded_repositories, own_platform, resolve
from snapshotter.cli.telling import Telling
from snapshotter.config import Config
from snapshotter.prefetch import Bounds, Prefetch, Prefetched, ServedImage, places
from snapshotter.usedfiles import parse_process, used_files

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)i?B?", re.ASCII | re.IGNORECASE)

_SHOWN = 20


class _Size(click.ParamType[int]):
    """Bytes, as 500M or 2GB, in powers of 1000."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not (found := _SIZE.fullmatch(str(value).strip())):
            self.fail(f"{value!r} is no size: give for example 500M or 2GB", param, ctx)
        return int(float(found[1]) * _UNITS[found[2].upper()])


@click.command()
@click.argument("reference", metavar="IMAGE")
@click.option("--files", "which", type=click.Choice(["used", "all", "none"]), default="used", show_default=True,
              help="used: what the image's command needs to start, and --list; none: only catalogs.")  # fmt: skip
@click.option("--list", "listed", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A file with paths in the image, one a line; a directory stands for all below it.")  # fmt: skip
@click.option("--limit", type=_Size(), help="Stop after so many bytes of files, such as 2GB.  [default: none]")
@click.option("--timeout", type=click.FloatRange(min=0), help="Stop after so many seconds.  [default: none]")
@click.option("--workers", type=click.IntRange(1, 16), default=4, show_default=True, help="Operations at one time.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=200.0, show_default=True,
              help="Directories and files begun in a second.")  # fmt: skip
@click.option("--from", "origin", type=click.Choice(["auto", "registry", "repository"]), default="repository",
              show_default=True, help="Who says what IMAGE is.")  # fmt: skip
@click.option("--platform", help="OS/ARCH of an image for several.  [default: this machine's]")
@registries_option
@node_options
@apart
def prefetch(
    config: Config, output: Output, reference: str, which: str, listed: Path | None, limit: int | None,
    timeout: float | None, workers: int, rate: float, origin: str, platform: str | None,
    registries: Path | None,
) -> None:  # fmt: skip
    """Brings IMAGE into this node's CVMFS cache: the catalogs of its layers, then files.

    Containers that run meanwhile share the cache and the network: --workers and --rate keep it gentle.

    \b
    Exit status: 0 all that was asked for was read; 3 a limit stopped it, or something could not be read.
    \b
    Examples:
      cvmfs-snapshotter prefetch registry.example.org/atlas/athena:25 --limit 2GB
      cvmfs-snapshotter prefetch registry.example.org/atlas/athena:25 --list opened-files.txt
    """
    repositories = guarded_repositories(config)
    image = resolve(reference, repositories, platform or own_platform(), cast(From, origin), registries=registries)
    found, missing = places(repositories, (layer.digest for layer in image.manifest.layers))
    notes = list(image.notes)
    with Telling() as tell:
        run = Prefetch(found, Bounds(workers, rate, limit, timeout), tell)
        tree = run.list_all()
        if which == "all":
            run.read_all(tree)
        elif which == "used":
            notes += _read_used(image, _lines(listed), run, ServedImage(run, tree))
    done = run.result(image.name, notes, missing)
    output.show(done, lambda: _print(output, done))
    if not done.complete:
        click.get_current_context().exit(exits.NO)


def _read_used(image: Resolved, listed: Sequence[bytes], run: Prefetch, served: ServedImage) -> Iterator[str]:
    """Reads the files; what could not be told is said."""
    if image.config is None:
        yield "the image's config is not known here, so neither is its command: --from registry, or give --list"
    process = parse_process(image.config or b"{}")
    count = sum(1 for _ in used_files(process, served.expanded(listed), served))
    if image.config and not count:
        yield "the image names no command that is in it: give --list, or --files all"


def _lines(file: Path | None) -> list[bytes]:
    if file is None:
        return []
    lines = [line.strip() for line in file.read_bytes().splitlines()]
    for line in lines:
        if b"\0" in line:
            raise InvalidArgument("path", os.fsdecode(line), "holds a NUL byte", "give a text file")
    return [line for line in lines if line and not line.startswith(b"#")]


def _print(output: Output, done: Prefetched) -> None:
    for note in done.notes:
        output.line(f"note: {note}")
    what = f"{counted(done.directories, 'directory').replace('directorys', 'directories')} listed"
    files = f"{counted(done.files, 'file')} read, {size(done.bytes_read)}"
    output.line(f"{done.image}: {counted(done.layers, 'layer')}, {what}, {files}, in {done.seconds:.1f} s")
    for problem in done.problems[:_SHOWN]:
        output.line(f"  {problem}")
    if len(done.problems) > _SHOWN:
        output.line(f"  ... and {len(done.problems) - _SHOWN} more")
    if done.stopped:
        output.line(f"stopped at {done.stopped}")

"""`verify`: is what this node shows of an image the image?"""

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from cvmfsrepo.errors import DataLoss, InvalidArgument, PermissionDenied, ResourceExhausted
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.repository import Missing
from cvmfsrepo.tree import Head
from snapshotter.cli import exits
from snapshotter.cli.apart import apart
from snapshotter.cli.options import node_options, registries_option
from snapshotter.cli.output import Output, counted, size
from snapshotter.cli.resolving import (
    Resolved,
    from_source,
    guarded_repositories,
    other_than_published,
    own_platform,
    resolve,
)
from snapshotter.cli.telling import Telling
from snapshotter.config import Config
from snapshotter.looks import AskedLayer, asked_layers
from snapshotter.verify import Comparison, as_served, compare_trees, sorted_out

_LEAST_DEADLINE = 60.0
"""Seconds: nobody's pull waits, and a walk over a layer without a record may take as long."""

_UNPACKED = 3
"""What a compressed layer is taken to unpack to, where its record does not say."""

_SHOWN = 50


@click.command()
@click.argument("reference", metavar="IMAGE")
@click.option("--against", default="registry", show_default=True, metavar="registry|oci:PATH[:REF]",
              help="Where the original is read from.")  # fmt: skip
@click.option("--platform", help="OS/ARCH of an image for several.  [default: this machine's]")
@click.option("--directory", type=click.Path(path_type=Path), default=Path("/var/tmp"), show_default=True,
              help="Where the original is unpacked; removed at the end.")  # fmt: skip
@click.option("--known-losses-ok", is_flag=True, help="Exit status 0 also where only known losses were found.")
@click.option("--all", "show_all", is_flag=True, help=f"Show all differences, not the first {_SHOWN}.")
@registries_option
@node_options
@apart
def verify(
    config: Config, output: Output, reference: str, against: str, platform: str | None, directory: Path,
    known_losses_ok: bool, show_all: bool, registries: Path | None,
) -> None:  # fmt: skip
    """Compares what this node would show of IMAGE with the image itself, name by name and byte by byte.

    The original is fetched and unpacked, which takes as much space as the image has; the served root file system is
    mounted where nobody else sees it. Needs root. The daemon and its state are not touched.

    \b
    Exit status: 0 equal; 3 it differs; 1 it cannot be told, also where a layer is not served.
    \b
    Example:
      cvmfs-snapshotter verify registry.example.org/atlas/athena:25
    """
    if os.geteuid() != 0:
        remedy = "run as root: the original has owners and devices, and the served tree is mounted"
        raise PermissionDenied("image", reference, "can be compared by root alone", remedy)
    from snapshotter.privatemount import enter_private_mounts

    logging.getLogger("snapshotter").addHandler(logging.NullHandler())  # what it warns of is in the comparison
    enter_private_mounts()
    repositories = guarded_repositories(config, max(_LEAST_DEADLINE, config.deadline))
    original = _original(reference, against, repositories, platform or own_platform(), registries)
    found = _compared(config, output, original, repositories, directory)
    output.show(found, lambda: _print(output, found, show_all))
    if found.faults or (found.losses and not known_losses_ok):
        click.get_current_context().exit(exits.NO)


def _original(
    text: str, against: str, repositories: Sequence[GuardedRepository], platform: str, registries: Path | None
) -> Resolved:
    if against == "registry":
        return resolve(text, repositories, platform, "registry", registries=registries)
    if not against.startswith("oci:"):
        raise InvalidArgument("original", against, "is of no known form", "give registry or oci:PATH[:REF]")
    found = other_than_published(from_source(against, platform), text, repositories)
    return replace(found, name=text)


def _compared(
    config: Config, output: Output, image: Resolved, repositories: Sequence[GuardedRepository], directory: Path
) -> Comparison:
    from snapshotter.cli.original import unpack_original
    from snapshotter.kernel import mount_options
    from snapshotter.privatemount import mounted

    layers = asked_layers([(layer.digest, layer.size) for layer in image.manifest.layers], image.diff_ids)
    if image.source is None or not image.diff_ids:
        raise DataLoss("image config", image.name, "does not name the diff ids of the layers", "build the image again")
    _check_space(output, repositories, layers, directory)
    with tempfile.TemporaryDirectory(prefix="cvmfs-verify-", dir=directory) as own, Telling() as tell:
        place = Path(own, "m")
        place.mkdir()
        with (
            as_served(Path(own, "s"), repositories, layers, mount_options(config.mount_options)) as mount,
            mounted(mount, place) as root,
        ):
            original = unpack_original(image, image.source, Path(own), tell)
            trees = compare_trees(original.root, root, original.undated, tell)
    return sorted_out(trees, image=image.name, original=image.origin, notes=image.notes)


def _check_space(
    output: Output, repositories: Sequence[GuardedRepository], layers: Sequence[AskedLayer], directory: Path
) -> None:
    """Says what the original takes; refuses where that is known and not there."""
    sizes = [_size(repositories, layer) for layer in layers]
    needed = sum(known or layer.size * _UNPACKED for known, layer in zip(sizes, layers, strict=True))
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    exact = "" if all(size is not None for size in sizes) else "about "
    output.progress(f"the original takes {exact}{size(needed)} in {directory}, where {size(free)} are free")
    if needed > free and not exact:
        raise ResourceExhausted("directory", str(directory), "has too little space", "give another --directory")


def _size(repositories: Sequence[GuardedRepository], layer: AskedLayer) -> int | None:
    """Bytes of a layer's files, from its record."""
    for repository in repositories:
        head: Head | Missing | None = repository.call(lambda r=repository: _head(r, layer), layer.digest)  # type: ignore[misc]
        if isinstance(head, Head):
            return head.size
    return None


def _head(repository: GuardedRepository, layer: AskedLayer) -> Head | None:
    try:
        return repository.repository.find_head(layer.digest)
    except DataLoss:
        return None


def _print(output: Output, found: Comparison, show_all: bool) -> None:
    for note in found.notes:
        output.line(f"note: {note}")
    compared = f"{counted(found.entries, 'entry').replace('entrys', 'entries')}, {counted(found.files, 'file')} read"
    output.line(f"{found.image} as this node shows it, against {found.original}: {compared}")
    if found.equal:
        output.line("EQUAL: every name, attribute and byte")
        return
    if found.losses:
        output.line()
        rows = [(loss.what, str(loss.count), loss.why, ", ".join(loss.examples)) for loss in found.losses]
        output.table(("KNOWN LOSS", ">ENTRIES", "WHY", "FOR EXAMPLE"), rows)
    shown = found.faults if show_all else found.faults[:_SHOWN]
    if shown:
        output.line()
        rows = [(fault.path, fault.field, fault.expected, fault.found) for fault in shown]
        output.table(("DIFFERENCE", "IN", "ORIGINAL", "SERVED"), rows)
    if len(shown) < len(found.faults):
        output.line(f"... and {len(found.faults) - len(shown)} more; --all shows them")
    output.line()
    faults = counted(len(found.faults), "difference")
    output.line(f"DIFFERS: {faults} that nothing explains" if found.faults else "EQUAL but for known losses")

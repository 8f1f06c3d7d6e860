"""The image itself: fetched from where it comes from, verified and unpacked, for a comparison."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.oci import parse_manifest
from cvmfsrepo.tree import Notation
from publisher.source import Source
from publisher.unpacking.space import FreeSpace
from publisher.unpacking.unpack import unpack
from snapshotter.cli.output import size
from snapshotter.cli.resolving import Resolved
from snapshotter.squash import Squash


@dataclass(frozen=True, slots=True)
class Original:
    """The unpacked image at `root`; `undated` are directories whose time is made up."""

    root: Path
    undated: frozenset[bytes]


def unpack_original(image: Resolved, source: Source, directory: Path, tell: Callable[[str], object]) -> Original:
    """Unpacks the image below the empty directory `directory`, every byte verified. Raises as `unpack`."""
    root, layerfs = directory / "image", directory / "layer"
    root.mkdir(0o700)
    squash, space = Squash(root), FreeSpace(directory)
    layers, read = parse_manifest(source.manifest).layers, 0
    total = sum(layer.size for layer in layers)

    def advance(count: int) -> None:
        nonlocal read
        read += count
        tell(f"original: {size(read)} of {size(total)} read")

    for blob, diff_id in zip(layers, image.diff_ids, strict=True):
        layerfs.mkdir(0o700)
        with source.open_blob(blob) as raw:
            unpacked = unpack(raw, blob, diff_id, layerfs, Notation.OCI, space, advance)
        squash.add(layerfs, unpacked.entries, unpacked.markers)
        shutil.rmtree(layerfs)
    return Original(root, squash.undated)

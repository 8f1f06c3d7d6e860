"""What containerd does on a pull, against a snapshotter in this process: a Prepare for each layer, and no unpacking."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from cvmfsrepo.digest import Digest, chain_id
from cvmfsrepo.errors import AlreadyExists
from snapshotter import labels as label
from snapshotter.config import Config
from snapshotter.server import opened
from snapshotter.snapshots import Kind
from snapshotter.snapshotter import Snapshotter
from tests.images.ocilayout import Image


@contextlib.contextmanager
def node(state: Path, mountpoint: Path) -> Iterator[Snapshotter]:
    """A node's snapshotter with its state in a directory, for the repository at `mountpoint`."""
    config = Config(
        root=str(state), repository="unpacked.example.org", absolute_mountpoint=str(mountpoint), deadline=60
    )
    with opened(config) as snapshotter:
        yield snapshotter


def pull(snapshotter: Snapshotter, image: Image) -> str:
    """Name of the committed snapshot of the whole image; a layer that was not served is an AssertionError with the
    reason."""
    parent, diff_ids = "", [Digest.parse(diff_id) for diff_id in image.diff_ids]
    for number, layer in enumerate(image.layers):
        target = str(chain_id(diff_ids[: number + 1]))
        labels = {
            label.TARGET: target,
            label.LAYER_DIGEST: layer,
            label.IMAGE: f"registry.example.org/test/{image.ref}",
        }
        key = f"extract-{number}-{target}"
        try:
            snapshotter.prepare(key, parent, labels)
        except AlreadyExists:
            parent = _committed(snapshotter, target, parent)
        else:
            raise AssertionError(f"layer {number} was not served: {snapshotter.stat(key).labels[label.MISS]}")
    return parent


def _committed(snapshotter: Snapshotter, target: str, parent: str) -> str:
    """Found as containerd finds it."""
    found = snapshotter.walk([f'labels."{label.TARGET}"=={target},parent=="{parent}"'])
    (name,) = [info.name for info in found if info.kind is Kind.COMMITTED and info.parent == parent]
    return name

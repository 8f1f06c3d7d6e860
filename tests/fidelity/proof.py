"""Mounts what a snapshotter says of an image, and compares two such mounts."""

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from cvmfsrepo.compare import Difference, compare
from cvmfsrepo.digest import Digest, chain_id
from cvmfsrepo.tree import Entry
from snapshotter.client import Client
from snapshotter.snapshots import Mount
from tests.engines.containerd import Containerd
from tests.mounting import mounted

CRI_NAMESPACE = "k8s.io"


class Viewer(Protocol):
    """Anything that speaks the snapshots API."""

    def view(self, key: str, parent: str, labels: dict[str, str]) -> tuple[Mount, ...]: ...
    def remove(self, key: str) -> None: ...


@contextlib.contextmanager
def viewed(snapshots: Viewer, name: str) -> Iterator[Path]:
    """A committed snapshot, mounted read-only."""
    key = f"proof-{name}"
    (mount,) = snapshots.view(key, name, {"containerd.io/gc.root": "proof"})
    try:
        with (
            tempfile.TemporaryDirectory(prefix="proof-") as target,
            mounted(mount.type, mount.source, Path(target), mount.options) as root,
        ):
            yield root
    finally:
        snapshots.remove(key)


@contextlib.contextmanager
def image_of(containerd: Containerd, diff_ids: Sequence[Digest], namespace: str = CRI_NAMESPACE) -> Iterator[Path]:
    """The root file system of an image that containerd has, as its own snapshots API says how to mount it."""
    with (
        Client(containerd.socket, containerd.snapshotter_name, namespace) as client,
        viewed(client, str(chain_id(diff_ids))) as root,
    ):
        yield root


def differences_of_image(
    expected: Containerd, found: Containerd, diff_ids: Sequence[Digest], undated: Collection[bytes] | None = None
) -> list[Difference]:
    """Every difference between the root file systems that two engines made of one image."""
    with image_of(expected, diff_ids) as left, image_of(found, diff_ids) as right:
        return compare(left, right, ignore=undated_directories(undated))


def undated_directories(paths: Collection[bytes] | None) -> Callable[[Entry, str], bool]:
    """Leaves out the times of directories that a tar did not list, for a pull gives them its own time: those of
    `paths`, or, where they are not known, those of all directories."""

    def ignore(entry: Entry, field: str) -> bool:
        return field == "mtime" and entry.is_directory and (paths is None or entry.path in paths)

    return ignore

"""A snapshotter put together by hand, so that a test can stand in for the repository or look at one part."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import Layout
from cvmfsrepo.outline import Outline
from cvmfsrepo.repository import Layer, Missing, Repository
from snapshotter.database import open_database
from snapshotter.disk import Disk
from snapshotter.metastore import Metastore
from snapshotter.mounts import MountOptions
from snapshotter.remote import RemoteLayers
from snapshotter.root import DATABASE, locked_root
from snapshotter.shimstore import ShimStore
from snapshotter.snapshotter import Snapshotter
from tests.snapshotter.layers import NAME


@dataclass(frozen=True, slots=True)
class Node:
    """The parts of one snapshotter."""

    store: Metastore
    disk: Disk
    shims: ShimStore
    verbs: Snapshotter


@contextmanager
def node(root: Path, *repositories: Repository, deadline: float = 5.0) -> Iterator[Node]:
    """A snapshotter over any repositories, without the sweep at the start."""
    with locked_root(root):
        store, disk, shims = open_database(root / DATABASE), Disk(root), ShimStore(root)
        try:
            served = [GuardedRepository(repository, deadline) for repository in repositories]
            yield Node(store, disk, shims, Snapshotter(store, disk, RemoteLayers(served, shims), MountOptions()))
        finally:
            store.close()


@dataclass(frozen=True)
class Observed(Repository):
    """A repository that calls `before` ahead of each of its methods, with the method's name."""

    before: Callable[[str], object] = field(default=print, kw_only=True)

    def find_layer(self, digest: Digest) -> Layer | Missing:
        self.before("find_layer")
        return Repository.find_layer(self, digest)

    def find_by_diff_id(self, diff_id: Digest) -> Digest | None:
        self.before("find_by_diff_id")
        return Repository.find_by_diff_id(self, diff_id)

    def find_outline(self, digest: Digest) -> Outline | None:
        self.before("find_outline")
        return Repository.find_outline(self, digest)

    def walk_outline(self, digest: Digest, until: float) -> Outline:
        self.before("walk_outline")
        return Repository.walk_outline(self, digest, until)

    def find_revision(self) -> int | None:
        self.before("find_revision")
        return Repository.find_revision(self)


def observed(root: Path, before: Callable[[str], object]) -> Observed:
    return Observed(NAME, Layout(root), before=before)


class Stall:
    """Holds a repository's method until it is let go, as a network does that answers late."""

    def __init__(self, method: str) -> None:
        self._method = method
        self.reached, self.over = threading.Event(), threading.Event()

    def __call__(self, method: str) -> None:
        if method == self._method:
            self.reached.set()
            assert self.over.wait(30), "nobody let the repository go"


def eventually(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits for what another thread does."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)

"""The demo's stage: everything private, started on entry and taken down on exit."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.engines.busybox import push_pause
from tests.engines.containerd import Containerd
from tests.engines.node import Snapshotter
from tests.engines.registry import Registry
from tests.mounting import fuse_available, standin


@dataclass(frozen=True, slots=True)
class Stage:
    """`repository` is where the publisher writes, `mountpoint` where nodes read; `without_fuse` says why both are
    one plain directory, or nothing."""

    registry: Registry
    sandbox: str
    repository: Path
    mountpoint: Path
    without_fuse: str
    directory: Path

    @contextmanager
    def overlayfs(self, version: str) -> Iterator[Containerd]:
        """A containerd that downloads and unpacks."""
        with Containerd(version, self.sandbox) as containerd:
            yield containerd

    @contextmanager
    def served(self, version: str) -> Iterator[tuple[Snapshotter, Containerd]]:
        """A containerd that runs images from the repository."""
        root = self.directory / "node"
        with (
            Snapshotter(root, self.mountpoint) as snapshotter,
            Containerd(version, self.sandbox, snapshotter.proxy) as c,
        ):
            yield snapshotter, c


@contextmanager
def stage() -> Iterator[Stage]:
    """Registry, repository and mount below a temporary directory."""
    with ExitStack() as held:
        directory = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="cvmfs-demo-")))
        registry = held.enter_context(Registry(directory / "registry"))
        repository, mountpoint = directory / "repository", directory / "cvmfs"
        repository.mkdir()
        without_fuse = fuse_available()
        if without_fuse:
            mountpoint = repository
        else:
            held.enter_context(standin(repository, mountpoint, kcache=60))
        yield Stage(registry, push_pause(registry), repository, mountpoint, without_fuse, directory)

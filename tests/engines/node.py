"""Our own daemon as an engine's neighbour: what a containerd of `containerd` is told of, and what its log says."""

import signal
from pathlib import Path
from typing import Any

from tests.engines.containerd import Proxy
from tests.snapshotter.daemon import Daemon


class Snapshotter(Daemon):
    """`cvmfs-snapshotter serve` on `root`, for the repository at `mountpoint`. `root` stays when it ends."""

    def __init__(
        self, root: Path, mountpoint: Path, *, repository: str = "unpacked.example.org", **config: Any
    ) -> None:
        super().__init__(root, repository=repository, absolute_mountpoint=mountpoint, **config)

    @property
    def proxy(self) -> Proxy:
        """As containerd is told of it."""
        return Proxy(self.address, self.root)

    def end(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        self.signal(with_signal)
        self.wait()

    def events(self, message: str) -> list[dict[str, Any]]:
        """Log lines of one message, oldest first."""
        return [line for line in self.log_lines() if line.get("msg") == message]

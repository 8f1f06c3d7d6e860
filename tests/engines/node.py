"""Our own daemon as a node runs it, with its state and socket in a directory of the test's."""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cvmfsrepo.errors import Unavailable
from snapshotter.client import Client
from tests.engines.containerd import Proxy
from tests.engines.process import Daemon

PROJECT = Path(__file__).resolve().parents[2]


class Snapshotter:
    """`cvmfs-snapshotter serve` on `root`, for the repository at `mountpoint`. `root` stays when it stops."""

    def __init__(
        self, root: Path, mountpoint: Path, *, repository: str = "unpacked.example.org", **settings: Any
    ) -> None:
        self.root, self.mountpoint = root, mountpoint
        self._directory = Path(tempfile.mkdtemp(prefix="snap-", dir="/tmp"))  # short: a socket's path has 107 bytes
        self.address = self._directory / "s.sock"
        self.log = self._directory / "log"
        settings = {"repository": repository, "absolute-mountpoint": str(mountpoint), **settings}
        self._config = self._directory / "config.toml"
        self._config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
        self._daemon: Daemon | None = None

    @property
    def proxy(self) -> Proxy:
        """As containerd is told of it."""
        return Proxy(self.address, self.root)

    @property
    def pid(self) -> int:
        assert self._daemon is not None
        return self._daemon.pid

    def start(self) -> None:
        command = [
            sys.executable, "-m", "snapshotter.cli.main", "serve", "--config", str(self._config),
            "--root", str(self.root), "--address", str(self.address),
        ]  # fmt: skip
        self._daemon = Daemon(command, {**os.environ, "PYTHONPATH": str(PROJECT)}, self.log)
        self._daemon.wait_until(self._is_serving, "serving")

    def end(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        if self._daemon is not None:
            self._daemon.end(with_signal)
            self._daemon = None

    def restart(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        self.end(with_signal)
        self.start()

    def client(self) -> Client:
        return Client(self.address)

    def events(self, message: str) -> list[dict[str, Any]]:
        """Log lines of one message, oldest first."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["msg"] == message]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()
        for path in (self.address, self.log, self._config):
            path.unlink(missing_ok=True)
        self._directory.rmdir()

    def _is_serving(self) -> bool:
        if not self.address.exists():
            return False
        try:
            with self.client() as client:
                next(client.walk(["name==none"]), None)
        except Unavailable:
            return False
        return True

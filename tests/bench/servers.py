"""The two snapshotters that are compared: each a process with a root and a socket of its own."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cvmfsrepo.errors import NotFound
from snapshotter.client import Client
from tests.engines.process import Daemon
from tests.peers import build


@dataclass(frozen=True, slots=True)
class Program:
    """How a snapshotter is started; the words ROOT and ADDR of its command are replaced."""

    name: str
    command: Sequence[str]


def overlayfs() -> Program:
    """containerd's own, behind a socket."""
    return Program("overlayfs", [str(build.program(build.OVERLAY)), "-root", "ROOT", "-address", "ADDR"])


def ours(settings: Path, repository: Path) -> Program:
    """Our daemon, serving `repository`; its configuration is written to `settings`."""
    settings.write_text(
        f'repository = "unpacked.example.org"\nabsolute-mountpoint = "{repository}"\nlog-level = "error"\n'
    )
    program = Path(sys.executable).with_name("cvmfs-snapshotter")
    command = [str(program), "serve", "--config", str(settings), "--root", "ROOT", "--address", "ADDR"]
    return Program("ours", command)


class Server:
    """A running snapshotter; `directory` has a short name, for the socket is in it."""

    def __init__(self, program: Program, directory: Path) -> None:
        self.name = program.name
        self.directory = directory
        self.root = directory / "root"
        self.address = directory / "s"
        self._command = [{"ROOT": str(self.root), "ADDR": str(self.address)}.get(w, w) for w in program.command]
        self._daemon: Daemon | None = None

    def start(self) -> float:
        """Seconds from the start of the process to its first answer."""
        self.directory.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        self._daemon = Daemon(self._command, os.environ, self.directory / "log")
        self._daemon.wait_until(self._listens_soon, "listening")
        with Client(self.address) as client, contextlib.suppress(NotFound):
            client.stat("nothing")
        return time.monotonic() - began

    def stop(self) -> None:
        if self._daemon:
            self._daemon.end(signal.SIGTERM)
            self._daemon = None

    def resident(self) -> int:
        """Bytes of memory that the process has now."""
        assert self._daemon is not None
        status = Path(f"/proc/{self._daemon.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _listens_soon(self) -> bool:
        """Looks each millisecond for half a second; whether the process still lives is looked at less often."""
        for _ in range(500):
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.address)) == 0:
                    return True
            time.sleep(0.001)
        return False

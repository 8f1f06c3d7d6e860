"""The snapshotter as a process of its own: started on a state directory, killed, started again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from snapshotter.client import Client

START_SECONDS = 20.0
STOP_SECONDS = 20.0
_PROGRAM = "from snapshotter.cli.main import main; main()"


class DaemonError(Exception):
    """The daemon did not start; the text is its own last words."""


class Daemon:
    """A context manager around `cvmfs-snapshotter serve`. Socket, configuration and log stand in a directory of
    their own with a short name; `config` are the keys of the configuration file, with underscores, and `tables` is TOML
    behind them."""

    def __init__(self, root: Path, **config: object) -> None:
        self._own = Path(tempfile.mkdtemp(prefix="cv-", dir="/tmp"))
        self.root = root
        self.log = self._own / "log"
        self.address = Path(str(config.pop("address", self._own / "run" / "s.sock")))
        tables = str(config.pop("tables", ""))
        self._config = self._own / "config.toml"
        self._config.write_text("".join(f"{_toml(key, value)}\n" for key, value in config.items()) + tables)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def configuration(self) -> Path:
        """Its configuration file, which it reads at its start and at SIGHUP."""
        return self._config

    @property
    def pid(self) -> int:
        return self._running.pid

    def start(self) -> None:
        """Returns when it serves; DaemonError when it ended instead."""
        with self.log.open("ab") as log:
            before = log.tell()
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while b'"msg": "serving"' not in (said := self.log.read_bytes()[before:]):
            if self._process.poll() is not None:
                raise DaemonError(f"exit status {self._process.returncode}: {said.decode()}")
            if time.monotonic() > deadline:
                raise DaemonError(f"does not serve after {START_SECONDS} s: {said.decode()}")
            time.sleep(0.01)

    def command(self) -> Sequence[str]:
        """How it is started; a subclass may confine it."""
        return (sys.executable, "-c", _PROGRAM, "serve", *self.arguments())

    def arguments(self) -> Sequence[str]:
        """The options of its command line."""
        return ("--config", f"{self._config}", "--root", f"{self.root}", "--address", f"{self.address}")

    def client(self) -> Client:
        """A new connection."""
        return Client(self.address)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._running.send_signal(number)

    def wait(self) -> int:
        """Its exit status, once it ended."""
        return self._running.wait(STOP_SECONDS)

    def stop(self) -> int:
        self.signal()
        return self.wait()

    def kill9(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def restart(self) -> None:
        """Ends it if it runs, and starts it on the same state."""
        if self._running.poll() is None:
            self.stop()
        self.start()

    def log_lines(self) -> list[dict[str, Any]]:
        """The events so far; what is no JSON line is one under the key `text`."""
        return list(_parsed(self.log.read_text().splitlines()))

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._own)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise DaemonError("was never started")
        return self._process


def refusal(root: Path, **config: object) -> str:
    """What a daemon says that must not start: one line, and exit status 1."""
    with pytest.raises(DaemonError) as raised, Daemon(root, **config):
        pass
    said = str(raised.value)
    lines = [line for line in said.splitlines() if not line.startswith("{")]
    assert said.startswith("exit status 1: "), said
    assert len(lines) == 1, said
    return lines[0]


def _parsed(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            yield {"text": line}


def _toml(key: str, value: object) -> str:
    text = (
        str(value)
        if isinstance(value, int | float)
        else json.dumps(os.fspath(value) if isinstance(value, Path) else value)
    )
    return f"{key.replace('_', '-')} = {text}"

"""Processes that tests start: each has a log file, is awaited with a deadline, and is ended by its own pid."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

GRACE = 15.0
"""Seconds between asking a process to end and killing it."""


class EngineError(Exception):
    """An engine did not do what a test needs; the text ends with the engine's own last words."""


class Daemon:
    """One long-running program, whose output goes to ``log``."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = Path(command[0]).name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool], what: str, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            if self._process.poll() is not None:
                raise EngineError(f"{self.name} {self.pid}: ended with {self._process.returncode}: {tail(self.log)}")
            if time.monotonic() > deadline:
                raise EngineError(f"{self.name} {self.pid}: not {what} within {timeout} s: {tail(self.log)}")
            time.sleep(0.02)

    def end(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Ask, wait, and kill what does not listen. An ended one is left in peace."""
        if self._process.poll() is None:
            self._process.send_signal(with_signal)
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(GRACE)


def tail(log: Path, size: int = 3000) -> str:
    return log.read_text(errors="replace")[-size:] if log.exists() else f"no log {str(log)!r}"


def find_processes(argument: str) -> list[int]:
    """Processes with exactly this argument in their command line: a path that only ours can name."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it ended
                continue
            if os.fsencode(argument) in arguments:
                found.append(int(entry.name))
    return found


def walk_descendants(pid: int) -> Iterator[int]:
    """Children before their parents."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:  # it ended
            continue
        for child in children:
            yield from walk_descendants(int(child))
            yield int(child)


def kill(pids: Sequence[int], timeout: float = GRACE) -> None:
    """Kill, and wait until they are gone or wait to be reaped by their parent."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and any(_is_alive(pid) for pid in pids):
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"

"""Stand-in repositories for tests: served, made to misbehave, and gone when their block ends, come what may."""

import ctypes.util
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.engines import debs
from tests.unmounting import abort, connection_at, detach, mounts_at

PROJECT = Path(__file__).resolve().parents[1]
START_SECONDS = 30.0
STOP_SECONDS = 10.0
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Operations since the start or the last reset: by name, and by path (as os.fsdecode gives it) and name."""

    operations: dict[str, int]
    paths: dict[str, dict[str, int]]


@dataclass(slots=True)
class Standin:
    """A repository that `source` is served as on `mountpoint`. Paths in it begin with / at its root."""

    source: Path
    mountpoint: Path
    control: Path
    arguments: Sequence[str]
    stop_seconds: float = STOP_SECONDS
    patience: float = PATIENCE_SECONDS
    """A stall for ever or a frozen client that nobody ended by then is ended by killing the client: a test's own call
    may hang in it, where neither a signal nor pytest's time limit reaches it. `stop` says so then."""
    _clients: list[tuple[subprocess.Popen[bytes], int]] = field(default_factory=list)
    """Each process that served, with the number of its FUSE connection; the last serves now."""
    _watchdog: threading.Timer | None = None
    _lost_patience: bool = False

    @property
    def command(self) -> list[str]:
        """What a client is started with, in `environment`."""
        places = [os.fspath(self.source), os.fspath(self.mountpoint)]
        return [sys.executable, "-m", "cvmfsrepo.standin", *places, *self.arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **fuse_environment(), "PYTHONPATH": str(PROJECT)}

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self._clients[-1][0]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def connection(self) -> int:
        """Number of the FUSE connection, in /sys/fs/fuse/connections."""
        return self._clients[-1][1]

    def counters(self) -> Counts:
        said = self.ask({"do": "counters"})
        return Counts(said["operations"], said["paths"])

    def reset(self) -> None:
        """Count from nothing; a `release` or `releasedir` of something closed just before may still come in."""
        self.ask({"do": "reset"})

    def fault(
        self, kind: str, path: str = "/", seconds: float | None = None, operations: Iterable[str] | None = None
    ) -> None:
        """Switch a fault on for `path` and all below it, `*` standing for whatever is in one name; several may be on.

        `stall` (`seconds`: how long this outage lasts, for all calls together; None: until `clear`), `slow`
        (`seconds` more for each lookup, of which an uncached stat of a name makes two), `catalog` (path can be
        stat'ed; its listing and every name in it are EIO), `eio`, `enotconn`, `estale`, `eacces` (`seconds` until
        the error comes). `operations` (getattr, which is also lookup, opendir, readdir, open, read, readlink, getxattr,
        listxattr, statfs) narrows it: a stall of `opendir` is a good stat and a listing that hangs.
        """
        if kind == "stall" and seconds is None:
            self._watch()
        asked = {"do": "fault", "kind": kind, "path": path, "seconds": seconds}
        self.ask(asked if operations is None else asked | {"operations": list(operations)})

    def clear(self, path: str | None = None) -> None:
        """Switch off the faults that were switched on with exactly this path, or all; held calls are answered."""
        self.ask({"do": "clear"} if path is None else {"do": "clear", "path": path})
        if path is None:
            self._unwatch()

    def held(self) -> int:
        """Calls that a fault holds now."""
        answer: int = self.ask({"do": "held"})["held"]
        return answer

    def wait_until_held(self, calls: int, seconds: float = 10.0) -> None:
        """Until so many calls are held at least."""
        deadline = time.monotonic() + seconds
        while (held := self.held()) < calls:
            if time.monotonic() > deadline:
                raise TimeoutError(f"stand-in holds {held} calls after {seconds:g} s, not {calls}")
            time.sleep(0.01)

    def publish(
        self, revision: int | None = None, hide: Iterable[str] = (), show: Iterable[str] = (), after: float = 0.0
    ) -> None:
        """A new revision (the next, if none is named), seen when `after` seconds have passed, the catalog's TTL:
        paths hidden from view or shown again, the source untouched; what the kernel remembered is dropped then."""
        self.ask({"do": "publish", "revision": revision, "hide": list(hide), "show": list(show), "after": after})

    def set_revision(self, revision: int) -> None:
        self.publish(revision)

    def vanish(self) -> None:
        """Unmount as `umount -l` does: the mountpoint is an empty directory; what is held keeps working, and the client
        ends with the last holder."""
        detach(self.mountpoint)

    def kill(self) -> None:
        """The client dies: its mount stays, and everything on it, held or not, answers ENOTCONN, but for the stat of a
        name that the kernel remembers, which answers as before, ENOENT too."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """The client hangs whole, as in a debugger: nothing answers, its control socket neither. `thaw` ends it.

        SIGSTOP reaches one thread after the other, and on a busy machine one of them may still serve a call that comes
        later: so this returns only when all stand still.
        """
        self._watch()
        self.process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + START_SECONDS
        while not stands_still(self.process.pid):
            if time.monotonic() > deadline:
                raise TimeoutError(f"stand-in of {str(self.source)!r}: still runs {START_SECONDS:g} s after SIGSTOP")
            time.sleep(0.005)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self._unwatch()

    def reappear(self) -> None:
        """Mount it again after `vanish` or `kill` (a dead mount is taken away first: none can be put over it): a new
        client with no faults, everything shown, the revision of the start, and counters at zero."""
        detach(self.mountpoint)
        self.start()

    def start(self) -> None:
        """Start a client and wait for its mount."""
        with tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen(self.command, env=self.environment, stderr=stderr)
            self._clients.append((process, -1))
            deadline = time.monotonic() + START_SECONDS
            while not mounts_at(self.mountpoint):
                if process.poll() is not None or time.monotonic() > deadline:
                    stderr.seek(0)
                    said = stderr.read().decode(errors="replace").strip()
                    raise OSError(f"stand-in of {str(self.source)!r}: did not start: {said}")
                time.sleep(0.01)
        self._clients[-1] = (process, connection_at(self.mountpoint))

    def ask(self, request: object) -> dict[str, Any]:
        """One request on the control socket; a refusal raises."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_SECONDS)
            connection.connect(str(self.control))
            with connection.makefile("rwb") as stream:
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                said: dict[str, Any] = json.loads(stream.readline())
        if "error" in said:
            raise ValueError(said["error"])
        return said

    def stop(self) -> None:
        """SIGTERM and wait; a client that this does not end is killed, its connection aborted, and that is said."""
        self._unwatch()
        late: subprocess.TimeoutExpired | None = None
        for process, connection in reversed(self._clients):
            process.terminate()
            try:
                process.wait(self.stop_seconds)
            except subprocess.TimeoutExpired as error:
                late = error
                process.kill()
                abort(connection)  # one of its threads may hang in its own mount, where no signal reaches it
                process.wait()
            detach(self.mountpoint)
        if late:
            raise late
        if self._lost_patience:
            self._lost_patience = False
            raise TimeoutError(
                f"stand-in of {str(self.source)!r}: killed after {self.patience:g} s of stalling; clear it"
            )

    def _watch(self) -> None:
        self._unwatch()
        self._watchdog = threading.Timer(self.patience, self._lose_patience, [self.process])
        self._watchdog.daemon = True
        self._watchdog.start()

    def _unwatch(self) -> None:
        if self._watchdog:
            self._watchdog.cancel()

    def _lose_patience(self, process: subprocess.Popen[bytes]) -> None:
        self._lost_patience = True
        process.kill()


def stands_still(process: int) -> bool:
    """Whether every thread of a process is stopped (state T of proc(5)'s stat)."""
    states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{process}/task").glob("*/stat")]
    return bool(states) and set(states) == {"T"}


@contextmanager
def standin(
    source: Path,
    mountpoint: Path,
    *,
    fqrn: str = "unpacked.example.org",
    revision: int = 1,
    claim: tuple[int, int] | None = None,
    whole_seconds: bool = False,
    kcache: float = 0.0,
    negative: float = 0.0,
    workers: int | None = None,
) -> Iterator[Standin]:
    """Serve `source` on `mountpoint` (made if missing).

    The kernel remembers nothing unless `kcache` and, for names that do not exist, `negative` say so: a change in the
    source is seen at once and the counters count every access. A walk of 50,000 entries takes 10 s so and 5 s (again:
    2 s) with 60, the real client's value for both. `workers` bounds the calls that are served at one time.
    """
    mountpoint.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="standin-") as own:  # not below tmp_path: 108 bytes are all a socket has
        control = Path(own, "control")
        arguments = ["--fqrn", fqrn, "--revision", str(revision), "--kcache", str(kcache), "--negative", str(negative)]
        arguments += ["--control", str(control), "--parent", str(os.getpid())]
        arguments += ["--claim", f"{claim[0]}:{claim[1]}"] if claim else []
        arguments += ["--whole-seconds"] if whole_seconds else []
        arguments += ["--workers", str(workers)] if workers else []
        running = Standin(source, mountpoint, control, arguments)
        try:
            running.start()
            yield running
        finally:
            running.stop()


@functools.cache
def fuse_environment() -> dict[str, str]:
    """What a process that imports fusepy needs in its environment; fetches libfuse2 where the host has none."""
    if "FUSE_LIBRARY_PATH" in os.environ or ctypes.util.find_library("fuse"):
        return {}
    return {"FUSE_LIBRARY_PATH": str(debs.fuse_library())}

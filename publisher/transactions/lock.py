"""One publisher at a time: a lock that the kernel takes back from whoever dies, with a word about who holds it."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cvmfsrepo.errors import Unavailable

_STEP = 0.2
"""Seconds between two looks at a lock that is held."""


Stopped = Callable[[], bool]
"""Whether whoever waits is to end."""


def never() -> bool:
    """Nobody ends what waits."""
    return False


@contextmanager
def held(path: Path, name: str, wait: float = 0, stopped: Stopped = never, thing: str = "repository") -> Iterator[None]:
    """Holds the lock file `path`, which is made where it is missing, for the block. Unavailable, about the `thing` of
    this `name`, where another process has it for longer than `wait` seconds, or until `stopped`."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(lock, name, wait, stopped, thing)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def _take(lock: int, name: str, wait: float, stopped: Stopped, thing: str) -> None:
    until = time.monotonic() + wait
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until or stopped():
                raise _taken(lock, name, wait, thing) from None
        time.sleep(_STEP)


def _taken(lock: int, name: str, wait: float, thing: str) -> Unavailable:
    holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
    problem = f"is in use by another publisher, process {holder}" + (f", for {wait:g} s now" if wait else "")
    return Unavailable(thing, name, problem, "wait until it has ended")

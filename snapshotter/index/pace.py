"""Visits to a repository that are in nobody's way: one at a time, so many a second, and only while it is healthy.

A visit runs as other work for later does: nobody's deadline counts from it, and the breaker hears nothing of it. One
that hangs is waited for, for what hangs now answers later or never, and then another mount takes its place.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from cvmfsrepo.errors import ContractError
from cvmfsrepo.guarded import GuardedRepository

T = TypeVar("T")

_STEP = 0.05
"""Seconds between two looks whether to go on waiting."""


class Stopped(Exception):
    """The daemon ends."""


class Moved(Exception):
    """Something else is mounted there: what was read of the last mount does not go with what comes now."""


class Pace:
    """Of one repository. `rate` is in visits a second; `stop` ends all waiting."""

    def __init__(self, repository: GuardedRepository, rate: float, stop: threading.Event) -> None:
        self._repository, self._rate, self._stop = repository, rate, stop
        self._next = 0.0
        self._waiting_since: float | None = None

    @property
    def problem(self) -> str:
        """Why nothing goes on now, or ""."""
        since = self._waiting_since
        seconds = time.monotonic() - since if since is not None else 0.0
        return f"no answer for {seconds:.0f} s" if seconds > self._repository.deadline else ""

    def visit(self, work: Callable[[], T]) -> T:
        """What `work()` answers, or its OSError or ContractError; Stopped, Moved."""
        self._await_turn()
        mounts, self._waiting_since = self._repository.mounts, time.monotonic()
        try:
            while True:
                visit = _Visit(work)
                self._repository.later(visit.run)
                self._await_end(visit, mounts)
                if visit.done.is_set():
                    return visit.result()
        finally:
            self._waiting_since = None

    def sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _await_turn(self) -> None:
        now = time.monotonic()
        self._next = max(now, self._next + 1 / self._rate)
        if self._next > now or self._stop.is_set():
            self.sleep(self._next - now)

    def _await_end(self, visit: "_Visit[T]", mounts: int) -> None:
        """Returns when it is done, or will never begin: an unhealthy repository takes no work for later."""
        give_up = time.monotonic() + self._repository.deadline
        while not visit.done.wait(_STEP):
            if self._stop.is_set():
                raise Stopped
            if self._repository.mounts != mounts:
                raise Moved
            if time.monotonic() > give_up and visit.cancel():
                return


class _Visit(Generic[T]):
    """One piece of work and its outcome."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._began = self._cancelled = False
        self._answer: list[T] = []
        self._error: OSError | ContractError | None = None
        self.done = threading.Event()

    def run(self) -> None:
        """Does the work, unless nobody wants it any more, and keeps its outcome."""
        with self._lock:
            if self._cancelled:
                return
            self._began = True
        try:
            self._answer.append(self._work())
        except (OSError, ContractError) as error:
            self._error = error
        finally:
            self.done.set()

    def cancel(self) -> bool:
        """Whether it had not begun, and never will."""
        with self._lock:
            self._cancelled = not self._began
            return self._cancelled

    def result(self) -> T:
        if self._error:
            raise self._error
        (answer,) = self._answer
        return answer

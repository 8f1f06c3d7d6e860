"""The only place that may wait for a repository: a deadline around calls that may hang in the kernel.

A stat on CVMFS is network I/O; on a dead client it may never return, and no signal ends it. So each call runs on a
thread of a small pool, and the caller waits no longer than the deadline. A thread that is stuck then is lost: another
may take its place, and when it does come back it ends. The lost are bounded too: beyond `lost_limit` of them every call
fails at once. Threads are daemons: they never keep the process from ending.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class DeadlineExpired(Exception):
    """The repository did not answer in time."""


class Access:
    """Calls with a deadline. `deadline` is in seconds; at most `workers` calls that are not lost run at one time."""

    def __init__(self, deadline: float = 5.0, workers: int = 16, lost_limit: int = 128) -> None:
        self.deadline = deadline
        self._workers, self._lost_limit = workers, lost_limit
        self._changed = threading.Condition()
        self._calls = deque[_Call[Any]]()
        self._threads = 0
        self._idle = 0
        self._lost = 0

    @property
    def lost(self) -> int:
        """Threads that hang in the kernel, with nobody waiting for them any more."""
        return self._lost

    def call(self, work: Callable[[], T]) -> T:
        """The result of `work()` or its exception; DeadlineExpired when it takes longer than the deadline."""
        (result,) = self.call_all([work])
        return result()

    def call_all(self, works: Sequence[Callable[[], T]]) -> list[Callable[[], T]]:
        """Runs them side by side under one deadline. Each answer is a function that gives the result of its `work()`
        or raises its exception, or DeadlineExpired."""
        end = time.monotonic() + self.deadline
        calls = [self._put(work) for work in works]
        return [self._outcome(call, end) for call in calls]

    def later(self, work: Callable[[], object]) -> None:
        """Runs `work()` when a thread is free; nobody waits, so OSError only means that it was not to be had."""
        self._put(work)

    def _outcome(self, call: "_Call[T]", end: float) -> Callable[[], T]:
        if not call.done.wait(max(0.0, end - time.monotonic())):
            self._abandon(call)
        return lambda: call.result(self.deadline)

    def _put(self, work: Callable[[], T]) -> "_Call[T]":
        call = _Call(work)
        with self._changed:
            if self._lost >= self._lost_limit:
                raise DeadlineExpired(f"{self._lost} calls hang in it already; restart this daemon, containers run on")
            self._calls.append(call)
            if self._idle < len(self._calls) and self._threads < self._workers:
                threading.Thread(target=self._work, name="repository", daemon=True).start()
                self._threads += 1
            self._changed.notify()
        return call

    def _abandon(self, call: "_Call[Any]") -> None:
        """Nobody waits any more: a call that no thread has taken is dropped, the thread of another is lost."""
        with self._changed:
            if call.done.is_set():
                return
            if call in self._calls:
                self._calls.remove(call)
            else:
                call.lost = True
                self._threads -= 1
                self._lost += 1

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._calls)
                self._idle -= 1
                call = self._calls.popleft()
            call.run()
            with self._changed:
                call.done.set()
                if call.lost:
                    self._lost -= 1
                    return


class _Call(Generic[T]):
    """One piece of work and its outcome; `lost` when its thread was given up."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._value: T | None = None
        self._error: BaseException | None = None
        self.done = threading.Event()
        self.lost = False

    def run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:  # noqa: BLE001 - the waiting caller raises it
            self._error = error

    def result(self, deadline: float) -> T:
        if not self.done.is_set() or self.lost:
            raise DeadlineExpired(f"no answer within {deadline:g} s")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

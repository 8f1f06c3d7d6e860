"""The only place that may wait for a repository: a deadline around calls that may hang in the kernel.

A stat on CVMFS is network I/O; on a dead client it may never return, and no signal ends it. So each call runs on a
thread of a small pool, and the caller waits no longer than the deadline. A stuck thread is left behind; the pool is
bounded, and when all its threads are stuck a call fails at its deadline without a new one. Threads are daemons: they
never keep the process from ending.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class DeadlineExpired(Exception):
    """The repository did not answer in time."""


class Access:
    """Calls with a deadline. `deadline` is in seconds; at most `workers` calls run at one time."""

    def __init__(self, deadline: float = 5.0, workers: int = 16) -> None:
        self.deadline = deadline
        self._workers = workers
        self._changed = threading.Condition()
        self._calls = deque[_Call[Any]]()
        self._threads = 0
        self._idle = 0

    def call(self, work: Callable[[], T]) -> T:
        """The result of `work()` or its exception; DeadlineExpired when it takes longer than the deadline."""
        call = self._put(work)
        if not call.done.wait(self.deadline):
            self._abandon(call)
            raise DeadlineExpired(f"no answer within {self.deadline:g} s")
        return call.result()

    def later(self, work: Callable[[], object]) -> None:
        """Runs `work()` when a thread is free; nobody waits, so OSError only means that it was not to be had."""
        self._put(work)

    def _put(self, work: Callable[[], T]) -> "_Call[T]":
        call = _Call(work)
        with self._changed:
            self._calls.append(call)
            if self._idle < len(self._calls) and self._threads < self._workers:
                threading.Thread(target=self._work, name="repository", daemon=True).start()
                self._threads += 1
            self._changed.notify()
        return call

    def _abandon(self, call: "_Call[Any]") -> None:
        """A call that no thread has taken yet is not run any more, and waits in no queue."""
        with self._changed:
            if call in self._calls:
                self._calls.remove(call)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._calls)
                self._idle -= 1
                call = self._calls.popleft()
            call.run()


class _Call(Generic[T]):
    """One piece of work and its outcome."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._value: T | None = None
        self._error: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:  # noqa: BLE001 - the waiting caller raises it
            self._error = error
        self.done.set()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

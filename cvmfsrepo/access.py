"""The only place that may wait for a repository: a deadline around calls that may hang in the kernel.

A stat on CVMFS is network I/O; on a dead client it may never return, and no signal ends it. So each call runs on a
thread of a small pool, and the caller waits no longer than the deadline. A thread that is stuck then is lost: another
may take its place, and when it does come back it ends. The lost are bounded too: beyond `lost_limit` of them every call
fails at once. Threads are daemons: the interpreter does not wait for them. (The kernel does, where a FUSE server has
taken a call and does not answer it: such a process stays as a zombie until it does.)
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class DeadlineExpired(Exception):
    """The repository did not answer in time."""


class Crowded(DeadlineExpired):
    """A thread was free late or never: many calls at one time, which says nothing about the repository."""


class Access:
    """Calls with a deadline. `deadline` is in seconds; at most `workers` calls that are not lost run at one time."""

    def __init__(self, deadline: float = 5.0, workers: int = 16, lost_limit: int = 128) -> None:
        self.deadline = deadline
        self._workers, self._lost_limit = workers, lost_limit
        self._changed = threading.Condition()
        self._calls = deque[_Call[Any]]()
        self._unattended = set[_Call[Any]]()
        self._threads = 0
        self._idle = 0
        self._lost = 0

    @property
    def lost(self) -> int:
        """Threads that hang in the kernel, with nobody waiting for them any more."""
        return self._lost

    def call(self, work: Callable[[], T], until: float | None = None) -> T:
        """The result of `work()` or its exception; DeadlineExpired when it takes longer than the deadline, or than to
        the moment `until` (of time.monotonic)."""
        (result,) = self.call_all([work], until)
        return result()

    def call_all(self, works: Sequence[Callable[[], T]], until: float | None = None) -> list[Callable[[], T]]:
        """Runs them side by side under one deadline. Each answer is a function that gives the result of its `work()`
        or raises its exception, or DeadlineExpired."""
        end = time.monotonic() + self.deadline if until is None else until
        calls = [self._put(work) for work in works]
        return [self._outcome(call, end) for call in calls]

    def later(self, work: Callable[[], object]) -> None:
        """Runs `work()` when a thread is free; nobody waits, so what it raises only means that it was not to be had.
        It may take longer than the deadline, and its thread is then lost until it is done."""
        self._put(work, attended=False)

    def _outcome(self, call: "_Call[T]", end: float) -> Callable[[], T]:
        if not call.done.wait(max(0.0, end - time.monotonic())):
            self._abandon(call)
        return lambda: call.result(self.deadline)

    def _put(self, work: Callable[[], T], attended: bool = True) -> "_Call[T]":
        call = _Call(work, attended)
        with self._changed:
            if self._lost >= self._lost_limit:
                problem = f"{self._lost} calls hang in it already; restart this daemon, containers run on"
                call.refuse(DeadlineExpired(problem))
                return call
            self._calls.append(call)
            if self._idle < len(self._calls):
                self._replace_overdue()
                if self._threads < self._workers:
                    threading.Thread(target=self._work, name="repository", daemon=True).start()
                    self._threads += 1
            self._changed.notify()
        return call

    def _replace_overdue(self) -> None:
        """Gives up threads that nobody waits for and that take longer than the deadline."""
        latest = time.monotonic() - self.deadline
        for call in [call for call in self._unattended if call.began < latest]:
            self._lose(call)

    def _lose(self, call: "_Call[Any]") -> None:
        self._unattended.discard(call)
        call.lost, call.ran = True, time.monotonic() - call.began
        self._threads -= 1
        self._lost += 1

    def _abandon(self, call: "_Call[Any]") -> None:
        """Nobody waits any more: a call that no thread has taken is dropped, the thread of another is lost."""
        with self._changed:
            if call.done.is_set():
                return
            if call in self._calls:
                self._calls.remove(call)
            else:
                self._lose(call)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._calls)
                self._idle -= 1
                call = self._calls.popleft()
                call.began = time.monotonic()
                if not call.attended:
                    self._unattended.add(call)
            call.run()
            with self._changed:
                self._unattended.discard(call)
                call.done.set()
                if call.lost:
                    self._lost -= 1
                    return


class _Call(Generic[T]):
    """One piece of work and its outcome; `attended` where somebody waits for it, `began` of time.monotonic() once a
    thread has taken it, `lost` when that thread was given up after it `ran` for so many seconds."""

    def __init__(self, work: Callable[[], T], attended: bool = True) -> None:
        self._work = work
        self._value: T | None = None
        self._error: BaseException | None = None
        self.attended = attended
        self._put, self.began, self.ran = time.monotonic(), float("inf"), 0.0
        self.done = threading.Event()
        self.lost = False

    def run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:  # noqa: BLE001 - the waiting caller raises it
            self._error = error

    def refuse(self, error: DeadlineExpired) -> None:
        """The outcome without a run."""
        self._error = error
        self.done.set()

    def result(self, deadline: float) -> T:
        if self.lost and self.ran >= self.began - self._put:
            raise DeadlineExpired(f"no answer within {deadline:g} s")
        if self.lost or not self.done.is_set():
            raise Crowded(f"too many calls at one time: no thread was free early enough within {deadline:g} s")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

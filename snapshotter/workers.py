"""Runs calls on as few threads as it takes.

Python runs one thread at a time, and passing that right on takes longer than most calls: with a thread for each call a
busy server takes twice the processor's time. So a few threads run all calls, and each takes the next one without
sleeping. But a call may wait, for a repository or for the removal of a large tree, and others must not wait behind it:
when calls are queued and none was taken for a moment, each of them gets a thread. As many as the few stay idle beside
the stuck ones then, so that the next calls find one at once.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 0.02
"""Seconds within which one of the queued calls must be taken."""


class Workers(Executor):
    """`few` threads; up to `many` while calls are stuck. A call handles its own exceptions. The threads are daemons,
    so that a call which never ends does not keep the process."""

    def __init__(self, few: int, many: int) -> None:
        self._few, self._many = few, many
        self._calls = deque[tuple[Future[Any], Callable[[], Any]]]()
        self._changed = threading.Condition(threading.Lock())
        self._queued = threading.Event()
        self._threads = self._idle = self._taken = 0
        threading.Thread(target=self._watch, name="calls", daemon=True).start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queues a call."""
        future = Future[T]()
        with self._changed:
            self._calls.append((future, lambda: fn(*args, **kwargs)))
            if self._idle >= len(self._calls):
                self._changed.notify()
            elif self._threads < self._few:
                self._start()
            else:
                self._queued.set()
        return future

    def _start(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, name="call", daemon=True).start()

    def _work(self) -> None:
        try:
            while taken := self._take():
                future, call = taken
                future.set_result(call())
        finally:
            with self._changed:
                self._threads -= 1

    def _take(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """The next call, waited for; None where there is none and enough others wait for one."""
        with self._changed:
            while not self._calls:
                if self._idle >= self._few:
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            self._taken += 1
            return self._calls.popleft()

    def _watch(self) -> None:
        while self._queued.wait():
            before = self._taken
            time.sleep(PATIENCE)
            with self._changed:
                if not self._calls:
                    self._queued.clear()
                elif self._taken == before:
                    for _ in range(min(len(self._calls), self._many - self._threads)):
                        self._start()

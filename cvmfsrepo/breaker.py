"""The health of a repository, from how its calls go. Pure but for a lock: it is told, and it answers.

- *healthy*: the last answers came, and in time.
- *degraded*: some calls fail or hang; the next ones are tried.
- *open*: calls about so many layers in a row hung that nothing is tried any more, for each would cost its caller a
  whole deadline. Only a probe closes it again.

An answer such as "no such layer" is an answer. An error that takes long (a CVMFS client gives up on a silent server
after many seconds) counts as a hang.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

SLOW = 1.0
"""Seconds after which an error counts as a hang."""


class State(StrEnum):
    """See above."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Health:
    """`since` is of time.monotonic(); `detail` says what went wrong last, "" while healthy."""

    state: State
    since: float
    detail: str = ""


class Breaker:
    """Opens after hangs about `threshold` different things in a row."""

    def __init__(self, threshold: int = 3, clock: Callable[[], float] = time.monotonic) -> None:
        self._threshold, self._clock = threshold, clock
        self._lock = threading.Lock()
        self._hangs = set[object]()
        self._health = Health(State.HEALTHY, clock())

    @property
    def health(self) -> Health:
        return self._health

    def answered(self) -> None:
        """A call had its answer. While open this changes nothing: a straggler is no proof."""
        with self._lock:
            if self._health.state is not State.OPEN:
                self._hangs.clear()
                self._turn(State.HEALTHY, "")

    def failed(self, detail: str, seconds: float = 0.0, about: object = None) -> None:
        """A call had an error of the file system as its answer, after so many seconds."""
        if seconds >= SLOW:
            self.hung(detail, about)
            return
        with self._lock:
            if self._health.state is not State.OPEN:
                self._turn(State.DEGRADED, detail)

    def hung(self, detail: str, about: object = None) -> None:
        """A call had no answer in time; `about` is the layer that it was about, if it was about one."""
        with self._lock:
            self._hangs.add(object() if about is None else about)
            is_open = self._health.state is State.OPEN or len(self._hangs) >= self._threshold
            self._turn(State.OPEN if is_open else State.DEGRADED, detail)

    def probed(self, problem: str) -> None:
        """A probe had its answer, with a problem or "": whatever hung hangs no more."""
        with self._lock:
            self._hangs.clear()
            self._turn(State.DEGRADED if problem else State.HEALTHY, problem)

    def open_now(self, detail: str) -> None:
        """A probe had no answer."""
        with self._lock:
            self._turn(State.OPEN, detail)

    def _turn(self, state: State, detail: str) -> None:
        since = self._health.since if state is self._health.state else self._clock()
        self._health = Health(state, since, detail)

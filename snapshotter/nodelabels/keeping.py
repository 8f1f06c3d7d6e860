"""Keeps a node's labels true: one question to the daemon a beat, and a request to the API when something changed.

The API is a guest's host: it hears of a change at the next beat, of nothing new every `REFRESH` seconds (somebody may
have changed our labels), and after a failure later and later. Whatever fails is told once, and again when it is over.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cvmfsrepo.errors import ContractError
from snapshotter.log import event
from snapshotter.nodelabels.labels import UNKNOWN, Change, change, labels, ours, unnameable

_log = logging.getLogger(__name__)

BEAT = 10.0
"""Seconds between two questions to the daemon, and so the shortest time between two requests to the API."""

REFRESH = 300.0
"""Seconds after which the API is told again what it was told before."""

SILENCE = 30.0
"""Seconds without an answer of the daemon after which its repositories count as unknown: it may start anew before."""

LONGEST_WAIT = 120.0
"""Seconds between two requests to an API that does not answer."""


class Watched(Protocol):
    """Who knows the repositories' states; raises ContractError where it cannot tell."""

    def states(self) -> Mapping[str, str]: ...


class Labelled(Protocol):
    """The node; raises ContractError where it could not be changed, else answers all labels that it has."""

    def change_labels(self, change: Change) -> Mapping[str, str]: ...


@dataclass(slots=True)
class Keeper:
    """One node's labels. `beat()` is to be called every `BEAT` seconds, `end()` once."""

    daemon: Watched
    node: Labelled
    clock: Callable[[], float] = time.monotonic
    _states: dict[str, str] = field(default_factory=dict)
    _heard: float = field(init=False)
    _told: dict[str, str] | None = None
    """Our labels as the API last answered them; None when that is not known."""
    _next: float = float("-inf")
    _wait: float = BEAT
    _troubles: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._heard = self.clock()

    def beat(self) -> None:
        """Asks the daemon, and tells the API what is new."""
        now = self.clock()
        self._look(now)
        if not self._states and now - self._heard <= SILENCE:
            return  # the daemon has only just been started, with us
        wanted = labels(self._states)
        is_new = self._told is not None and bool(change(self._told, wanted))
        if is_new or now >= self._next:
            self._tell(wanted)

    def end(self) -> None:
        """Takes our labels away: without a daemon nothing is served."""
        known = {**labels(self._states), **(self._told or {})}
        if known:
            self._tell({}, known)

    def _look(self, now: float) -> None:
        try:
            found = dict(self.daemon.states())
        except ContractError as error:
            self._trouble("daemon", str(error))
            if now - self._heard > SILENCE:
                self._states = dict.fromkeys(self._states, UNKNOWN)
            return
        self._trouble("daemon", "")
        self._trouble("names", ", ".join(unnameable(found)))
        self._states, self._heard = found, now

    def _tell(self, wanted: Mapping[str, str], known: Mapping[str, str] | None = None) -> None:
        """All of ours each time, and what is to go; a second request where the answer shows labels that we did not
        know of, which an earlier process left."""
        removed = dict.fromkeys((known or self._told or {}).keys() - wanted.keys())
        try:
            found = ours(self.node.change_labels({**removed, **wanted}))
            if stale := change(found, wanted):
                found = ours(self.node.change_labels(stale))
        except ContractError as error:
            self._trouble("API", str(error))
            self._told, self._next = None, self.clock() + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            return
        self._trouble("API", "")
        if found != self._told:
            event(_log, logging.INFO, "node labelled", labels=found)
        self._told, self._next, self._wait = found, self.clock() + REFRESH, BEAT

    def _trouble(self, what: str, problem: str) -> None:
        """A line when something goes wrong, one when it is over, and none meanwhile."""
        was = self._troubles.pop(what, "")
        if problem:
            self._troubles[what] = problem
        if problem and not was:
            event(_log, logging.WARNING, "node not labelled", what=what, detail=problem)
        elif was and not problem:
            event(_log, logging.INFO, "trouble is over", what=what)

"""Passes for ever: the recipe is read anew for each, and a broken one keeps the last good one."""

import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from cvmfsrepo.errors import ContractError, Unavailable
from publisher.telling.observer import UNOBSERVED, Observer
from publisher.wishes.recipe import Recipe
from publisher.wishes.run import Outcome

_JITTER = 0.1
"""Part of the interval by which passes differ, so that many watchers do not ask together."""


@dataclass(frozen=True, slots=True)
class Watch:
    """`read` gives the recipe, `run` makes a pass, `tell` says a line, `observer` counts passes that are given up.
    `stop` ends it between images."""

    read: Callable[[], Recipe]
    run: Callable[[Recipe], tuple[Outcome, ...]]
    tell: Callable[[str], None]
    interval: float
    observer: Observer = UNOBSERVED
    stop: threading.Event = field(default_factory=threading.Event)
    now: threading.Event = field(default_factory=threading.Event)

    def for_ever(self) -> None:
        """Until `stop`. ContractError and OSError where the very first recipe cannot be used; later errors are told,
        those of a full disk too: to be started anew by each of them would be to ask registries far too often."""
        recipe = self.read()
        while not self.stop.is_set():
            try:
                self._tell(self.run(recipe))
            except ContractError as error:
                self._give_up(error)
            except OSError as error:  # those of registries and of the repository are told in our words
                problem = f"cannot be kept: {error.strerror or error}"
                self._give_up(Unavailable("state", str(error.filename or "of passes"), problem, "look at the disk"))
            self.now.wait(self.interval * random.uniform(1 - _JITTER, 1 + _JITTER))
            self.now.clear()  # before the recipe is read: who changes it and then calls for a pass means the new one
            try:
                recipe = self.read()
            except (ContractError, OSError) as error:
                self.tell(f"the last good recipe is kept: {error}")

    @contextmanager
    def signalled(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop it, SIGHUP starts a pass now. In the main thread only. Another thread wakes it: the
        signal may come while this one holds the lock of what it waits for."""

        def end(number: int, frame: FrameType | None) -> None:
            self.stop.set()
            start(number, frame)

        def start(number: int, frame: FrameType | None) -> None:
            threading.Thread(target=self.now.set, daemon=True).start()

        chosen = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: start}
        before = {number: signal.signal(number, action) for number, action in chosen.items()}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)

    def _give_up(self, error: ContractError) -> None:
        self.observer.failed(error)
        self.tell(f"this pass was given up: {error}")

    def _tell(self, outcomes: tuple[Outcome, ...]) -> None:
        for one in outcomes:
            if one.word in ("published", "failed"):
                self.tell(f"{one.word} {one.name}" + (f": {one.reason}" * bool(one.reason)))
        self.tell(f"{sum(one.is_complete for one in outcomes)} of {len(outcomes)} complete")

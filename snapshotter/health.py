"""Is the daemon alive, and is it ready? And the heart that keeps asking, for the probes and for systemd's watchdog.

*Alive* is a daemon whose snapshots service answers. A repository that is away does not count: to start the daemon
again would not bring it back. *Ready* is one that is alive and whose repositories are all healthy: new pods would find
their layers here. The index does not count; pulls are served without it.
"""

import threading
import time
from collections.abc import Callable, Sequence

from cvmfsrepo.breaker import State
from cvmfsrepo.guarded import GuardedRepository
from snapshotter.notify import Notifier

BEAT = 5.0
"""Seconds between two questions, or a third of what systemd's watchdog waits where that is less."""

PATIENCE = 20.0
"""Seconds for an answer: a busy service is not a dead one."""

SILENCE = 30.0
"""Seconds without an answer after which the service counts as dead."""


def unready(repositories: Sequence[GuardedRepository]) -> list[str]:
    """What is wrong with which repository, a line each."""
    return [line for line in map(_problem, repositories) if line]


def summary(repositories: Sequence[GuardedRepository]) -> str:
    """One line for a person."""
    return "serving; " + "; ".join(_problem(each) or f"{each.name} is healthy" for each in repositories)


def _problem(repository: GuardedRepository) -> str:
    health = repository.health
    if health.state is not State.HEALTHY:
        return f"repository {repository.name} is {health.state}: {health.detail}"
    return "" if repository.is_known else f"repository {repository.name} was not looked at yet"


class Heart:
    """Asks the service at every beat, and feeds the watchdog when it answered. `ask` takes the seconds to wait and
    answers why there was no answer, or ""."""

    def __init__(
        self, ask: Callable[[float], str], repositories: Callable[[], Sequence[GuardedRepository]], notifier: Notifier,
        beat: float = BEAT,
    ) -> None:  # fmt: skip
        self._ask, self._repositories, self._notifier = ask, repositories, notifier
        watched = notifier.watchdog or 3 * beat
        self._beat, self._patience = (
            min(beat, watched / 3),
            min(PATIENCE, watched / 2 if notifier.watchdog else PATIENCE),
        )
        self._over = threading.Event()
        self._answered, self._problem = time.monotonic(), ""
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()

    def dead(self) -> list[str]:
        """Why the daemon counts as dead; nothing while it lives."""
        silent = time.monotonic() - self._answered
        why = self._problem or "no answer"
        return [f"the snapshots service has not answered for {silent:.0f} s ({why})"] if silent > SILENCE else []

    def unready(self) -> list[str]:
        """Why the daemon is not ready; nothing while it is."""
        return [*self.dead(), *unready(self._repositories())]

    def _run(self) -> None:
        while not self._over.is_set():
            self._problem = self._ask(self._patience)
            if not self._problem and not self._over.is_set():
                self._answered = time.monotonic()
                self._notifier.alive()
            if not self._over.is_set():
                self._notifier.status(self._problem or summary(self._repositories()))
            self._over.wait(self._beat)

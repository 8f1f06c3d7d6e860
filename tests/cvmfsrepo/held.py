"""Repositories that hold their callers, and what a guard makes of them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cvmfsrepo.breaker import State
from cvmfsrepo.digest import Digest
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import Layout
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Layer, Missing, Repository

SHORT, LONG = 0.1, 10.0
NAME = "unpacked.example.org"


def digest(word: str) -> Digest:
    return Digest.of(word.encode())


@dataclass(frozen=True)
class Held(Repository):
    """A repository that holds calls about some layers until they are let go."""

    holding: dict[Digest, threading.Event] = field(default_factory=dict, kw_only=True)
    asked: list[Digest] = field(default_factory=list, kw_only=True)

    def find_layer(self, digest: Digest) -> Layer | Missing:
        self.asked.append(digest)
        if digest in self.holding:
            assert self.holding[digest].wait(3 * LONG), "nobody let it go"
        return Layer(digest, self.layout.layerfs(digest))


@contextmanager
def held(root: Path) -> Iterator[Held]:
    """One that holds nobody yet; all go at the end."""
    (root / ".layers").mkdir()
    repository = Held(NAME, Layout(root))
    try:
        yield repository
    finally:
        let_go(repository)


@contextmanager
def probing(repository: Repository, deadline: float = SHORT, interval: float = SHORT) -> Iterator[GuardedRepository]:
    guarded = GuardedRepository(repository, deadline, interval)
    guarded.start_probing()
    try:
        yield guarded
    finally:
        guarded.stop_probing()


def hold(repository: Held, *words: str) -> None:
    repository.holding.update({digest(word): threading.Event() for word in words})


def let_go(repository: Held) -> None:
    for layer in list(repository.holding):
        repository.holding.pop(layer).set()


def find(guarded: GuardedRepository, word: str) -> Layer | Missing:
    return guarded.call(lambda: guarded.repository.find_layer(digest(word)), digest(word))


def state(guarded: GuardedRepository) -> State:
    return guarded.health.state


def reason(found: Layer | Missing | None) -> Reason | None:
    return found.reason if isinstance(found, Missing) else None


def soon(holds: Callable[[], object], seconds: float = LONG) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(holds())

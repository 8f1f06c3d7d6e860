"""How many things a repository is asked at one time."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from cvmfsrepo.access import Access
from cvmfsrepo.layout import Layout
from cvmfsrepo.repository import Repository
from podmanstore import places
from podmanstore.places import Place


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Recorded:
    """An access that remembers into how many calls each batch was divided."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def call_all(self, works: Sequence[Callable[[], object]], until: float) -> list[Callable[[], object]]:
        self.batches.append(len(works))
        return [partial(_same, work()) for work in works]


def _same(value: object) -> object:
    return value


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(places, "time", clock)
    return clock


def test_what_is_quick_is_asked_by_one_and_what_is_slow_by_several(clock: Clock) -> None:
    """After a batch that was answered at once one thread works; it hands back what is left when that turns out slow, or
    it would have the time of eight for the work of eight. Each item is asked once, in its order."""
    access, asked = Recorded(), list[int]()
    place = Place(Repository("test", Layout(Path("/r"))), Path("/r"), access=cast("Access", access))

    def work(item: int) -> int:
        asked.append(item)
        clock.now += 1.0 if item >= 70 else 0.0
        return -item

    assert list(place.ask_each(work, range(199))) == [-item for item in range(199)]
    assert asked == list(range(199))
    assert access.batches == [8, 1, 8, 8]

"""Some layers hang or fail late while the rest of the repository answers: the rest is served, nobody waits twice."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.breaker import State
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import Layout
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Layer, Missing, Repository
from tests import mounting
from tests.cvmfsrepo.held import NAME, digest, find, probing, reason, soon, state
from tests.mounting import Standin, standin

pytestmark = [pytest.mark.root, pytest.mark.fuse]

DEADLINE, INTERVAL = 1.0, 0.3
GIVES_UP = 1.5
"""Seconds after which the client answers EIO: too late for a caller."""
BAD, GOOD = ("a", "b", "c", "d"), ("e", "f")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Standin]:
    """A repository of some layers, on a mount that remembers nothing."""
    mounting.needs_fuse()
    source = Layout(tmp_path / "source")
    for word in (*BAD, *GOOD):
        source.layerfs(digest(word)).mkdir(parents=True)
    with standin(source.root, tmp_path / "mount") as running:
        yield running


@pytest.fixture
def guarded(served: Standin) -> Iterator[GuardedRepository]:
    """Behind its guard, and probed; no fault outlasts it, for a call that hangs keeps its thread."""
    with probing(Repository(NAME, Layout(served.mountpoint)), DEADLINE, INTERVAL) as guarded:
        yield guarded
        served.clear()


def directory(word: str) -> str:
    return str(Layout(Path("/")).layerfs(digest(word)).parent)


def timed(guarded: GuardedRepository, word: str) -> tuple[Reason | None, float]:
    """Why a layer is missing (None: it is there), and how long the answer took."""
    began = time.monotonic()
    return reason(find(guarded, word)), time.monotonic() - began


def ask_for(guarded: GuardedRepository, words: tuple[str, ...], seconds: float) -> list[str]:
    """Asks for layers again and again, over several probes; what went wrong: a bad one that waits or is there, a good
    one that is not, a breaker that opens."""
    wrong, end = list[str](), time.monotonic() + seconds
    while time.monotonic() < end:
        for word in words:
            why, took = timed(guarded, word)
            if why is not Reason.TIMEOUT or took > DEADLINE / 2:
                wrong.append(f"{word}: {why} after {took:.2f} s")
        wrong += [f"{word}: {why}" for word in GOOD if (why := timed(guarded, word)[0])]
        wrong += ["open"] if state(guarded) is State.OPEN else []
        time.sleep(INTERVAL / 3)
    return wrong


def settle(guarded: GuardedRepository, words: tuple[str, ...]) -> None:
    """Asks for each bad layer for the first time, and waits for the probe that answers."""
    for word in words:
        assert soon(lambda: state(guarded) is not State.OPEN)
        assert reason(find(guarded, word)) in (Reason.TIMEOUT, Reason.IO_ERROR)
    assert soon(lambda: state(guarded) is not State.OPEN)


@pytest.mark.parametrize("words", [BAD[:1], BAD], ids=["one", "several"])
def test_layers_that_hang_for_ever(served: Standin, guarded: GuardedRepository, words: tuple[str, ...]) -> None:
    """Each costs one caller a deadline and one thread, then its miss comes at once, with its name; all others are
    served. When it answers it is served too."""
    for word in words:
        served.fault("stall", directory(word))
    settle(guarded, words)
    assert ask_for(guarded, words, 6 * INTERVAL) == []
    assert served.held() == len(words)
    found = find(guarded, words[0])
    assert isinstance(found, Missing)
    assert f"layer {digest(words[0])} did not answer when it was looked at" in found.detail
    served.clear()
    assert soon(lambda: all(isinstance(find(guarded, word), Layer) for word in words), 2.0)


def test_layers_that_fail_too_late(served: Standin, guarded: GuardedRepository) -> None:
    """As a client answers that gives up: calls come back, but later than anybody waits. The prober alone asks again,
    for one at each probe; when the trouble is over all are served after a probe."""
    for word in BAD:
        served.fault("eio", directory(word), seconds=GIVES_UP)
    settle(guarded, BAD)
    time.sleep(GIVES_UP)
    assert ask_for(guarded, BAD, 3 * GIVES_UP) == []
    assert served.held() <= 2  # one that is waited for, and one that was given up and comes back soon
    served.clear()
    assert soon(lambda: all(isinstance(find(guarded, word), Layer) for word in BAD), 2.0)


def test_a_layer_that_fails_late_under_containers(served: Standin) -> None:
    """Within the deadline, but after more than a second: looks at what a container stands on do not open the breaker
    either, however many there are."""
    served.fault("eio", directory("a"), seconds=1.1)
    guarded = GuardedRepository(Repository(NAME, Layout(served.mountpoint)), 5.0, 60.0)
    found = [reason(guarded.find_unreadable([digest("a"), digest(word)])) for word in GOOD * 2]
    assert found == [Reason.IO_ERROR] + [Reason.TIMEOUT] * 3
    assert state(guarded) is not State.OPEN
    assert isinstance(find(guarded, "e"), Layer)


def test_a_quick_error_beside_a_hang(served: Standin) -> None:
    """Of two layers that are looked at side by side the one that failed at once is under no suspicion: it is asked for
    again, and says what is wrong with it."""
    served.fault("stall", directory("a"))
    served.fault("eio", directory("b"))
    guarded = GuardedRepository(Repository(NAME, Layout(served.mountpoint)), 1.5, 60.0)
    layers = [digest("b"), digest("a")]
    assert reason(guarded.find_unreadable(layers)) is Reason.IO_ERROR
    assert (timed(guarded, "a")[0], timed(guarded, "b")[0]) == (Reason.TIMEOUT, Reason.IO_ERROR)
    served.clear(directory("b"))
    assert isinstance(find(guarded, "b"), Layer)
    served.clear()


def test_a_late_answer_is_one(served: Standin, guarded: GuardedRepository) -> None:
    """A layer that only took too long this time is served from then on, without a look of the prober."""
    served.fault("stall", directory("a"))
    settle(guarded, ("a",))
    guarded.stop_probing()
    served.clear()
    assert soon(lambda: isinstance(find(guarded, "a"), Layer), 2.0)

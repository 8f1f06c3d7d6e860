"""Behind its guard a repository always answers in time, and what it did before is forgotten when it is well again."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cvmfsrepo.access import Access, DeadlineExpired
from cvmfsrepo.breaker import State
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Layer, Missing
from tests.cvmfsrepo.held import LONG, NAME, SHORT, Held, digest, find, held, hold, let_go, reason, soon, state


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Held]:
    with held(tmp_path) as repository:
        yield repository


@pytest.fixture
def guarded(repository: Held) -> GuardedRepository:
    """Without its prober."""
    return GuardedRepository(repository, SHORT, LONG)


@pytest.fixture
def patient(repository: Held) -> GuardedRepository:
    """For what answers at once, be the machine as busy as it may."""
    return GuardedRepository(repository, LONG, LONG)


def all_at_once(guarded: GuardedRepository, words: list[str]) -> list[Layer | Missing]:
    """Calls about several layers at one time, and their answers."""
    answers = list[Layer | Missing]()
    callers = [threading.Thread(target=lambda word=word: answers.append(find(guarded, word))) for word in words]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return answers


def test_a_call_that_hangs_is_answered_at_the_deadline(repository: Held, guarded: GuardedRepository) -> None:
    """With `timeout`, and the repository is degraded; nothing is raised."""
    hold(repository, "a")
    began = time.monotonic()
    found = find(guarded, "a")
    assert SHORT <= time.monotonic() - began < LONG
    assert found == Missing(Reason.TIMEOUT, f"repository {NAME}: no answer within 0.1 s")
    assert state(guarded) is State.DEGRADED


def test_several_calls_share_what_is_left_of_a_deadline(repository: Held, guarded: GuardedRepository) -> None:
    """A moment to give up is kept, however late the call begins."""
    hold(repository, "a")
    began = time.monotonic()
    found = guarded.call(lambda: repository.find_layer(digest("a")), digest("a"), began + SHORT / 5)
    assert reason(found) is Reason.TIMEOUT
    assert time.monotonic() - began < SHORT


def test_a_layer_that_hangs_is_asked_for_once(repository: Held, guarded: GuardedRepository) -> None:
    """While a look at it hangs others about it are answered at once and take no thread; other layers are served."""
    hold(repository, "a")
    for _ in range(20):
        assert reason(find(guarded, "a")) is Reason.TIMEOUT
    assert reason(guarded.find_unreadable([digest("a")])) is Reason.TIMEOUT
    assert repository.asked == [digest("a")]
    assert isinstance(find(guarded, "b"), Layer)
    assert state(guarded) is State.HEALTHY
    let_go(repository)
    assert soon(lambda: isinstance(find(guarded, "a"), Layer))


def test_a_layer_whose_look_never_began_is_not_held_against_it(repository: Held) -> None:
    """More calls hang than there are threads: the rest never touch the repository, so when it is back each of them is
    answered, without a restart."""
    guarded = GuardedRepository(repository, SHORT, LONG)
    words = [f"{number}" for number in range(64)]
    hold(repository, *words)
    assert {reason(answer) for answer in all_at_once(guarded, words)} <= {Reason.TIMEOUT, Reason.BREAKER_OPEN}
    assert len(repository.asked) < len(words)
    let_go(repository)
    guarded._breaker.probed("")
    assert soon(lambda: all(isinstance(find(guarded, word), Layer) for word in words))


class Late(Access):
    """Gives every call up, which is answered in that very moment."""

    def call(self, work: Callable[[], Any], until: float | None = None) -> Any:
        work()
        raise DeadlineExpired("no answer")


def test_an_answer_at_the_very_deadline_leaves_no_suspicion(guarded: GuardedRepository) -> None:
    """It comes after the end of the wait and before anybody notes it: afterwards the layer is served."""
    access, guarded._access = guarded._access, Late()
    assert reason(find(guarded, "a")) is Reason.TIMEOUT
    guarded._access = access
    assert isinstance(find(guarded, "a"), Layer)


def test_a_crowd_is_no_hang(repository: Held) -> None:
    """Calls that found no free thread in time say so, and say nothing against a repository that is busy answering."""
    guarded = GuardedRepository(repository, 0.3, LONG)

    def look(word: str) -> Layer | Missing:
        time.sleep(0.2)
        return repository.find_layer(digest(word))

    def slowly(word: str) -> Layer | Missing:
        return guarded.call(lambda: look(word), digest(word))

    answers = list[Layer | Missing]()
    callers = [threading.Thread(target=lambda word=f"{n}": answers.append(slowly(word))) for n in range(64)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    crowded = [answer for answer in answers if isinstance(answer, Missing) and "too many calls" in answer.detail]
    assert crowded
    assert state(guarded) is not State.OPEN


def test_hangs_about_several_layers_open_and_then_nothing_waits(repository: Held, guarded: GuardedRepository) -> None:
    """`breaker-open`, with since when and why; neither a call nor a look at ancestors touches the repository."""
    hold(repository, "a", "b", "c")
    for word in "abc":
        find(guarded, word)
    asked, began = len(repository.asked), time.monotonic()
    for number in range(1000):
        assert reason(find(guarded, f"{number}")) is Reason.BREAKER_OPEN
    assert reason(guarded.find_unreadable([digest("x")])) is Reason.BREAKER_OPEN
    assert time.monotonic() - began < 1000 * SHORT / 10
    assert len(repository.asked) == asked
    found = find(guarded, "x")
    assert isinstance(found, Missing)
    assert "has not answered for 0 s (no answer within 0.1 s); it is probed all the time" in found.detail


def test_errors_have_their_reason_and_are_tried_again(patient: GuardedRepository) -> None:
    """An error of the file system degrades the repository; the next answer makes it healthy."""

    def fail() -> Missing:
        raise OSError(5, "Input/output error")

    for _ in range(10):
        assert reason(patient.call(fail)) is Reason.IO_ERROR
    assert state(patient) is State.DEGRADED
    assert isinstance(find(patient, "a"), Layer)
    assert state(patient) is State.HEALTHY


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        (Reason.ABSENT, State.HEALTHY),
        (Reason.MARKERS_UNAVAILABLE, State.HEALTHY),
        (Reason.UNMOUNTED, State.DEGRADED),
        (Reason.STALE, State.DEGRADED),
    ],
)
def test_what_an_answer_says_of_the_repository(patient: GuardedRepository, why: Reason, expected: State) -> None:
    """That there is no such layer is an answer as good as any."""
    assert reason(patient.call(lambda: Missing(why, "x"))) is why
    assert state(patient) is expected


def test_ancestors_share_one_deadline(repository: Held, guarded: GuardedRepository) -> None:
    """All are looked at side by side; one that hangs is the answer, and the readable ones are noted."""
    words = [f"{number}" for number in range(10)]
    hold(repository, "3")
    began = time.monotonic()
    missing = guarded.find_unreadable(map(digest, words))
    assert time.monotonic() - began < 5 * SHORT
    assert reason(missing) is Reason.TIMEOUT
    assert guarded.find_unreadable(digest(word) for word in words if word != "3") is None
    assert len(repository.asked) == 10


def test_a_good_look_is_good_for_one_interval(repository: Held) -> None:
    """Within it no layer is looked at again, afterwards it is."""
    guarded = GuardedRepository(repository, LONG, 0.3)
    for _ in range(5):
        assert guarded.find_unreadable([digest("a"), digest("a")]) is None
    assert repository.asked == [digest("a")]
    time.sleep(0.35)
    assert guarded.find_unreadable([digest("a")]) is None
    assert repository.asked == [digest("a")] * 2


def test_what_was_seen_is_bounded(guarded: GuardedRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that sees ever new layers does not remember them all, also while many threads look."""
    monkeypatch.setattr("cvmfsrepo.guarded._MOST_SEEN", 100)
    guarded.interval = 0.0
    failures, layers = list[BaseException](), [digest(f"{number}") for number in range(4000)]

    def see(start: int) -> None:
        try:
            for layer in layers[start : start + 1000]:
                guarded.saw(layer)
        except RuntimeError as error:
            failures.append(error)

    threads, old = [threading.Thread(target=see, args=(1000 * number,)) for number in range(4)], sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(old)
    assert failures == []
    assert len(guarded._seen) <= 101


def test_work_that_nobody_waits_for_cannot_use_up_the_threads(repository: Held) -> None:
    """It hangs as long as it likes: calls still find a thread."""
    guarded, release = GuardedRepository(repository, SHORT, LONG), threading.Event()
    for _ in range(20):
        guarded.later(lambda: release.wait(3 * LONG))
    time.sleep(2 * SHORT)
    assert soon(lambda: isinstance(find(guarded, "a"), Layer), 2.0)
    release.set()


def test_work_that_nobody_waits_for_is_refused_silently(repository: Held) -> None:
    """Where too many threads hang it is not done, and its caller, who has his answer, gets no error."""
    guarded, release = GuardedRepository(repository, SHORT, LONG), threading.Event()
    guarded._access = Access(SHORT, workers=1, lost_limit=1)
    guarded.call(lambda: release.wait(3 * LONG) and None)
    guarded._breaker.probed("")
    guarded.later(lambda: None)
    release.set()

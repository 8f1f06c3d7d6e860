"""A call to a repository ends at its deadline, whatever the repository does."""

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cvmfsrepo.access import Access, Crowded, DeadlineExpired

SHORT = 0.05
LONG = 10.0


class Odd(Exception):
    """What no library raises."""


@contextmanager
def stuck(access: Access, calls: int) -> Iterator[threading.Event]:
    """So many threads of `access` that do not come back until the block ends."""
    release = threading.Event()
    for _ in range(calls):
        with pytest.raises(DeadlineExpired):
            access.call(lambda: release.wait(LONG))
    try:
        yield release
    finally:
        release.set()


def threads() -> int:
    return sum(thread.name == "repository" for thread in threading.enumerate())


def test_result_and_exception_pass() -> None:
    """The caller gets the value, or the very exception, OSError or not."""
    access = Access(LONG)
    assert access.call(lambda: 42) == 42
    for error in (FileNotFoundError(2, "x"), Odd("y")):
        with pytest.raises(type(error)) as caught:
            access.call(lambda error=error: _raise(error))  # type: ignore[misc]
        assert caught.value is error
    assert access.call(lambda: None) is None


def test_deadline() -> None:
    """A call that does not come back is given up at the deadline, and says how long that was."""
    access = Access(SHORT)
    start = time.monotonic()
    with stuck(access, 1):
        assert SHORT <= time.monotonic() - start < 5
    with pytest.raises(DeadlineExpired, match=r"within 0\.05 s"):
        access.call(lambda: time.sleep(0.2))


def test_lost_threads_are_replaced_up_to_a_limit_and_end_when_they_come_back() -> None:
    """A stuck thread makes room for another; beyond the limit calls fail at once; what comes back ends."""
    access, before = Access(SHORT, workers=2, lost_limit=5), threads()
    with stuck(access, 5):
        assert access.lost == 5
        assert threads() - before <= 5
        with pytest.raises(DeadlineExpired, match="5 calls hang in it already; restart this daemon"):
            access.call(lambda: None)
    access.deadline = LONG
    assert _soon(lambda: access.lost == 0)
    assert access.call(lambda: "back") == "back"
    assert _soon(lambda: threads() - before <= 2)


def test_calls_side_by_side_share_one_deadline() -> None:
    """Each has its own answer; the one that hangs costs the others nothing."""
    access, release = Access(SHORT, workers=8), threading.Event()
    start = time.monotonic()
    answers = access.call_all([lambda: 1, lambda: release.wait(LONG), lambda: _raise(Odd("x")), lambda: 4])
    assert time.monotonic() - start < 5
    release.set()
    assert (answers[0](), answers[3]()) == (1, 4)
    with pytest.raises(DeadlineExpired):
        answers[1]()
    with pytest.raises(Odd):
        answers[2]()


def test_abandoned_calls_are_not_run_and_not_kept() -> None:
    """A call that no thread took in time is dropped: an outage of a day must not fill the memory."""
    access, ran, release = Access(SHORT, workers=1), list[int](), threading.Event()
    marks = [_Work(ran) for _ in range(3)]
    kept = [weakref.ref(mark) for mark in marks]
    answers = access.call_all([lambda: release.wait(LONG), *(mark.run for mark in marks)])
    for answer in answers:
        with pytest.raises(DeadlineExpired):
            answer()
    marks.clear()
    answers.clear()
    del answer
    gc.collect()
    assert [reference() for reference in kept] == [None] * 3
    release.set()
    access.deadline = LONG
    access.call(lambda: None)
    assert ran == []


def _soon(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + LONG
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


class _Work:
    def __init__(self, ran: list[int]) -> None:
        self.ran = ran

    def run(self) -> None:
        self.ran.append(1)


def test_as_many_calls_as_threads_run_at_one_time() -> None:
    """No call waits behind another one while the pool may grow or has an idle thread, however the switches fall."""
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            access, together = Access(LONG, workers=8), threading.Barrier(8)
            for _ in range(5):
                _all_at_once(access, together)
    finally:
        sys.setswitchinterval(old)


def _all_at_once(access: Access, together: threading.Barrier) -> None:
    failed = list[BaseException]()

    def one() -> None:
        try:
            access.call(lambda: together.wait(LONG / 2))
        except (threading.BrokenBarrierError, DeadlineExpired) as error:
            failed.append(error)

    callers = [threading.Thread(target=one) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failed


def test_idle_threads_are_used_again() -> None:
    """Calls one after another need one thread, not one each."""
    access, before = Access(LONG), threads()
    for _ in range(50):
        access.call(lambda: None)
    assert threads() - before <= 2


def test_later_runs_and_swallows_what_cannot_be_had() -> None:
    """Work that nobody waits for is run; its failure costs nobody anything, and the thread lives on."""
    access, done = Access(LONG, workers=1), threading.Event()
    access.later(lambda: _raise(OSError(5, "gone")))
    access.later(done.set)
    assert done.wait(LONG)
    assert access.call(lambda: 1) == 1


def test_later_work_that_hangs_is_replaced() -> None:
    """It may take longer than the deadline while nobody needs its thread; when somebody does, there is another one."""
    access, release = Access(SHORT, workers=2), threading.Event()
    for _ in range(2):
        access.later(lambda: release.wait(LONG))
    time.sleep(2 * SHORT)
    access.deadline = LONG / 2
    assert access.lost == 0
    access.deadline = SHORT
    assert access.call(lambda: "served", time.monotonic() + LONG) == "served"
    assert access.lost == 2
    release.set()
    assert _soon(lambda: access.lost == 0)


def test_a_call_that_found_no_thread_says_so() -> None:
    """It is another error than that of one that hung: the caller may draw other conclusions."""
    access, release = Access(SHORT, workers=1), threading.Event()
    hung, crowded = access.call_all([lambda: release.wait(LONG), lambda: True])
    with pytest.raises(Crowded, match="too many calls at one time"):
        crowded()
    with pytest.raises(DeadlineExpired, match="no answer within") as raised:
        hung()
    assert not isinstance(raised.value, Crowded)
    release.set()


def test_stuck_threads_do_not_keep_the_process() -> None:
    """All threads are daemons."""
    with stuck(Access(SHORT), 1):
        assert all(thread.daemon for thread in threading.enumerate() if thread.name == "repository")


def _raise(error: Exception) -> None:
    raise error

"""Calls run on few threads, and a stuck one holds nobody up."""

import threading
import time
from collections.abc import Iterator

import pytest

from snapshotter.workers import PATIENCE, Workers

SOON = 5.0


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What stuck calls wait for; they end with the test."""
    event = threading.Event()
    yield event
    event.set()


def test_results_come_back() -> None:
    """A call gets its arguments, and its result is that of the future."""
    workers = Workers(2, 4)
    futures = [workers.submit(divmod, number, 7) for number in range(200)]
    assert [future.result(SOON) for future in futures] == [divmod(number, 7) for number in range(200)]


def test_quick_calls_share_few_threads() -> None:
    """Many quick calls are run by no more threads than said."""
    workers = Workers(2, 16)
    futures = [workers.submit(threading.get_ident) for _ in range(500)]
    assert 1 <= len({future.result(SOON) for future in futures}) <= 2


def test_stuck_calls_do_not_hold_up_others(release: threading.Event) -> None:
    """With every thread stuck, and more stuck calls queued before it, a quick call still runs soon."""
    workers = Workers(2, 16)
    stuck = [workers.submit(release.wait, SOON) for _ in range(10)]
    assert workers.submit(lambda: "quick").result(SOON / 2) == "quick"
    assert not any(future.done() for future in stuck)


def test_many_stuck_calls_are_taken_together(release: threading.Event) -> None:
    """However many get stuck at one time each has its thread after a moment, not one after another."""
    workers, together = Workers(3, 256), threading.Barrier(201)
    began = time.monotonic()
    stuck = [workers.submit(together.wait, SOON) for _ in range(200)]
    together.wait(SOON)
    assert time.monotonic() - began < 200 * PATIENCE / 2
    assert sorted(future.result(SOON) for future in stuck)[0] >= 0


def test_quick_calls_find_a_thread_beside_stuck_ones(release: threading.Event) -> None:
    """Only the first one waits for a new thread: the next ones, one after another, are run at once."""
    workers = Workers(3, 64)
    stuck = [workers.submit(release.wait, 4 * SOON) for _ in range(20)]
    workers.submit(lambda: None).result(SOON)
    began = time.monotonic()
    for _ in range(100):
        workers.submit(lambda: None).result(SOON)
    assert time.monotonic() - began < 100 * PATIENCE / 2
    assert not any(future.done() for future in stuck)


def test_no_more_threads_than_said(release: threading.Event) -> None:
    """What does not fit waits until a thread is free, and then runs."""
    workers = Workers(1, 3)
    stuck = [workers.submit(release.wait, 2 * SOON) for _ in range(3)]
    late = workers.submit(lambda: "late")
    with pytest.raises(TimeoutError):
        late.result(0.3)
    release.set()
    assert late.result(SOON) == "late"
    assert all(future.result(SOON) for future in stuck)


def test_threads_beyond_the_few_end(release: threading.Event) -> None:
    """When nothing is stuck any more, few threads are left."""
    before = threading.active_count()
    workers = Workers(1, 8)
    stuck = [workers.submit(release.wait, SOON) for _ in range(5)]
    assert workers.submit(lambda: True).result(SOON)
    release.set()
    assert all(future.result(SOON) for future in stuck)
    assert workers.submit(lambda: True).result(SOON)
    deadline = threading.Event()
    for _ in range(100):
        if threading.active_count() <= before + 2:  # the one, and the one that watches
            break
        deadline.wait(0.05)
    assert threading.active_count() <= before + 2

"""The queue on disk: what is folded, what waits, and that nothing that was accepted is lost."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.errors import ResourceExhausted, Unavailable
from publisher.listening.queue import Job, Queue, read_jobs

ONE, OTHER = "registry.example/one:1", "registry.example/other:1"
FAILURE = Unavailable("image", ONE, "does not answer")


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue.opened(tmp_path / "queue", capacity=3) as opened:
        yield opened


def taken(queue: Queue, now: float | None = None) -> Job:
    (job,) = queue.take(now=now)
    return job


def test_the_oldest_first_and_each_once(queue: Queue) -> None:
    """A second push of an image that waits is the same job, counted from the first."""
    queue.put(OTHER, 5, now=10)
    queue.put(ONE, 20, now=21)
    queue.put(OTHER, 30, now=31)
    first = taken(queue)
    assert (first.reference, first.pushed_at, first.pushes) == (OTHER, 5, 2)
    queue.done(first)
    queue.done(taken(queue))
    assert (queue.take(), read_jobs(queue.root), [*(queue.root / "jobs").iterdir()]) == ((), (), [])


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_pushed_while_it_is_worked_on_is_done_once_more(queue: Queue, fails: bool) -> None:
    """Counted from the second push, and at once also where the first attempt failed."""
    queue.put(ONE, 1, now=1)
    job = taken(queue)
    queue.put(ONE, 50, now=51)
    queue.put(ONE, 60, now=61)
    if fails:
        assert not queue.failed(job, FAILURE).reason
    else:
        queue.done(job)
    again = taken(queue)
    assert (again.pushed_at, again.pushes, again.push != job.push) == (50, 2, True)
    queue.done(again)
    assert queue.jobs() == ()


def test_a_failed_one_waits_longer_each_time(queue: Queue) -> None:
    """With its reason; a push begins anew, and after many attempts it is given up."""
    queue.put(ONE, 1, now=1)
    waits = list[float]()
    for _ in range(3):
        job = taken(queue, 10_000)
        waits.append(queue.failed(job, FAILURE, now=0).retry_at)
    assert waits == [60, 120, 240]
    assert (queue.take(now=239), read_jobs(queue.root)[0].reason) == ((), str(FAILURE))
    queue.put(ONE, 2, now=2)
    assert (taken(queue, 2).attempts, read_jobs(queue.root)[0].reason) == (1, "")
    job = queue.failed(queue.jobs()[0], FAILURE, now=0)
    while not job.given_up:
        job = queue.failed(taken(queue, 1e9), FAILURE, now=0)
    assert (job.attempts, queue.take(now=1e9)) == (20, ())
    queue.put(ONE, 3, now=3)
    assert taken(queue, 3).pushes == 1


def test_a_full_queue_takes_no_more(queue: Queue) -> None:
    """But what waits already is still folded, and what was given up makes room."""
    for number in range(3):
        queue.put(f"registry.example/{number}:1", 1, now=number)
    with pytest.raises(ResourceExhausted, match="holds 3 images"):
        queue.put(ONE, 1)
    assert queue.put("registry.example/0:1", 1).pushes == 2
    queue.failed(taken(queue), FAILURE, hopeless=True)
    queue.put(ONE, 1)
    assert {job.reference for job in read_jobs(queue.root)} == {"registry.example/1:1", "registry.example/2:1", ONE}


def test_a_restart_finds_all_of_it(tmp_path: Path) -> None:
    """Also what was being worked on; half written files go, damaged ones are put aside, and nobody else gets in."""
    with Queue.opened(tmp_path) as queue:
        queue.put(ONE, 1, now=1)
        queue.put(OTHER, 2, now=2)
        taken(queue)
        with pytest.raises(Unavailable, match="another publisher"), Queue.opened(tmp_path):
            pass
    (tmp_path / "jobs" / ".new-x").write_text("{")
    (tmp_path / "jobs" / "x.json").write_text("{")
    assert [job.reference for job in read_jobs(tmp_path)] == [ONE, OTHER]
    with Queue.opened(tmp_path) as queue:
        assert [path.name for path in queue.damaged] == ["x.damaged"]
        assert taken(queue).reference == ONE
    assert not (tmp_path / "jobs" / ".new-x").exists()


def test_an_image_that_ends_the_publisher_waits_too(tmp_path: Path) -> None:
    """Else one that is too large for the machine would keep all others from being published, then and later on."""
    with Queue.opened(tmp_path) as queue:
        queue.put(ONE, 1, now=1)
        queue.put(OTHER, 2, now=2)
    for _ in range(3):
        with Queue.opened(tmp_path) as queue:
            assert taken(queue).reference == ONE
    for later in (0, 300):
        with Queue.opened(tmp_path) as queue:
            one = next(job for job in queue.jobs() if job.reference == ONE)
            assert "ended 3 times" in one.reason
            assert one.retry_at > time.time()
            assert taken(queue, time.time() + later).reference == (ONE if later else OTHER)
    with Queue.opened(tmp_path) as queue:
        assert taken(queue).reference == OTHER


PUTTING = """
import sys
from pathlib import Path
from publisher.listening.queue import Queue
with Queue.opened(Path(sys.argv[1])) as queue:
    number = 0
    while True:
        if number % 3 == 2:
            (job,) = queue.take()
            queue.done(job)
            print("done", job.reference, flush=True)
        queue.put(f"registry.example/{number % 7}:{number}", 1)
        print("put", f"registry.example/{number % 7}:{number}", flush=True)
        number += 1
"""


@pytest.mark.parametrize("lines", [1, 2, 7, 20, 51])
def test_what_was_accepted_survives_a_kill(tmp_path: Path, lines: int) -> None:
    """At whatever moment: everything that was said to be kept and not said to be done is there, and parses."""
    process = subprocess.Popen([sys.executable, "-c", PUTTING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    said = [process.stdout.readline().split() for _ in range(lines)]
    process.kill()
    said += [line.split() for line in process.communicate()[0].splitlines() if line.count(" ") == 1]
    done = {name for word, name in said if word == "done"}
    kept = {name for word, name in said if word == "put"} - done
    with Queue.opened(tmp_path) as queue:
        there = {job.reference for job in queue.jobs()}
        missing = kept - there
        assert queue.damaged == []
    assert len(missing) <= 1  # the one that was being done when it was killed
    assert missing <= {min(kept, key=lambda name: int(name.rpartition(":")[2]))}

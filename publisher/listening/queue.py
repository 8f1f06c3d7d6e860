"""The images that are to be published, on disk: one small file an image, replaced by rename.

A job's file goes when the image is published, and not before: whoever is killed in between does the job once more,
which costs a look at what is there. A push of an image that waits already is the same job; one of an image that is
being worked on is done when that has ended.
"""

import hashlib
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from cvmfsrepo.errors import ContractError, ResourceExhausted
from publisher.durable import UNFINISHED, settle, write_durably
from publisher.transactions.lock import held

DEFAULT = Path("/var/lib/cvmfs-publisher/queue")
CAPACITY = 10_000
_FIRST_WAIT, _LONGEST_WAIT = 60.0, 6 * 3600.0
"""Seconds before a failed image is tried again: doubled each time."""
_ATTEMPTS = 20
"""With those waits a little more than three days."""
_BROKEN_OFF = 3
"""The attempt from which on an image that ends the process waits like one that fails."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One image. `push` is new with each push; `pushed_at` when the registry says that the first of those pushes was,
    `received_at` when we heard of it; `attempts` were begun, `reason` says why the last one failed, `failed_since` when
    that began, `retry_at` when it is tried again. One that is `given_up` is kept to be seen. Times are in seconds
    since 1970."""

    reference: str
    pushed_at: float
    received_at: float
    version: Literal[1] = 1
    push: str = msgspec.field(default_factory=lambda: uuid.uuid4().hex)
    pushes: int = 1
    attempts: int = 0
    reason: str = ""
    failed_since: float = 0
    retry_at: float = 0
    given_up: bool = False


_decode = msgspec.json.Decoder(Job).decode


@dataclass(slots=True)
class Queue:
    """The jobs of one directory. Safe from several threads of the process that holds its lock. `damaged` collects the
    files that were put aside."""

    root: Path
    capacity: int = CAPACITY
    damaged: list[Path] = field(default_factory=list)
    _jobs: dict[str, Job] = field(default_factory=dict)
    _in_work: set[str] = field(default_factory=set)
    _woken: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @classmethod
    @contextmanager
    def opened(cls, root: Path, capacity: int = CAPACITY, wait: float = 0) -> Iterator["Queue"]:
        """Unavailable where another process works on it for longer than `wait` seconds."""
        (root / "jobs").mkdir(mode=0o755, parents=True, exist_ok=True)
        with held(root / "lock", str(root), wait, thing="queue"):
            queue = cls(root, capacity)
            queue._load()
            yield queue

    def put(self, reference: str, pushed_at: float, now: float | None = None) -> Job:
        """Keeps a push; it is on the disk when this returns. ResourceExhausted where the queue is full, and OSError of
        the disk: then it is not kept."""
        now = time.time() if now is None else now
        with self._changed:
            job = self._folded(reference, pushed_at, now)
            if reference not in self._jobs:
                self._make_room()
            self._write(job)
            self._changed.notify_all()
            return job

    def take(self, most: int = 1, now: float | None = None) -> tuple[Job, ...]:
        """At most so many jobs that are due, those first that have waited longest, with their attempts counted. Whoever
        takes one says `done` or `failed`."""
        now = time.time() if now is None else now
        with self._changed:
            due = [job for job in self._jobs.values() if not job.given_up and job.retry_at <= now]
            due = sorted(due, key=lambda job: job.received_at)[:most]
            taken = tuple(_begun(job, now) for job in due)
            for job in taken:
                self._write(job)
            self._in_work |= {job.push for job in taken}
            return taken

    def done(self, job: Job) -> None:
        """The image is published, and the job goes, unless it was pushed again meanwhile."""
        with self._changed:
            self._in_work.discard(job.push)
            if self._jobs[job.reference].push == job.push:
                self._remove(job.reference)

    def failed(self, job: Job, error: ContractError, hopeless: bool = False, now: float | None = None) -> Job:
        """The job waits, twice as long as before, or is given up. What it is now, also where a push came between."""
        now = time.time() if now is None else now
        with self._changed:
            self._in_work.discard(job.push)
            if self._jobs[job.reference].push != job.push:
                return self._jobs[job.reference]
            given_up = hopeless or job.attempts >= _ATTEMPTS
            wait = max(_wait_of(job.attempts), getattr(error, "seconds", 0.0))
            job = msgspec.structs.replace(
                job, reason=str(error), failed_since=job.failed_since or now, retry_at=now + wait, given_up=given_up
            )
            self._write(job)
            return job

    def put_off(self, job: Job, error: ContractError, now: float | None = None) -> Job:
        """The job waits for a moment, for what it is not to blame for: the attempt does not count."""
        now = time.time() if now is None else now
        with self._changed:
            self._in_work.discard(job.push)
            if self._jobs[job.reference].push != job.push:
                return self._jobs[job.reference]
            job = msgspec.structs.replace(
                job, attempts=job.attempts - 1, reason=str(error), failed_since=job.failed_since or now,
                retry_at=now + _FIRST_WAIT,
            )  # fmt: skip
            self._write(job)
            return job

    def wait(self, longest: float) -> None:
        """Until a job may be due, at most so many seconds. After `wake` nobody waits any more."""
        with self._changed:
            if self._woken:
                return
            times = [job.retry_at for job in self._jobs.values() if not job.given_up]
            until = max(0.0, min(times) - time.time()) if times else longest
            if until > 0:
                self._changed.wait(min(longest, until))

    def pause(self, longest: float) -> None:
        """Until something is kept, at most so many seconds, whatever is due; not after `wake`."""
        with self._changed:
            if not self._woken:
                self._changed.wait(longest)

    def wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def jobs(self) -> tuple[Job, ...]:
        """All of them, the oldest first."""
        with self._changed:
            return _sorted(self._jobs.values())

    def _folded(self, reference: str, pushed_at: float, now: float) -> Job:
        """One that fails begins anew: what was pushed may be what mends it."""
        fresh, known = Job(reference=reference, pushed_at=pushed_at, received_at=now), self._jobs.get(reference)
        if known is None or known.given_up or known.push in self._in_work:
            return fresh
        pushed_at = min(known.pushed_at, pushed_at)
        return msgspec.structs.replace(
            fresh, pushed_at=pushed_at, received_at=known.received_at, pushes=known.pushes + 1
        )

    def _make_room(self) -> None:
        if len(self._jobs) < self.capacity:
            return
        hopeless = [job for job in self._jobs.values() if job.given_up]
        if not hopeless:
            problem = f"holds {len(self._jobs)} images, and no more"
            raise ResourceExhausted("queue", str(self.root), problem, "look why they are not published: status --queue")
        self._remove(min(hopeless, key=lambda job: job.retry_at).reference)

    def _load(self) -> None:
        for path in (self.root / "jobs").glob(f"{UNFINISHED}*"):
            path.unlink()
        for job in _read(self.root, self.damaged):
            self._jobs[job.reference] = job
            if job.attempts >= _BROKEN_OFF and not job.given_up and not job.reason:
                reason = f"the publisher ended {job.attempts} times while it worked on this image"
                self._write(msgspec.structs.replace(job, reason=reason, failed_since=time.time()))

    def _write(self, job: Job) -> None:
        write_durably(_path(self.root, job.reference), msgspec.json.encode(job))
        self._jobs[job.reference] = job

    def _remove(self, reference: str) -> None:
        _path(self.root, reference).unlink(missing_ok=True)
        settle(self.root / "jobs")
        del self._jobs[reference]


def read_jobs(root: Path) -> tuple[Job, ...]:
    """The jobs as whoever does not work on them sees them; nothing is written."""
    return _sorted(_read(root, None))


def _begun(job: Job, now: float) -> Job:
    """With one more attempt. From the third on it is not due at once if this attempt ends with the process: an image
    that is too large for the machine would keep all others from being published."""
    attempts = job.attempts + 1
    retry_at = now + _wait_of(attempts) if attempts >= _BROKEN_OFF else job.retry_at
    return msgspec.structs.replace(job, attempts=attempts, retry_at=retry_at)


def _read(root: Path, damaged: list[Path] | None) -> Iterator[Job]:
    """What is damaged is put aside where `damaged` collects it, and passed over else."""
    for path in sorted((root / "jobs").glob("*.json")):
        try:
            job = _decode(path.read_bytes())
        except FileNotFoundError:
            continue
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            job = None
        if job is not None and _path(root, job.reference) == path:
            yield job
        elif damaged is not None:
            aside = path.with_suffix(".damaged")
            path.rename(aside)
            damaged.append(aside)


def _path(root: Path, reference: str) -> Path:
    """No name of an image is part of it."""
    return root / "jobs" / f"{hashlib.sha256(reference.encode()).hexdigest()}.json"


def _sorted(jobs: Iterable[Job]) -> tuple[Job, ...]:
    return tuple(sorted(jobs, key=lambda job: (job.given_up, job.received_at)))


def _wait_of(attempts: int) -> float:
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(max(attempts - 1, 0), 20))

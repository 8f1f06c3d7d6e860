"""What is wanted, and how it stands: state -> lines. Asks no registry."""

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Platform
from publisher.listening.queue import Job
from publisher.source import parse_platform
from publisher.wishes.run import is_published
from publisher.wishes.state import ImageState, StateDirectory, Wanted

Word = Literal["present", "gone", "failed", "never tried", "stale", "expired", "queued", "given up"]


class Line(msgspec.Struct, frozen=True):
    """One image. `gone` was published and is not in the repository any more; `stale` is there and no longer wanted,
    and the time of one that is `expired` is over; `queued` was pushed and is not yet published, `given up` never will
    be. `since` is when it was published, pushed, expired or began to fail, and
    `retry_at` when a failed one is tried again by what keeps running, in seconds since 1970."""

    name: str
    word: Word
    reason: str = ""
    since: float = 0
    retry_at: float = 0

    @property
    def is_well(self) -> bool:
        """Nothing is left to be done for it by a publication."""
        return self.word in ("present", "stale", "expired")


def walk_status(state: StateDirectory, layout: Layout, now: float) -> Iterator[Line]:
    """Wanted images in their order, then others that are there."""
    known, wanted = {image.reference: image for image in state.walk()}, state.wanted() or Wanted("", ())
    for name in wanted.references:
        yield _line(known.get(name), name, layout, wanted, now)
    for name in sorted(set(known) - set(wanted.references)):
        if known[name].digest and _is_there(known[name], layout):
            over = _over(known[name], wanted, now)
            yield over or Line(name, "stale", "is no longer wished for", known[name].published_at)


def walk_queue(jobs: Iterable[Job]) -> Iterator[Line]:
    """What was pushed and waits."""
    for job in jobs:
        if job.reason:
            word: Word = "given up" if job.given_up else "failed"
            yield Line(job.reference, word, job.reason, job.failed_since, 0 if job.given_up else job.retry_at)
        else:
            yield Line(job.reference, "queued", "", job.pushed_at)


def _line(image: ImageState | None, name: str, layout: Layout, wanted: Wanted, now: float) -> Line:
    if image is None:
        return Line(name, "never tried")
    if image.reason:
        return Line(name, "failed", image.reason, image.failed_since, image.retry_at)
    if over := _over(image, wanted, now):
        return over
    if not _is_there(image, layout):
        return Line(name, "gone", "is not in the repository as it was published", image.published_at)
    return Line(name, "present", "", image.published_at)


def _over(image: ImageState, wanted: Wanted, now: float) -> Line | None:
    end = wanted.end_of(image)
    if end is None or end > now:
        return None
    return Line(image.reference, "expired", wanted.why_expired, end)


def _is_there(image: ImageState, layout: Layout) -> bool:
    platforms: list[Platform] = [parse_platform(part.platform) for part in image.parts]
    return is_published(layout, image, Digest.parse(image.digest), platforms)

"""A repository as a store is built from it: asked with deadlines, several things at a time, and seen by the store's
users at a path that may be another one."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from cvmfsrepo.access import Access, DeadlineExpired
from cvmfsrepo.errors import Unavailable
from cvmfsrepo.layout import Layout
from cvmfsrepo.repository import Repository

T = TypeVar("T")
Item = TypeVar("Item")

SECONDS = 60.0
"""For an answer of a repository: generous, for nobody's container waits; a client tries a dead server about as long."""

WALK_SECONDS = 600.0
"""For walks: over the published images, and over layers that have no record."""

_WORKERS = 8
_SHARE = 8
_AT_A_TIME = _SHARE * _WORKERS
"""Items that share a deadline. A worker takes a share of them: to hand one over costs more than most take."""

_QUICK = 0.05
"""Seconds for so many items: less than they take over a network."""


def _work_through(work: Callable[[Item], T], share: Sequence[Item], seconds: float) -> list[T]:
    """The results of a share, or of its beginning when so many seconds are over."""
    until, results = time.monotonic() + seconds, list[T]()
    for item in share:
        results.append(work(item))
        if time.monotonic() > until:
            break
    return results


def _access() -> Access:
    return Access(SECONDS, _WORKERS)


@dataclass(frozen=True, slots=True)
class Place:
    """`links_to` is the absolute root under which the store's users see the repository; `access` is kept as long as
    the repository is, for it counts the calls that hang. `is_changing` where the repository is the open transaction of
    a publication: it has the revision and the inode numbers of what it was, and no device can be made there."""

    repository: Repository
    links_to: Path
    seconds: float = SECONDS
    walk_seconds: float = WALK_SECONDS
    access: Access = field(default_factory=_access, compare=False)
    is_changing: bool = False

    @property
    def seen(self) -> Layout:
        """The repository's paths as users see them."""
        return Layout(self.links_to)

    def ask(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """The result of `work()`; Unavailable where the repository does not answer."""
        (answer,) = self.ask_each(lambda _: work(), [None], seconds)
        return answer

    def ask_each(self, work: Callable[[Item], T], items: Sequence[Item], seconds: float | None = None) -> Iterator[T]:
        """`work(item)` of each, in their order; each batch has `seconds`. They run side by side where that is worth
        it: what a disk or a cache answers at once, one thread reads quicker than several that wait for each other. It
        stops where that ends, or it would have the time of all of them alone."""
        done, share, patience = 0, _SHARE, math.inf
        while batch := items[done : done + _AT_A_TIME]:
            began = time.monotonic()
            until = began + (self.seconds if seconds is None else seconds)
            shares = [batch[first : first + share] for first in range(0, len(batch), share)]
            answers = self.access.call_all([partial(_work_through, work, each, patience) for each in shares], until)
            is_quick = time.monotonic() - began < _QUICK
            share, patience = (_AT_A_TIME, _QUICK) if is_quick else (_SHARE, math.inf)
            for answer in answers:
                try:
                    results = answer()
                except (DeadlineExpired, OSError) as error:
                    self._fail(error)
                done += len(results)
                yield from results

    def check(self) -> int | None:
        """The mounted revision, of a repository that is there and that has one: an empty mount point is an outage, and
        must not pass for a repository without images."""

        def look() -> int | None:
            with os.scandir(self.repository.layout.layers) as names:
                next(names, None)
            return None if self.is_changing else self.repository.find_revision()

        return self.ask(look)

    def identity(self) -> tuple[str, str]:
        """Of the mounted repository and revision, as `Repository.find_identity`."""
        return ("", "") if self.is_changing else self.ask(self.repository.find_identity)

    def has_own_times(self) -> bool:
        """Whether its files' times tell what changed: the kernel's own, of a file system that can be written to."""
        if self.is_changing:
            return False
        return not self.ask(lambda: os.statvfs(self.repository.layout.root)).f_flag & os.ST_RDONLY

    def _fail(self, error: DeadlineExpired | OSError) -> NoReturn:
        raise self.unavailable(str(error)) from error

    def unavailable(self, problem: str) -> Unavailable:
        where = str(self.repository.layout.root)
        remedy = "nothing was changed; look whether it is mounted, and build again"
        return Unavailable("repository", where, f"does not answer: {problem}", remedy)

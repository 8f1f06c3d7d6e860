"""What a store's links lead to, mostly a repository: asked side by side, each with a deadline.

A repository that hangs does not answer the next question either. So a root of which one question was not answered in
time is asked no more, and is reported once.
"""

import errno
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

from cvmfsrepo.access import Access, DeadlineExpired
from podmanstore.checking.defects import Findings, Kind, named

T = TypeVar("T")

_WORKERS = 16
_LISTED = 10_000
"""Names of a directory that are looked at."""

_IN_REPOSITORY = re.compile(r"(/.*?)/\.(layers|metadata|flat|chains)/")
_GONE = frozenset({errno.ENOTCONN, errno.ENODEV, errno.ESTALE})
"""Errors that say something of the whole mount."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A file or directory outside: `identity` is its device and inode, `markers` the catalog marker and deletion
    markers that stand in its root."""

    is_directory: bool
    identity: tuple[int, int]
    markers: frozenset[str]


class Outside:
    """Asks; `findings` learns of repositories that hang or are not mounted when `report` is called."""

    def __init__(self, findings: Findings, deadline: float) -> None:
        self._findings = findings
        self._access = Access(deadline, workers=_WORKERS)
        self._silent = Counter[str]()
        self._unmounted = Counter[str]()

    def ask(self, paths: Iterable[str], work: Callable[[str], T]) -> dict[str, T | OSError]:
        """`work(path)` of each, or its error; what did not answer, or lies where nothing is mounted, is left out."""
        answers = dict[str, T | OSError]()
        waiting = deque(dict.fromkeys(paths))
        while batch := self._next(waiting):
            outcomes = self._access.call_all([partial(work, path) for path in batch])
            for path, outcome in zip(batch, outcomes, strict=True):
                try:
                    answers[path] = outcome()
                except DeadlineExpired:
                    self._silent[root_of(path)] += 1
                except OSError as error:
                    answers[path] = error
        return self._without_unmounted(answers)

    def report(self) -> None:
        """One defect for each root; what is counted are the layers and files that could not be checked."""
        for root, count in self._silent.items():
            problem = f"does not answer within {self._access.deadline:g} s: {count} links into it were not checked"
            self._findings.add(Kind.REPOSITORY_SILENT, named("repository", root), problem)
        for root, count in self._unmounted.items():
            problem = f"is not mounted: {count} links of the store lead into it, and containers on them do not start"
            self._findings.add(Kind.REPOSITORY_UNMOUNTED, named("repository", root), problem)

    def _next(self, waiting: deque[str]) -> list[str]:
        batch: list[str] = []
        while waiting and len(batch) < _WORKERS:
            path = waiting.popleft()
            if (root := root_of(path)) in self._silent:
                self._silent[root] += 1
            else:
                batch.append(path)
        return batch

    def _without_unmounted(self, answers: Mapping[str, T | OSError]) -> dict[str, T | OSError]:
        failed = (path for path, answer in answers.items() if isinstance(answer, OSError))
        roots = {root_of(path) for path in failed if _IN_REPOSITORY.match(path)}
        gone = {root for root in roots if self._is_gone(root)}
        kept = {path: answer for path, answer in answers.items() if root_of(path) not in gone}
        self._unmounted.update(root_of(path) for path in answers if path not in kept)
        return kept

    def _is_gone(self, root: str) -> bool:
        """Nothing is mounted there, or what is has died. A repository has layers."""
        if root in self._unmounted:
            return True
        try:
            self._access.call(partial(os.stat, f"{root}/.layers"))
        except DeadlineExpired:
            self._silent[root] += 1
        except OSError as error:
            return error.errno in _GONE or error.errno in (errno.ENOENT, errno.ENOTDIR)
        return False


def root_of(path: str) -> str:
    """The repository in which a path lies; for any other path the directory that holds it."""
    match = _IN_REPOSITORY.match(path)
    return match[1] if match else os.path.dirname(path)


def look(path: str) -> Seen:
    """What stands at a path. A directory counts only once an entry of it was read: a good stat is no readable layer."""
    status = os.stat(path)
    markers = frozenset[str]()
    if stat.S_ISDIR(status.st_mode):
        with os.scandir(path) as entries:
            names = [entry.name for entry in islice(entries, _LISTED)]
        markers = frozenset(name for name in names if name == ".cvmfscatalog" or name.startswith(".wh."))
    return Seen(stat.S_ISDIR(status.st_mode), (status.st_dev, status.st_ino), markers)

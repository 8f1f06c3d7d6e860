"""The threads that keep the index: one for each repository, each reading when there is a new revision.

A repository without revisions, which is a plain directory, is read again after an interval. After trouble it is tried
again soon, and then less and less often. Nothing waits for these threads; what goes wrong in them is a line in the log.
"""

import contextlib
import logging
import threading
import time

from cvmfsrepo.errors import ContractError
from cvmfsrepo.guarded import GuardedRepository
from snapshotter.index.crawl import crawl
from snapshotter.index.database import Damaged, Unwritable
from snapshotter.index.pace import Moved, Pace, Stopped
from snapshotter.index.store import Index
from snapshotter.index.writing import Writer
from snapshotter.log import event

_log = logging.getLogger(__name__)

_STOP_SECONDS = 2.0
_FIRST = 5.0
"""Seconds after the start before the first look, at most: what the last process read is there, and pulls come first."""
_LASTING = 3
"""Failures in a row after which trouble is worth a warning."""
_MOST_NAMED = 10
"""Malformed entries in one line of the log."""


class Indexer:
    """Of one repository. `interval` is in seconds, `rate` in visits a second."""

    def __init__(self, index: Index, repository: GuardedRepository, interval: float, rate: float) -> None:
        self._index, self._repository, self._interval = index, repository, interval
        self._name, self._root = repository.name, str(repository.repository.layout.root)
        self._stop = threading.Event()
        self._pace = Pace(repository, rate, self._stop)
        self._thread = threading.Thread(target=self._run, name=f"indexer of {self._name}", daemon=True)
        self._mounts, self._failures = repository.mounts, 0
        self._revision: int | None = None
        self._generation = -1
        self._trouble, self._named = "", list[str]()
        self._renewed = float("-inf")
        self.running = False
        index.join(self._name, self)

    @property
    def problem(self) -> str:
        """What keeps it from going on now, or ""."""
        return self._pace.problem or self._trouble

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the thread has ended, which never hangs in a repository itself."""
        self._stop.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        with contextlib.suppress(Stopped):
            self._wait(min(self._interval, _FIRST))
            while True:
                self._wait(self._look())

    def _wait(self, seconds: float) -> None:
        """Until then, or until the file behind the index is another one or turns out to be damaged."""
        database, end = self._index.database, time.monotonic() + seconds
        known = (database.generation, database.damage)
        while (left := end - time.monotonic()) > 0 and (database.generation, database.damage) == known:
            self._pace.sleep(min(left, self._repository.interval))

    def _look(self) -> float:
        """Reads if there is something new; the seconds until the next look."""
        if self._is_settled:
            return self._until_next(self._revision)
        try:
            generation = self._index.database.generation
            revision = self._pace.visit(self._repository.find_revision)
            if revision is None or not self._is_current(revision):
                self.running = True
                if trouble := self._read(revision):
                    return self._after("repository not read as a whole", trouble)
            self._trouble, self._failures = "", 0
            self._revision, self._generation = revision, generation
            return self._until_next(revision)
        except Moved:
            return 0.0
        except Damaged as error:
            return self._renew(str(error))
        except Unwritable as error:
            return self._after("index not written", str(error))
        except (OSError, ContractError) as error:
            return self._after("repository not indexed", str(error))
        finally:
            self.running = False

    def _is_current(self, revision: int) -> bool:
        """Whether the index has all of this revision of what is mounted now."""
        read_at = Writer(self._index.database, self._name).read_at()
        return read_at == (self._root, revision) and not self._is_moved

    @property
    def _is_settled(self) -> bool:
        """Whether nothing happened since the last look, as far as can be known without one."""
        database = self._index.database
        is_same_file = database.generation == self._generation and not database.damage
        is_same_revision = self._revision is not None and self._revision == self._repository.seen_revision
        return is_same_file and is_same_revision and not self._is_moved

    @property
    def _is_moved(self) -> bool:
        """Whether something else is mounted than what was read."""
        return self._mounts != self._repository.mounts

    def _until_next(self, revision: int | None) -> float:
        """The prober tells of new revisions; what has none is read at intervals."""
        return self._interval if revision is None else min(self._interval, self._repository.interval)

    def _read(self, revision: int | None) -> str:
        began, mounts, before = time.monotonic(), self._repository.mounts, self._index.state(self._name)
        began_at = time.time_ns()
        trouble = crawl(self._index.database, self._repository.repository, self._pace, revision)
        if not trouble:
            self._mounts = mounts
        for seconds in self._index.find_delays(self._name, began_at) if before.updated else ():
            self._index.on_sight(self._name, seconds)
        state = self._index.state(self._name)
        changed = (before.images, before.layers, before.revision) != (state.images, state.layers, state.revision)
        event(
            _log, logging.INFO if changed else logging.DEBUG, "repository indexed",
            repository=self._name, revision=revision, images=state.images, layers=state.layers,
            malformed=state.malformed, complete=state.complete, seconds=round(time.monotonic() - began, 3),
        )  # fmt: skip
        self._name_malformed()
        return trouble

    def _name_malformed(self) -> None:
        """Says what is passed over, when it is something else than last time."""
        found = self._index.malformed(self._name)
        named = [path for path, _ in found]
        if named and named != self._named:
            event(
                _log, logging.WARNING, "malformed entries in repository",
                repository=self._name, entries=len(found), first=[": ".join(each) for each in found[:_MOST_NAMED]],
            )  # fmt: skip
        self._named = named

    def _after(self, message: str, trouble: str) -> float:
        """The seconds to wait after trouble, of which the log tells once, and only if it lasts: a repository that is
        not mounted yet at the start of the machine is none."""
        self._trouble = trouble
        self._failures += 1
        if self._failures == _LASTING:
            event(_log, logging.WARNING, message, repository=self._name, detail=trouble)
        return min(self._interval, self._repository.interval * float(1 << min(self._failures, 16)))

    def _renew(self, damage: str) -> float:
        """The index is thrown away and made anew; not again and again where that does not help."""
        try:
            if self._index.database.renew():
                event(
                    _log, logging.WARNING, "index damaged, made anew",
                    path=str(self._index.database.path), detail=damage,
                )  # fmt: skip
        except OSError as error:
            return self._after("index damaged, and cannot be removed", str(error))
        last, self._renewed = self._renewed, time.monotonic()
        return 0.0 if self._renewed - last > self._interval else self._interval

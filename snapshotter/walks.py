"""Walks over layers that have no tree record: one for each layer, however many ask for it, and to its end.

A walk may take longer than a Prepare can wait. So it runs by itself, goes on when nobody waits any more, and keeps what
it found: the next pull has it. Its threads are bounded, also where they hang on a mount that is no more.
"""

import threading
import time
from dataclasses import dataclass, field

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.outline import Outline
from cvmfsrepo.repository import deadline_in
from cvmfsrepo.walk import WalkExpired
from snapshotter.shimstore import ShimStore

AT_ONE_TIME = 8
"""Walks of one repository: each keeps it busy."""

MOST = 64
"""Walks in all, with those that hang for ever."""

LONGEST = 3600.0
"""Seconds for one walk."""

_Key = tuple[str, int, Digest]


@dataclass(slots=True)
class _Walk:
    """A walk and, once it is `done`, its outcome."""

    done: threading.Event = field(default_factory=threading.Event)
    outline: Outline | None = None
    error: Exception | None = None


class Walks:
    """Those that run now; what they bring is kept in the store."""

    def __init__(self, store: ShimStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._running: dict[_Key, _Walk] = {}

    def outline(self, repository: GuardedRepository, layer: Digest, until: float) -> Outline:
        """The outline of a layer that was found; WalkExpired where it is not known at `until` (of time.monotonic).
        OSError and DataLoss as they come."""
        walk = self._joined((repository.name, repository.mounts, layer), repository)
        if not walk.done.wait(max(0.0, until - time.monotonic())):
            raise WalkExpired(f"layer {layer} has no tree record; the walk over it goes on for the next pull")
        if walk.outline is None:
            raise walk.error or WalkExpired(f"the walk over layer {layer} came to no end")
        return walk.outline

    def _joined(self, key: _Key, repository: GuardedRepository) -> _Walk:
        """The walk of a layer: the one that runs, or a new one."""
        with self._lock:
            if walk := self._running.get(key):
                return walk
            walk = _Walk(outline=self._store.find_outline(key[2]))
            if walk.outline:  # it ended just now
                walk.done.set()
                return walk
            if len(self._running) >= MOST or sum(other[:2] == key[:2] for other in self._running) >= AT_ONE_TIME:
                raise WalkExpired(f"layer {key[2]} has no tree record, and too many such layers are walked over now")
            self._running[key] = walk
        threading.Thread(target=self._walk, args=(key, walk, repository), name="walk", daemon=True).start()
        return walk

    def _walk(self, key: _Key, walk: _Walk, repository: GuardedRepository) -> None:
        try:
            walk.outline = repository.repository.walk_outline(key[2], deadline_in(LONGEST))
            self._store.keep_outline(key[2], walk.outline)
        except (OSError, DataLoss, WalkExpired, UnicodeError) as error:  # if it cannot be kept, it is good for now
            walk.error = error
        finally:
            with self._lock:
                del self._running[key]
            walk.done.set()

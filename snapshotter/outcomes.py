"""The one line that every Prepare of a pull leaves, and the counts of how they went."""

import logging
import threading
from collections import Counter

from cvmfsrepo.digest import Digest
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Missing
from snapshotter.labels import Wanted
from snapshotter.log import event
from snapshotter.remote import FoundLayer

_log = logging.getLogger(__name__)


class Outcomes:
    """Counts since the start of the process: hits by repository and by layer, misses by reason and repository."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hits: Counter[str] = Counter()
        self._misses: Counter[tuple[Reason, str]] = Counter()
        self._layers: Counter[Digest] = Counter()

    @property
    def hits(self) -> dict[str, int]:
        with self._lock:
            return dict(self._hits)

    @property
    def misses(self) -> dict[Reason, int]:
        """By reason alone."""
        found = Counter[Reason]()
        for (reason, _), count in self.misses_by_repository.items():
            found[reason] += count
        return dict(found)

    @property
    def misses_by_repository(self) -> dict[tuple[Reason, str], int]:
        """By reason and repository, which is "" where none was asked."""
        with self._lock:
            return dict(self._misses)

    @property
    def layers(self) -> dict[Digest, int]:
        """Layers, each with how often it was served. Their sizes are looked up when somebody asks, not in a Prepare."""
        with self._lock:
            return dict(self._layers)

    def log(self, key: str, parent: str, wanted: Wanted, found: FoundLayer | Missing, seconds: float) -> None:
        """Counts and says how a Prepare of a pull went: a hit on level info, a miss as a warning with its reason."""
        fields: dict[str, object] = {
            "key": key, "parent": parent, "target": wanted.target, "image": wanted.image,
            "layer": str(wanted.layer or ""), "seconds": round(seconds, 6),
        }  # fmt: skip
        if isinstance(found, Missing):
            with self._lock:
                self._misses[found.reason, found.repository] += 1
            fields |= {"outcome": "miss", "repository": found.repository}
            fields |= {"reason": str(found.reason), "detail": found.detail}
            event(_log, logging.WARNING, "remote prepare", **fields)
            return
        with self._lock:
            self._hits[found.remote.repository] += 1
            self._layers[found.layer.digest] += 1
        fields |= {
            "outcome": "hit", "layer": str(found.layer.digest), "reason": "",
            "repository": found.remote.repository, "revision": found.remote.revision,
        }  # fmt: skip
        event(_log, logging.INFO, "remote prepare", **fields)

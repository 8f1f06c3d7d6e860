"""The repositories that are served, each with its guard, its prober and its indexer. They change while the daemon runs:
one that stays as it is keeps all that is known of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import Layout
from cvmfsrepo.repository import Repository
from snapshotter.config import Config, RepositoryConfig
from snapshotter.index.indexer import Indexer
from snapshotter.index.store import Index


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a guard is made of: with other terms it is another guard."""

    name: str
    root: Path
    deadline: float
    probe_interval: float


class Sources:
    """`repositories` are those of the last configuration, in order of priority. For one thread at a time."""

    def __init__(self, index: Index | None) -> None:
        self._index = index
        self._guards: dict[_Terms, GuardedRepository] = {}
        self._indexers: dict[_Terms, Indexer] = {}

    @property
    def repositories(self) -> Sequence[GuardedRepository]:
        return tuple(self._guards.values())

    def guards(self, config: Config) -> dict[_Terms, GuardedRepository]:
        """The guards that a configuration asks for: those that are there, and new ones, which nothing probes yet."""
        wanted = [_terms(one, config) for one in config.served]
        return {terms: self._guards.get(terms) or _guard(terms) for terms in wanted}

    def use(self, guards: dict[_Terms, GuardedRepository], config: Config) -> None:
        """Probes and indexes these from now on, and lets go of the others."""
        before, self._guards = self._guards, guards
        for terms in guards.keys() - before.keys():
            guards[terms].start_probing()
        for terms in before.keys() - guards.keys():
            before[terms].stop_probing()
            if indexer := self._indexers.pop(terms, None):
                indexer.stop()
        if self._index:
            for terms in guards.keys() - self._indexers.keys():
                indexer = Indexer(self._index, guards[terms], config.index_interval, config.index_rate)
                self._indexers[terms] = indexer
                indexer.start()

    def close(self) -> None:
        """Lets go of all."""
        for indexer in self._indexers.values():
            indexer.stop()
        for guard in self._guards.values():
            guard.stop_probing()


def _terms(one: RepositoryConfig, config: Config) -> _Terms:
    return _Terms(one.name, one.root, config.deadline, config.probe_interval)


def _guard(terms: _Terms) -> GuardedRepository:
    return GuardedRepository(Repository(terms.name, Layout(terms.root)), terms.deadline, terms.probe_interval)

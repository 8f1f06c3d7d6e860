"""The answers: what the daemon knows, as values. A command without a daemon asks the same of the disk.

Nothing here waits for a repository, but for `explain`, which says under the repository's deadline whether the layers
can be read, and for the status where no daemon knows how a repository is. No pull waits for what is asked here.
"""

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from importlib.metadata import version
from typing import Self

import msgspec

from cvmfsrepo.breaker import State
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import FailedPrecondition, InvalidArgument, NotFound
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Missing
from snapshotter.admin import values
from snapshotter.admin.address import admin_address
from snapshotter.admin.indexed import Indexed
from snapshotter.backup import BACKUP, write_copy
from snapshotter.filters import parse_filters
from snapshotter.inspect import findings
from snapshotter.metastore import Record
from snapshotter.mounts import active_mounts, view_mounts
from snapshotter.node import Node, RunningNode
from snapshotter.repair import as_problem, mend
from snapshotter.snapshots import Kind

_REVISION_SECONDS = 0.2
"""For which an answer waits for a revision that is at hand unless the repository is busy."""

_MOST_NAMED = 5
"""Snapshots that an ambiguous name is answered with."""


class Facts:
    """Answers about one node. Safe to be called from many threads."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._started = time.time_ns()
        self._repairing = threading.Lock()
        self._revisions: dict[str, int | None] = {}
        self._indexed = Indexed(node.index)

    def about(self, node: Node) -> Self:
        """The same answers about the same node with other settings."""
        other = copy(self)
        other._node = node
        return other

    def status(self, measure: bool = False) -> values.Status:
        """How the node is doing; `measure` walks over what active snapshots have written."""
        node, is_running = self._node, isinstance(self._node, RunningNode)
        records = list(node.store.walk(parse_filters([])))
        return values.Status(
            running=is_running,
            version=version("cvmfs-snapshotter"),
            root=node.config.root,
            address=str(admin_address(node.config)),
            pid=os.getpid() if is_running else 0,
            started=self._started if is_running else 0,
            repositories=tuple(map(self._repository, node.repositories)),
            snapshots=_counts(records),
            disk=self._disk(records, measure),
            served=self._served(),
            backup=_written(f"{node.config.root}/{BACKUP}"),
        )

    def walk(self, filters: Sequence[str] = ()) -> Iterator[values.Snapshot]:
        """Records that match one of the filters, or all."""
        return map(_snapshot, self._node.store.walk(parse_filters(filters)))

    def explain(self, name: str) -> values.Explanation:
        """A snapshot by its name, or by (the beginning of) the last part of it, and all that it stands on."""
        node = self._node
        chain = node.store.get_chain(self._name(name))
        top, below = chain[0], chain[1:]
        directory = node.disk.directory(top.id)
        if top.info.kind is Kind.ACTIVE:
            mounts = active_mounts(node.disk.lowers(below), directory, node.options)
        elif top.info.kind is Kind.VIEW:
            mounts = view_mounts(node.disk.lowers(below), directory, node.options)
        else:
            mounts = view_mounts(node.disk.lowers(chain), directory, node.options)
        missing = node.remote.find_unreadable([record.remote for record in chain if record.remote])
        return values.Explanation(
            chain=tuple(map(self._shown, chain)),
            mounts=tuple(values.MountPlan(mount.type, mount.source, mount.options) for mount in mounts),
            of_view=top.info.kind is Kind.COMMITTED,
            unreadable=f"{missing.reason}: {missing.detail}" if missing else "",
        )

    def findings(self) -> tuple[values.Problem, ...]:
        """What differs between the records and the directories behind them."""
        found = findings(self._node.store.walk(parse_filters([])), self._node.disk)
        return tuple(values.Problem(_text(one.path), _text(one.problem), one.remedy) for one in found)

    def repair(self) -> tuple[values.Problem, ...]:
        """Mends what is provably ours, while the daemon serves; one at a time. Answers what it did."""
        node = self._node
        if not isinstance(node, RunningNode):
            raise FailedPrecondition("state", node.config.root, "is mended by a running daemon only", "start it")
        with self._repairing:
            return tuple(map(as_problem, mend(node)))

    def back_up(self) -> values.Backup:
        """Renews the copy of the database that stands beside it: the daemon can be sure to write nowhere else."""
        node = self._node
        path = node.disk.root / BACKUP
        if isinstance(node, RunningNode):
            node.backups.save()
        else:
            write_copy(node.store, path)
        status = path.stat()
        return values.Backup(str(path), status.st_mtime_ns, status.st_size)

    def walk_images(self, pattern: str = "") -> Iterator[values.ImageFacts]:
        return self._indexed.walk_images(pattern)

    def get_image(self, reference: str) -> values.ImageFacts:
        return self._indexed.get_image(reference)

    def get_layers(self, digest: str) -> tuple[values.LayerFacts, ...]:
        """A layer by its digest or diff id: each that the index or a record knows, with what uses it."""
        wanted = Digest.parse(digest, "layer digest")
        users = dict[str, list[str]]()
        for record in self._node.store.walk(parse_filters([])):
            if record.remote:
                users.setdefault(record.remote.layer, []).append(record.info.name)
        found = self._indexed.find_layers(wanted, users)
        if not found:
            raise NotFound("layer", digest, "is in no index and in no snapshot of this node")
        return found

    def malformed(self, repository: str) -> tuple[values.Problem, ...]:
        """What the index passes over in a repository."""
        return tuple(
            values.Problem(_text(path), _text(problem)) for path, problem in self._indexed.malformed(repository)
        )

    def _name(self, name: str) -> str:
        """The snapshot that is meant: by its whole name, the last part of one, or the beginning of that."""
        if not name or self._node.store.exists(name):
            return name
        names = [record.info.name for record in self._node.store.walk(parse_filters([]))]
        found = [one for one in names if one.endswith(f"/{name}")]
        found = found or [one for one in names if one.rpartition("/")[2].startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InvalidArgument("snapshot", name, f"means several: {', '.join(found[:_MOST_NAMED])}")
        raise NotFound("snapshot", name, "does not exist")

    def _shown(self, record: Record) -> values.Shown:
        node, link = self._node, ""
        with contextlib.suppress(OSError):
            link = os.readlink(f"{node.disk.directory(record.id)}/fs")
        losses = node.shims.find_losses(Digest(record.remote.layer)) if record.remote else None
        return values.Shown(
            _snapshot(record), tuple(node.disk.lowers([record])) if record.info.kind is Kind.COMMITTED else (),
            _text(link), tuple(losses or ()), losses is not None,
        )  # fmt: skip

    def _repository(self, guarded: GuardedRepository) -> values.RepositoryStatus:
        if not isinstance(self._node, RunningNode):
            return looked_at(guarded, self._indexed.status(guarded.name))
        health = guarded.health
        return values.RepositoryStatus(
            name=guarded.name,
            root=str(guarded.repository.layout.root),
            state=str(health.state),
            since=time.time_ns() - int((time.monotonic() - health.since) * 1e9),
            detail=_text(health.detail),
            revision=self._revision(guarded),
            index=self._indexed.status(guarded.name),
        )

    def _revision(self, guarded: GuardedRepository) -> int | None:
        """As the prober saw it last; the one before it where the repository does not answer."""
        noted = threading.Event()

        def note() -> None:
            self._revisions[guarded.name] = guarded.find_revision()
            noted.set()

        if guarded.health.state is State.HEALTHY:
            guarded.later(note)
            noted.wait(_REVISION_SECONDS)
        return self._revisions.get(guarded.name)

    def _disk(self, records: Sequence[Record], measure: bool) -> values.DiskUse:
        disk = self._node.disk
        system = os.statvfs(disk.root)
        active = [record.id for record in records if record.info.kind is Kind.ACTIVE]
        local = [record for record in records if record.info.kind is Kind.COMMITTED and not record.remote]
        return values.DiskUse(
            committed=sum(record.usage.size for record in local),
            active=sum(map(self._size, active)) if measure else None,
            shims=len(os.listdir(disk.shims)),
            free=system.f_bavail * system.f_frsize,
            capacity=system.f_blocks * system.f_frsize,
            free_inodes=system.f_favail,
        )

    def _size(self, number: int) -> int:
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            return self._node.disk.usage(number).size
        return 0

    def _served(self) -> values.Served | None:
        if not isinstance(self._node, RunningNode):
            return None
        outcomes = self._node.verbs.outcomes
        spared, unknown = 0, 0
        for layer, times in outcomes.layers.items():
            size = self._indexed.find_size(layer)
            spared, unknown = (spared, unknown + times) if size is None else (spared + size * times, unknown)
        misses = {str(reason): count for reason, count in outcomes.misses.items()}
        return values.Served(outcomes.hits, misses, spared, unknown)


def looked_at(guarded: GuardedRepository, index: values.IndexStatus | None = None) -> values.RepositoryStatus:
    """How a repository is that nobody probes: it is asked now, under its deadline."""
    answer = guarded.call(lambda: _look(guarded))
    root = str(guarded.repository.layout.root)
    if isinstance(answer, Missing):
        return values.RepositoryStatus(guarded.name, root, str(answer.reason), detail=_text(answer.detail), index=index)
    return values.RepositoryStatus(guarded.name, root, "answers", revision=answer, index=index)


def _look(guarded: GuardedRepository) -> int | Missing | None:
    mounted = guarded.repository.why_missing("nothing")
    if mounted.reason is not Reason.ABSENT:
        return mounted
    with os.scandir(guarded.repository.layout.layers) as names:
        next(names, None)
    return guarded.find_revision()


def _counts(records: Sequence[Record]) -> values.SnapshotCounts:
    kinds = Counter(record.info.kind for record in records)
    remote = sum(record.remote is not None for record in records)
    missed = sum(bool(record.miss) for record in records)
    return values.SnapshotCounts(kinds[Kind.ACTIVE], kinds[Kind.VIEW], remote, kinds[Kind.COMMITTED] - remote, missed)


def _snapshot(record: Record) -> values.Snapshot:
    info, remote = record.info, record.remote
    known = values.Snapshot(
        info.name, info.kind.label, info.parent, record.id, info.created, info.updated, info.labels,
        record.usage.size, record.usage.inodes, miss=record.miss,
    )  # fmt: skip
    if remote is None:
        return known
    return msgspec.structs.replace(
        known, repository=remote.repository, layer=f"sha256:{remote.layer}", revision=remote.revision,
        hide=remote.hide, white=remote.white,
    )  # fmt: skip


def _written(path: str) -> int:
    """When a file was written; 0 where there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


def _text(text: str) -> str:
    """Text that travels: a name on a disk may hold any byte."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")

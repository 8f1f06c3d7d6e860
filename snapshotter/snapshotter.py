"""The ten verbs. Each reads from top to bottom; what a rule is and why stands in `snapshots`.

Order on the disk. To make: stage the directory, write the record, give the directory its number, commit. To remove:
delete the record, commit, delete the directory. So a record always has its directory, whenever the process dies, and
a directory without a record is an orphan that may go. A repository is touched only between transactions.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cvmfsrepo.errors import AlreadyExists, FailedPrecondition, InvalidArgument, Unavailable
from cvmfsrepo.repository import Missing
from snapshotter import labels as label
from snapshotter.disk import Disk, remove_tree
from snapshotter.filters import parse_filters
from snapshotter.labels import Wanted, wanted_layer
from snapshotter.log import event
from snapshotter.metastore import Metastore, Record
from snapshotter.mounts import MountOptions, active_mounts, view_mounts
from snapshotter.outcomes import Outcomes
from snapshotter.policy import (
    DEFAULT,
    MOST_WAITING,
    WAIT_STEP,
    Policies,
    Policy,
    check_allowed,
    seconds_to_wait,
)
from snapshotter.remote import FoundLayer, RemoteLayers
from snapshotter.snapshots import Info, Kind, Mount, Usage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Serving:
    """What may change while calls run: each takes it once."""

    remote: RemoteLayers
    policies: Policies


class Snapshotter:
    """Snapshots under one root directory. Safe to be called from many threads."""

    def __init__(
        self, store: Metastore, disk: Disk, remote: RemoteLayers, options: MountOptions, policies: Policies = DEFAULT
    ) -> None:
        self._store, self._disk, self._options = store, disk, options
        self._serving, self._waiting = _Serving(remote, policies), threading.BoundedSemaphore(MOST_WAITING)
        self.outcomes = Outcomes()

    def serve(self, remote: RemoteLayers, policies: Policies) -> None:
        """From the next call on these hold; calls that run keep theirs."""
        self._serving = _Serving(remote, policies)

    def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]:
        """An active snapshot and how to mount it; AlreadyExists when a repository's layer was committed instead."""
        wanted = wanted_layer(labels)
        if wanted is None:
            return self._create(Kind.ACTIVE, key, parent, labels)
        serving, started = self._serving, time.monotonic()
        policy = serving.policies.of_image(wanted.image)
        found = self._find_remote(key, parent, wanted, policy, serving.remote)
        if isinstance(found, FoundLayer):
            self._commit_remote(parent, wanted, labels, found)
        self.outcomes.log(key, parent, wanted, found, time.monotonic() - started)
        if isinstance(found, Missing):
            check_allowed(policy, wanted, found)
            return self._create(Kind.ACTIVE, key, parent, labels, found)
        raise AlreadyExists("snapshot", wanted.target, "is served from a repository; nothing is to be downloaded")

    def view(self, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]:
        """A view of a committed snapshot, or of nothing."""
        return self._create(Kind.VIEW, key, parent, labels)

    def mounts(self, key: str) -> tuple[Mount, ...]:
        chain = self._store.get_chain(key)
        if chain[0].info.kind is Kind.COMMITTED:
            raise FailedPrecondition("snapshot", key, "is committed and cannot be mounted", "make a view of it")
        self._check_readable(chain)
        return self._mounts(chain[0].info.kind, chain[0].id, chain[1:])

    def commit(self, name: str, key: str, labels: Mapping[str, str], parent: str = "") -> None:
        """`parent` is the one that a snapshot prepared without a parent shall stand on (containerd's `rebase`)."""
        usage = self.usage(key)
        with self._store.transaction() as transaction:
            transaction.commit_active(key, name, labels, usage, parent)

    def remove(self, key: str) -> None:
        with self._store.transaction() as transaction:
            number = transaction.delete(key)
        try:
            self._disk.remove(number)
        except OSError as error:  # the snapshot is gone; Cleanup takes the rest
            event(_log, logging.WARNING, "directory not removed", key=key, id=number, detail=str(error))

    def stat(self, key: str) -> Info:
        return self._store.get(key).public_info

    def update(self, info: Info, paths: Sequence[str]) -> Info:
        """Changes labels: `paths` is a field mask of `labels` or `labels.<name>`; none means all labels."""
        with self._store.transaction() as transaction:
            current = transaction.get(info.name).info.labels
            return transaction.set_labels(info.name, _masked(current, info.labels, paths)).public_info

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        """Infos that match one of the filters, or all."""
        return (record.public_info for record in self._store.walk(parse_filters(filters)))

    def usage(self, key: str) -> Usage:
        """Of an active snapshot what it takes now; of a committed one what it took; of a repository's layer nothing."""
        record = self._store.get(key)
        if record.info.kind is not Kind.ACTIVE:
            return record.usage
        try:
            return self._disk.usage(record.id)
        except FileNotFoundError:
            self._store.get(key)  # NotFound where it was removed meanwhile
            raise

    def cleanup(self) -> None:
        """Removes directories of ours that no record has."""
        with self._store.transaction() as transaction:  # no directory gets its number meanwhile
            orphans = self._disk.set_aside(transaction.ids(), transaction.last_number())
        for path in orphans:
            remove_tree(path)

    def _create(
        self, kind: Kind, key: str, parent: str, labels: Mapping[str, str], miss: Missing | None = None
    ) -> tuple[Mount, ...]:
        chain = self._store.get_parent_chain(parent)
        if miss is None:  # a container's or a person's; a pull asks for its own layer only
            _check_owners(key, chain, labels)
            self._check_readable(chain)
        with (
            self._disk.staged_local(kind is Kind.ACTIVE, self._disk.ownership(chain)) as staged,
            self._store.transaction() as transaction,
        ):
            number = transaction.create(kind, key, parent, labels, miss=f"{miss.reason}: {miss.detail}" if miss else "")
            staged.place(number)
        return self._mounts(kind, number, chain)

    def _check_readable(self, chain: Iterable[Record]) -> None:
        """Refuses to say how to mount what would fail later with a riddle."""
        layers = [record.remote for record in chain if record.remote]
        if missing := self._serving.remote.find_unreadable(layers):
            raise Unavailable(
                "snapshot", next(iter(chain)).info.name, f"stands on a layer that cannot be read now ({missing.reason}:"
                f" {missing.detail})", "it works again, without a restart, when the layer is back",
            )  # fmt: skip

    def _mounts(self, kind: Kind, number: int, chain: Iterable[Record]) -> tuple[Mount, ...]:
        mount = active_mounts if kind is Kind.ACTIVE else view_mounts
        return mount(self._disk.lowers(chain), self._disk.directory(number), self._options)

    def _find_remote(
        self, key: str, parent: str, wanted: Wanted, policy: Policy, remote: RemoteLayers
    ) -> FoundLayer | Missing:
        """The layer, unless the request breaks the contract anyway; waited for as long as the policy says."""
        chain = self._store.get_parent_chain(parent)
        if self._store.exists(key):
            raise AlreadyExists("snapshot", key, "exists already")
        if wanted.problem:
            return wanted.problem
        lowers, end = self._disk.lowers(chain), time.monotonic() + seconds_to_wait(policy)
        found = remote.find(wanted, lowers)
        if isinstance(found, FoundLayer) or end <= time.monotonic() or not self._waiting.acquire(blocking=False):
            return found
        try:
            while isinstance(found, Missing) and time.monotonic() < end:
                time.sleep(WAIT_STEP)
                found = remote.find(wanted, lowers)
            return found
        finally:
            self._waiting.release()

    def _commit_remote(self, parent: str, wanted: Wanted, labels: Mapping[str, str], found: FoundLayer) -> None:
        """Creates and commits in one transaction; somebody may have done it before, also for another namespace."""
        name = remote_name(wanted.target, parent)
        all_labels = {**labels, label.REMOTE: found.remote.repository}
        if self._store.exists(name):
            self._keep_findable(name, wanted.target, all_labels)
            return
        try:
            with (
                self._disk.staged_remote(found.layer.path, found.remote) as staged,
                self._store.transaction() as transaction,
            ):
                staged.place(transaction.create(Kind.COMMITTED, name, parent, all_labels, found.remote))
        except AlreadyExists:
            return

    def _keep_findable(self, name: str, target: str, labels: Mapping[str, str]) -> None:
        """The caller looks the snapshot up by its target; somebody's Update may have taken that label away."""
        if self._store.get(name).info.labels.get(label.TARGET) != target:
            with self._store.transaction() as transaction:
                transaction.set_labels(name, labels)


def _check_owners(key: str, chain: Sequence[Record], labels: Mapping[str, str]) -> None:
    """Refuses what would end in a copy of the whole image: containerd gives files other owners one by one where it
    cannot map them, and each of those copies is a download."""
    served = next((record.remote for record in chain if record.remote), None)
    if served and label.is_mapped(labels):
        raise FailedPrecondition(
            "snapshot", key, f"is for a user namespace, and its image stands on layers of repository"
            f" {served.repository}, whose files cannot be shown with other owners",
            "run the pod without a user namespace (hostUsers: true), or with a runtime class of another snapshotter",
        )  # fmt: skip


def remote_name(target: str, parent: str) -> str:
    """The name of the snapshot that shows a repository's layer. containerd finds it by its target label and its
    parent and takes any name; the target alone would break where two namespaces have different parents."""
    digest = hashlib.sha256(b"\0".join((target.encode(), parent.encode())))
    return f"remote/{digest.hexdigest()}"


def _masked(current: Mapping[str, str], wanted: Mapping[str, str], paths: Sequence[str]) -> Mapping[str, str]:
    labels = dict(current) if paths else dict(wanted)
    for path in paths:
        field, _, name = path.partition(".")
        if field != "labels" or path == "labels.":
            raise InvalidArgument("field", path, "cannot be changed", "only labels can")
        if not name:
            labels = dict(wanted)
        elif wanted.get(name):
            labels[name] = wanted[name]
        else:
            labels.pop(name, None)
    return labels

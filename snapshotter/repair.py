"""Mends what is provably ours: what a record says in full, and what nothing needs. Every other difference is reported
and left alone.

A repository's layer is links and shims, both of which follow from the record: they are made again. What a container
wrote, and what was downloaded, cannot be. Each change is made where the record still exists, or not at all.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from cvmfsrepo.layout import Layout
from cvmfsrepo.repository import Missing
from snapshotter.admin.values import Problem, Snapshot
from snapshotter.disk import Disk, shim_link
from snapshotter.filters import parse_filters
from snapshotter.labels import Wanted
from snapshotter.metastore import Metastore, Record, Remote
from snapshotter.node import RunningNode
from snapshotter.snapshots import Kind

_STAGED = "new-link"


class Mended(msgspec.Struct, frozen=True):
    """What was done to a path or a snapshot, or why nothing was."""

    path: str
    what: str
    done: bool = True


def mend(node: RunningNode) -> tuple[Mended, ...]:
    """Makes directories, links and shims again that follow from the records, and removes directories of no record.
    The repositories are asked under their deadlines, and only for shims that are missing."""
    orphans = _orphans(node)
    node.verbs.cleanup()
    found = [Mended(path, "removed: it belonged to no snapshot") for path in orphans if not os.path.lexists(path)]
    records = list(node.store.walk(parse_filters([])))
    roots = {guarded.name: guarded.repository.layout for guarded in node.repositories}
    for record in records:
        if record.remote:
            layout = roots.get(record.remote.repository)
            layer = layout.layerfs(Digest(record.remote.layer)).absolute() if layout else None
            found += _mend_remote(node.store, node.disk, record, record.remote, layer)
        elif record.info.kind is Kind.ACTIVE:
            found += _mend_work(node.disk, record)
    for record in sorted(filter(_has_shims, records), key=lambda one: len(node.store.get_chain(one.info.name))):
        found += _mend_shims(node, record)
    return tuple({one.path: one for one in found}.values())


def remove_leftovers(
    remove: Callable[[str], None], leftovers: Sequence[Snapshot], in_use: Collection[int]
) -> tuple[Mended, ...]:
    """Removes records that containerd does not know, in their order (children first). One that is mounted stays, and so
    does what it stands on: `remove` refuses what has children."""
    return tuple(_removed(remove, one, in_use) for one in leftovers)


def as_problem(mended: Mended) -> Problem:
    """As it travels."""
    return Problem(mended.path, mended.what, "" if mended.done else "left as it is")


def _removed(remove: Callable[[str], None], leftover: Snapshot, in_use: Collection[int]) -> Mended:
    if leftover.id in in_use:
        return Mended(leftover.name, f"is left alone: its directory {leftover.id} is mounted", done=False)
    try:
        remove(leftover.name)
    except ContractError as error:
        return Mended(leftover.name, f"is left alone: {error}", done=False)
    return Mended(leftover.name, "removed: containerd does not know it")


def _orphans(node: RunningNode) -> list[str]:
    """Numbered directories without a record. One that is being made has its record soon; Cleanup waits for that."""
    with node.store.transaction() as transaction:
        numbers = node.disk.numbers().difference(transaction.ids())
    return [node.disk.directory(number) for number in sorted(numbers)]


def _mend_remote(store: Metastore, disk: Disk, record: Record, remote: Remote, layer: Path | None) -> Iterator[Mended]:
    directory = disk.directory(record.id)
    if not os.path.lexists(directory):
        if layer is None:
            yield _unconfigured(directory, remote)
        elif _place(store, disk, record, remote, layer):
            yield Mended(directory, f"made again: it shows layer {remote.layer[:12]}")
        return
    if not stat.S_ISDIR(os.lstat(directory).st_mode):
        yield Mended(directory, "is left alone: it is no directory, and nobody of ours put it there", done=False)
        return
    # The layer's own end of the path is what counts: where the repository is mounted may have changed.
    if not _leads(f"{directory}/fs", str(Layout(Path("/")).layerfs(Digest(remote.layer)))):
        yield _link(f"{directory}/fs", str(layer)) if layer else _unconfigured(f"{directory}/fs", remote)
    for name, key in (("h", remote.hide), ("w", remote.white)):
        if key and not _leads(f"{directory}/{name}", shim_link(key)):
            yield _link(f"{directory}/{name}", shim_link(key))


def _unconfigured(path: str, remote: Remote) -> Mended:
    return Mended(path, f"is left alone: repository {remote.repository} is not configured any more", done=False)


def _leads(path: str, end: str) -> bool:
    """Whether a link's text ends so; it is not followed."""
    try:
        return os.readlink(path).endswith(end)
    except OSError:
        return False


def _place(store: Metastore, disk: Disk, record: Record, remote: Remote, layer: Path) -> bool:
    """Makes a snapshot's directory again, unless the snapshot was removed meanwhile."""
    with contextlib.suppress(_Gone), disk.staged_remote(layer, remote) as staged, store.transaction() as transaction:
        if record.id not in transaction.ids() or os.path.lexists(disk.directory(record.id)):
            raise _Gone
        staged.place(record.id)
        return True
    return False


class _Gone(Exception):
    """Nothing is to be made."""


def _link(path: str, target: str) -> Mended:
    """Puts a link in place of another, or of nothing. Anything else may be somebody's only copy."""
    staged = f"{os.path.dirname(path)}/{_STAGED}"
    if os.path.lexists(path) and not os.path.islink(path):
        return Mended(
            path, "is left alone: it is no link, and nobody of ours put it there: move it elsewhere", done=False
        )
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)
        os.symlink(target, staged)
        os.rename(staged, path)
    except FileNotFoundError:  # the snapshot was removed
        return Mended(path, "is left alone: its snapshot was removed meanwhile", done=False)
    return Mended(path, f"made again: a link to {target}")


def _mend_work(disk: Disk, record: Record) -> Iterator[Mended]:
    """overlayfs's own work directory holds nothing that lasts; without it nothing can be mounted."""
    directory = disk.directory(record.id)
    if os.path.isdir(f"{directory}/fs") and not os.path.lexists(f"{directory}/work"):
        with contextlib.suppress(FileNotFoundError):
            os.mkdir(f"{directory}/work", 0o711)
            yield Mended(f"{directory}/work", "made again, empty as it may be")


def _has_shims(record: Record) -> bool:
    return record.remote is not None


def _mend_shims(node: RunningNode, record: Record) -> Iterator[Mended]:
    """Computes a layer's shims again where one is missing. They are named by what they hold, so a shim with the name
    that the record has is the one that was lost."""
    remote = record.remote
    missing = [key for key in ((remote.hide, remote.white) if remote else ()) if key and not _shim(node, key).is_dir()]
    if remote is None or not missing:
        return
    below = node.store.get_chain(record.info.name)[1:]
    found = node.remote.find(Wanted(record.info.name, Digest(remote.layer)), node.disk.lowers(below))
    for key in missing:
        path = str(_shim(node, key))
        if _shim(node, key).is_dir():
            yield Mended(path, f"made again for layer {remote.layer[:12]}")
        elif isinstance(found, Missing):
            yield Mended(path, f"cannot be made again now ({found.reason}: {found.detail})", done=False)
        else:
            yield Mended(path, "cannot be made again: the layer, or what it stands on, is another one now", done=False)


def _shim(node: RunningNode, key: str) -> Path:
    return node.shims.shims / key

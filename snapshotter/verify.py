"""Is what this node shows of an image the image? The served tree against the original one, difference by difference.

The served tree is made as the daemon makes it, by the same verbs, in a state directory of its own: the records, links
and shims of a pull of which every layer is served. What CVMFS and the ways of publishing are known to lose is told
apart from everything else, which is a fault.
"""

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from cvmfsrepo.compare import Difference, content_differences, differences, scan
from cvmfsrepo.errors import AlreadyExists, FailedPrecondition, Unavailable
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import CATALOG_MARKER
from cvmfsrepo.tree import Entry
from snapshotter import labels as label
from snapshotter.database import open_database
from snapshotter.disk import Disk
from snapshotter.looks import AskedLayer
from snapshotter.mounts import MountOptions
from snapshotter.remote import RemoteLayers
from snapshotter.root import DATABASE, locked_root
from snapshotter.shimstore import ShimStore
from snapshotter.snapshots import Mount
from snapshotter.snapshotter import Snapshotter, remote_name

T = TypeVar("T")

SILENCE = 120.0
"""Seconds without any progress after which a comparison is given up."""

_SECOND = 10**9
_EXAMPLES = 3


class Loss(msgspec.Struct, frozen=True):
    """Something that is known to get lost on the way: what, why, how many entries, and the paths of some."""

    what: str
    why: str
    count: int
    examples: tuple[str, ...]


class Fault(msgspec.Struct, frozen=True):
    """A difference that nothing explains. `field` is as in `cvmfsrepo.compare.Difference`."""

    path: str
    field: str
    expected: str
    found: str


class Comparison(msgspec.Struct, frozen=True):
    """Of `entries` names of the original, files compared byte by byte. `equal` where there is no difference at all."""

    image: str
    original: str
    entries: int
    files: int
    equal: bool
    losses: tuple[Loss, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def as_served(
    root: Path, repositories: Sequence[GuardedRepository], layers: Sequence[AskedLayer], options: MountOptions
) -> Iterator[Mount]:
    """How a view of the image would be mounted, with its state in the empty directory `root` while the block runs.
    FailedPrecondition where a layer is not served."""
    with locked_root(root):
        store = open_database(root / DATABASE)
        try:
            remote = RemoteLayers(repositories, ShimStore(root))
            verbs = Snapshotter(store, Disk(root), remote, options)
            (mount,) = verbs.view("verify", _pulled(verbs, layers), {})
            yield mount
        finally:
            store.close()


def _pulled(verbs: Snapshotter, layers: Sequence[AskedLayer]) -> str:
    """Name of the snapshot of the whole image, each layer prepared as in a pull."""
    parent = ""
    for number, layer in enumerate(layers, 1):
        key, target = f"extract-{number}", str(layer.chain or f"layer-{number}")
        labels = {label.TARGET: target, label.LAYER_DIGEST: str(layer.digest)}
        labels |= {label.DIFF_ID: str(layer.diff_id)} if layer.diff_id else {}
        try:
            verbs.prepare(key, parent, labels)
        except AlreadyExists:
            parent = remote_name(target, parent)
            continue
        miss = verbs.stat(key).labels.get(label.MISS, "")
        remedy = "a layer that is downloaded is what the registry gave; see `image` for what would be served"
        raise FailedPrecondition("layer", str(layer.digest), f"number {number} is not served: {miss}", remedy)
    return parent


@dataclass(frozen=True, slots=True)
class Trees:
    """Two scanned trees and every difference between them; `files` were compared byte by byte."""

    expected: Mapping[bytes, Entry]
    found: Mapping[bytes, Entry]
    differences: Sequence[Difference]
    files: int


def compare_trees(
    expected: Path, found: Path, undated: Collection[bytes], tell: Callable[[str], object] = lambda text: None
) -> Trees:
    """Compares all of two directories. `undated` are directories whose time a pull makes up. `tell` hears how far it
    is; Unavailable where nothing moves any more for SILENCE seconds."""
    left = scan(expected, lambda count: tell(f"original: {count} entries"))
    return _watched(lambda moved: _compare(expected, left, found, undated, moved), tell)


def _compare(
    expected: Path, left: Mapping[bytes, Entry], found: Path, undated: Collection[bytes], tell: Callable[[str], object]
) -> Trees:
    right = scan(found, lambda count: tell(f"served: {count} of about {len(left)} entries"))

    def ignored(entry: Entry, field: str) -> bool:
        return field == "mtime" and entry.is_directory and entry.path in undated

    told = list(differences(left, right, ignore=ignored))
    files = [path for path, entry in sorted(left.items()) if _is_comparable(entry, right.get(path))]
    for number, path in enumerate(files, 1):
        tell(f"contents: {number} of {len(files)} files")
        told += content_differences(expected, found, [path])
    return Trees(left, right, told, len(files))


def _is_comparable(left: Entry, right: Entry | None) -> bool:
    return right is not None and stat.S_ISREG(left.mode) and stat.S_ISREG(right.mode) and left.size == right.size


def _watched(work: Callable[[Callable[[str], object]], T], tell: Callable[[str], object]) -> T:
    """The work's result; it runs on a thread that is left behind where a repository hangs."""
    outcome, errors, done = list[T](), list[OSError](), threading.Event()
    last = (time.monotonic(), "nothing yet")

    def moved(text: str) -> None:
        nonlocal last
        last = (time.monotonic(), text)

    def run() -> None:
        try:
            outcome.append(work(moved))
        except OSError as error:
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name="comparison", daemon=True).start()
    while not done.wait(0.2):
        moment, text = last
        tell(text)
        if time.monotonic() - moment > SILENCE:
            problem = f"did not answer for {SILENCE:g} s in the middle of a comparison ({text})"
            raise Unavailable("repository", "", problem, "try again when it answers")
    if errors:
        raise Unavailable("served tree", errors[0].filename or "", f"cannot be read: {errors[0].strerror}")
    return outcome[0]


def sorted_out(
    trees: Trees, *, image: str = "", original: str = "", notes: Sequence[str] = ()
) -> Comparison:  # fmt: skip
    """What the differences mean."""
    owners = _claimed(trees)
    known, faults = dict[tuple[str, str], list[str]](), list[Fault]()
    for difference in trees.differences:
        path = f"/{os.fsdecode(difference.path)}"
        if kind := _known(difference, trees, owners):
            known.setdefault(kind, []).append(path)
        else:
            faults.append(Fault(path, difference.field, repr(difference.expected), repr(difference.found)))
    losses = tuple(Loss(*kind, len(set(paths)), _some(paths)) for kind, paths in known.items())
    return Comparison(
        image, original, len(trees.expected), trees.files, not trees.differences, losses, tuple(faults), tuple(notes)
    )


def _some(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(paths))[:_EXAMPLES]


def _claimed(trees: Trees) -> Mapping[str, object]:
    """The user and the group that all differing entries were given: one for all, and either nobody's in the image, or
    that of every file that is shown."""
    claimed = dict[str, object]()
    for field in ("uid", "gid"):
        values = {difference.found for difference in trees.differences if difference.field == field}
        original = {getattr(entry, field) for entry in trees.expected.values()}
        shown = {getattr(entry, field) for entry in trees.found.values() if not entry.is_directory}
        if len(values) == 1 and (values.isdisjoint(original) or shown == values):
            (claimed[field],) = values
    return claimed


def _known(difference: Difference, trees: Trees, owners: Mapping[str, object]) -> tuple[str, str] | None:
    """The name of a loss and where it comes from; None for a fault."""
    left, right = trees.expected.get(difference.path), trees.found.get(difference.path)
    match difference.field:
        case "hard-links" if not difference.found:
            return "hard links", "CVMFS shows each name of a file as a file of its own"
        case "uid" | "gid" if difference.field in owners:
            owner = f"{owners.get('uid', 'as it was')}:{owners.get('gid', 'as it was')}"
            why = "CVMFS_CLAIM_OWNERSHIP of the client, or an ingest that does not keep owners"
            return "owners", f"entries belong to {owner}: {why}"
        case "xattrs" if left and right and right.xattrs.items() <= left.xattrs.items():
            has_capability = "security.capability" in left.xattrs.keys() - right.xattrs.keys()
            what = "file capabilities" if has_capability else "extended attributes"
            return what, "the publication dropped them, or the client does not show them"
        case "mtime" if left and right and right.mtime == left.mtime // _SECOND * _SECOND:
            return "parts of a second", "CVMFS keeps whole seconds of a time"
        case "missing" if os.path.basename(difference.path) == CATALOG_MARKER.encode():
            return "files named like a catalog marker", "without a tree record they cannot be told from CVMFS's own"
    return None

"""Two whole trees -> what makes the second of the first, in an order in which it can be done. Pure."""

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from publisher.flat.flatten import Placed, Tree

_Object = tuple[str, int | bytes]
"""What the names of one hard-linked file share: their group, or for a file with one name that name."""


@dataclass(frozen=True, slots=True)
class Remove:
    """A name goes, with all that is in it."""

    path: bytes


@dataclass(frozen=True, slots=True)
class Make:
    """A name is made where none is; `same_as` is a name that is there by then and leads to the same file."""

    placed: Placed
    same_as: bytes | None = None

    @property
    def path(self) -> bytes:
        return self.placed.entry.path


@dataclass(frozen=True, slots=True)
class Describe:
    """A directory that is there gets other metadata."""

    placed: Placed

    @property
    def path(self) -> bytes:
        return self.placed.entry.path


Change = Remove | Make | Describe


def changes(base: Tree, wanted: Tree) -> list[Change]:
    """From the root downwards: a directory is there before what is in it, and a file before its other names. What
    stands below a removed name is not named again. The times of the directories around a change are to be set last."""
    kept = _kept(base, wanted)
    found, gone = list[Change](), set[bytes]()
    for path in sorted(base.keys() | wanted.keys()):
        old, new = base.get(path), wanted.get(path)
        if old is not None and new is not None and _is_directory(old) and _is_directory(new):
            if old.entry != new.entry:
                found.append(Describe(new))
        elif path not in kept:
            if old is not None:
                if path.rpartition(b"/")[0] not in gone:
                    found.append(Remove(path))
                if _is_directory(old):
                    gone.add(path)
            if new is not None:
                found.append(Make(new))
    return _linked(found, kept, wanted)


def from_nothing(wanted: Tree) -> list[Change]:
    """The same for an empty directory, whose root is there."""
    made: list[Change] = [Make(p) if p.entry.path else Describe(p) for p in wanted.values()]
    return _linked(made, frozenset(), wanted)


def touched(found: Iterable[Change]) -> set[bytes]:
    """The directories whose times the changes spoil."""
    around = {change.path.rpartition(b"/")[0] for change in found if change.path and not isinstance(change, Describe)}
    own = {change.path for change in found if not isinstance(change, Remove) and _is_directory(change.placed)}
    return around | own


def _is_directory(placed: Placed) -> bool:
    return placed.entry.is_directory


def _kept(base: Tree, wanted: Tree) -> frozenset[bytes]:
    """The names whose files stay as they are: the same file with the same bytes, and no two names of one old file
    that are of different files in the wanted tree, nor the other way round."""
    new_of, old_of, kept = dict[_Object, _Object](), dict[_Object, _Object](), list[bytes]()
    for path, new in wanted.items():
        old = base.get(path)
        if old is None or _is_directory(new) or not _is_same_file(old, new):
            continue
        old_object, new_object = _object_of(old), _object_of(new)
        claimed = new_of.setdefault(old_object, new_object), old_of.setdefault(new_object, old_object)
        if claimed == (new_object, old_object):
            kept.append(path)
    return frozenset(kept)


def _object_of(placed: Placed) -> _Object:
    entry = placed.entry
    return ("group", entry.group) if entry.group else ("name", entry.path)


def _is_same_file(old: Placed, new: Placed) -> bool:
    """Whether nothing but the other names of a file differs."""
    if _without_group(old) != _without_group(new):
        return False
    return not stat.S_ISREG(new.entry.mode) or (old.layer, old.content) == (new.layer, new.content)


def _without_group(placed: Placed) -> tuple[object, ...]:
    e = placed.entry
    return e.path, e.mode, e.uid, e.gid, e.mtime, e.size, e.target, e.device, e.xattrs


def _linked(found: list[Change], kept: frozenset[bytes], wanted: Tree) -> list[Change]:
    """With the name to link to for each further name of a file."""
    firsts = {wanted[path].entry.group: path for path in sorted(kept, reverse=True) if wanted[path].entry.group}
    return list(_with_firsts(found, firsts))


def _with_firsts(found: Iterable[Change], firsts: dict[int, bytes]) -> Iterator[Change]:
    for change in found:
        group = 0 if isinstance(change, Remove) else change.placed.entry.group
        if isinstance(change, Make) and group:
            first = firsts.setdefault(group, change.path)
            yield change if first == change.path else Make(change.placed, first)
        else:
            yield change

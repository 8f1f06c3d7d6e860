"""Random layer stacks for property tests: few names, so that layers meet often, and every tar a valid one.

A stack is drawn as plain lists of wishes. Wishes that cannot stand together in one tar (a child below what the same
layer makes a file, a name twice) are left out when the layers are made, so any part of a failing example can be
dropped and shrinking goes all the way down.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hypothesis import strategies as st

from tests.images.stack import Layers
from tests.images.tarlayer import MTIME_NS, Device, Dir, Entry, Fifo, File, Hardlink, Opaque, Symlink, Whiteout

NAMES: Final = ("a", "b", "c", "o:d,d \\=\udcff")

_PATHS: Final = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
_METADATA: Final = st.fixed_dictionaries(
    {
        "mode": st.sampled_from([0o755, 0o700, 0o1777, 0o2750, 0o4711]),
        "uid": st.sampled_from([0, 1000, 65534]),
        "gid": st.sampled_from([0, 1000]),
        "mtime_ns": st.sampled_from([MTIME_NS, MTIME_NS + 1, 123_456_789]),
    }
)
_XATTRS: Final = st.dictionaries(
    st.sampled_from(["user.one", "user.two"]), st.binary(min_size=1, max_size=3), max_size=2
)


def _file(path: str, content: bytes, metadata: dict[str, Any], xattrs: dict[str, bytes]) -> Entry:
    return File(path, content, xattrs=xattrs, **metadata)


def _directory(path: str, metadata: dict[str, Any], xattrs: dict[str, bytes]) -> Entry:
    return Dir(path, xattrs=xattrs, **metadata)


def _symlink(path: str, target: str, metadata: dict[str, Any]) -> Entry:
    return replace(Symlink(path, target, **metadata), mode=0o777)


def _special(path: str, kind: type[Device] | type[Fifo], metadata: dict[str, Any]) -> Entry:
    return kind(path, **metadata)


_WISHES: Final[st.SearchStrategy[Entry]] = st.one_of(
    st.builds(_file, _PATHS, st.binary(max_size=3), _METADATA, _XATTRS),
    st.builds(_directory, _PATHS, _METADATA, _XATTRS),
    st.builds(Whiteout, _PATHS),
    st.builds(Opaque, _PATHS),
    st.builds(_symlink, _PATHS, _PATHS, _METADATA),
    st.builds(Hardlink, _PATHS, st.sampled_from("0123")),
    st.builds(_special, _PATHS, st.sampled_from([Device, Fifo]), _METADATA),
    st.just(Opaque(".")),
)
_UNLINKABLE: Final = (Dir, Hardlink, Whiteout, Opaque)
_STACKS: Final = st.lists(st.lists(_WISHES, max_size=10), min_size=2, max_size=5)


def stacks() -> st.SearchStrategy[Layers]:
    """Anything that the image specification gives a meaning to."""
    return _STACKS.map(lambda wishes: tuple(tuple(_valid(layer)) for layer in wishes))


def stacks_equal_to_pull() -> st.SearchStrategy[Layers]:
    """Only what containerd's overlayfs unpacks to what the specification says.

    Left out are the causes of `Stack.pull_note`: a marker beside the directory itself in one layer, an opaque mark
    in the lowest layer, and unlisted directories whose path meant something else below; those are listed here.
    """
    return _STACKS.map(lambda wishes: tuple(_pullable([_valid(layer) for layer in wishes])))


def _valid(wishes: Iterable[Entry]) -> list[Entry]:
    """The wishes that make one valid tar, first come first served."""
    layer: dict[str, Entry] = {}
    marked: set[tuple[type[Entry], str]] = set()
    directories: set[str] = set()
    for wish in wishes:
        inside = wish.path if isinstance(wish, Opaque) else os.path.dirname(wish.path)
        needed = {} if inside in ("", ".") else {inside, *parents(inside)}
        if any(path in layer and not isinstance(layer[path], Dir) for path in needed):
            continue
        if isinstance(wish, Whiteout | Opaque):
            if (type(wish), wish.path) in marked:
                continue
            marked.add((type(wish), wish.path))
            directories |= set(needed)
            layer[f"{wish.path}\0{type(wish).__name__}"] = wish
            continue
        if wish.path in layer or (wish.path in directories and not isinstance(wish, Dir)):
            continue
        if isinstance(wish, Hardlink):
            originals = [entry for entry in layer.values() if not isinstance(entry, _UNLINKABLE)]
            if not originals:
                continue
            wish = _link_to(originals[int(wish.target) % len(originals)], wish.path)
        directories |= set(needed)
        layer[wish.path] = wish
    return list(layer.values())


def _link_to(original: Entry, path: str) -> Hardlink:
    same: dict[str, Any] = {key: getattr(original, key) for key in ("mode", "uid", "gid", "mtime_ns", "xattrs")}
    return Hardlink(path, original.path, **same)


@dataclass(slots=True)
class _Below:
    """What the layers so far have made: what is seen, and what any of them ever said about a path."""

    seen: dict[str, bool] = field(default_factory=dict)
    """Every visible path; true for directories."""
    said: set[str] = field(default_factory=set)
    """Every path that any layer has, a marker included."""
    ended: set[str] = field(default_factory=set)
    """Every path at which any layer has something else than a directory, a marker included."""

    def lends_nothing_wrong(self, path: str) -> bool:
        """An unlisted directory here takes the same metadata from a pull as from the specification."""
        if self.seen.get(path):
            return True
        return path not in self.said and not any(part in self.ended for part in (path, *parents(path)))

    def after_markers(self, layer: Iterable[Entry]) -> "_Below":
        below = _Below(dict(self.seen), self.said, self.ended)
        for entry in layer:
            if isinstance(entry, Whiteout | Opaque) and entry.path != ".":
                below._forget(entry.path, itself=isinstance(entry, Whiteout))
        return below

    def after(self, layer: Sequence[Entry]) -> "_Below":
        below = self.after_markers(layer)
        for entry in layer:
            if entry.path == ".":
                continue
            for part in parents(entry.path):
                below._see(part, True)
            if isinstance(entry, Whiteout):
                below.said.add(entry.path)
                below.ended.add(entry.path)
            else:
                below._see(entry.path, isinstance(entry, Dir | Opaque))
        return below

    def _see(self, path: str, is_directory: bool) -> None:
        if not is_directory:
            self.ended.add(path)
            self._forget(path, itself=False)
        self.said.add(path)
        self.seen[path] = is_directory

    def _forget(self, path: str, *, itself: bool) -> None:
        inside = f"{path}/"
        for other in [other for other in self.seen if other.startswith(inside) or (itself and other == path)]:
            del self.seen[other]


def _pullable(layers: Iterable[Sequence[Entry]]) -> Iterator[tuple[Entry, ...]]:
    below = _Below()
    for number, layer in enumerate(layers):
        made = {path for entry in layer for path in _made_by(entry)}
        kept = [entry for entry in layer if not (isinstance(entry, Whiteout) and entry.path in made)]
        if number == 0:
            kept = [entry for entry in kept if not isinstance(entry, Opaque)]
        listed = {entry.path for entry in kept if isinstance(entry, Dir)}
        needed = {path for entry in kept for path in _needed_by(entry)} - listed
        lower = below.after_markers(kept)
        extra = [Dir(path) for path in sorted(needed) if not lower.lends_nothing_wrong(path)]
        finished = sorted([*extra, *kept], key=_directories_first)
        yield tuple(finished)
        below = below.after(finished)


def _made_by(entry: Entry) -> set[str]:
    return _needed_by(entry) if isinstance(entry, Whiteout | Opaque) else {*_needed_by(entry), entry.path}


def _needed_by(entry: Entry) -> set[str]:
    """The directories in which the entry or its marker stands."""
    if entry.path == ".":
        return set()
    return {*parents(entry.path), entry.path} if isinstance(entry, Opaque) else set(parents(entry.path))


def _directories_first(entry: Entry) -> tuple[bool, int]:
    """Listed before what is in them; a pull leaves the lower directory's xattrs on one that is listed later."""
    return (False, entry.path.count("/")) if isinstance(entry, Dir) else (True, 0)


def parents(path: str) -> Iterator[str]:
    while path := os.path.dirname(path):
        yield path

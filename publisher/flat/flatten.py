"""The tree records of an image's layers -> its whole tree, exactly as a pull makes it. Pure.

The rules, which `docs/repository.md` and `cvmfsrepo/shims.py` give for nodes:

- what a layer deletes goes first, for its markers are about the layers below;
- a directory over a directory merges, and has the metadata of the upper one if that one is listed; anything else
  replaces what is there, with all that is in it;
- a directory that a tar needed but did not list keeps what is there already, but for its time, which is its own as on a
  node. Where nothing is there it is new, with the group of the setgid directory around it if the tar does not list that
  one or lists it only later;
- the root is 0755 and root's, whatever a tar says of it, and cannot be opaque: so does a real pull.
"""

import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.tree import Entry, Record

_ROOT_MODE = stat.S_IFDIR | 0o755


@dataclass(frozen=True, slots=True)
class Placed:
    """One name of a whole tree. A regular file's bytes are in `layer` at the same path; without a layer they are
    `content`. The entry's hard-link group counts in the whole tree."""

    entry: Entry
    layer: Digest | None = None
    content: bytes = b""


Tree = Mapping[bytes, Placed]
"""All names of a tree by path, sorted, the root b"" among them."""


@dataclass(frozen=True, slots=True)
class Over:
    """What is laid over a tree: entries sorted by path, after `whiteouts` and the content of `opaques` are gone.
    `contents` are the bytes of files that no layer holds."""

    entries: Sequence[Entry]
    layer: Digest | None = None
    whiteouts: Sequence[bytes] = ()
    opaques: Sequence[bytes] = ()
    contents: Mapping[bytes, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Record) -> "Over":
        head = record.head
        return cls(record.entries, Digest(head.layer), head.whiteouts, head.opaques)


def flatten(overs: Iterable[Over]) -> Tree:
    """The tree of layers, base first. A layer that stands twice is applied twice."""
    root = _Node(Placed(Entry(b"", _ROOT_MODE)), 0)
    for number, over in enumerate(overs):
        _apply(root, over, number)
    return _numbered(root)


@dataclass(slots=True)
class _Node:
    """A name with all that is below it; `number` is that of what brought it, for its hard-link group."""

    placed: Placed
    number: int
    children: dict[bytes, "_Node"] = field(default_factory=dict)

    @property
    def entry(self) -> Entry:
        return self.placed.entry


def _apply(root: _Node, over: Over, number: int) -> None:
    for path in over.whiteouts:
        above, name = _holder(root, path)
        if above is not None:
            above.children.pop(name, None)
    for path in over.opaques:
        above, name = _holder(root, path)
        if path and above is not None and name in above.children:
            above.children[name].children.clear()
    before = dict[bytes, int]()
    for entry in over.entries:
        _put(root, entry, over, number, before)


def _put(root: _Node, entry: Entry, over: Over, number: int, before: dict[bytes, int]) -> None:
    """`before` collects for each directory the group that it gave to what was made in it before its own listing: 0
    where it is new or is not setgid."""
    if not entry.path:
        taken = msgspec.structs.replace(root.entry, mtime=entry.mtime)
        root.placed = Placed(taken, over.layer)
        return
    above, name = _holder(root, entry.path)
    if above is None:
        raise KeyError(f"record without the directory above {entry.path!r}")
    there = above.children.get(name)
    merged = there if there is not None and entry.is_directory and there.entry.is_directory else None
    if entry.is_directory:
        before[entry.path] = _given_group(merged.entry) if merged else 0
    if entry.implied:
        entry = _implied(entry, merged, above.entry, before)
    placed = Placed(entry, over.layer, over.contents.get(entry.path, b""))
    if merged is not None:
        merged.placed, merged.number = placed, number
    else:
        above.children[name] = _Node(placed, number)


def _implied(entry: Entry, merged: _Node | None, above: Entry, before: Mapping[bytes, int]) -> Entry:
    """What a directory that the tar did not list is: what is there already, or new."""
    if merged is not None:
        old = merged.entry
        return Entry(entry.path, old.mode, old.uid, old.gid, entry.mtime, xattrs=old.xattrs)
    if not above.path:
        group = 0
    elif entry.early:
        group = before.get(above.path, 0)
    else:
        group = entry.gid
    return Entry(entry.path, entry.mode, entry.uid, group, entry.mtime, xattrs=entry.xattrs)


def _given_group(directory: Entry) -> int:
    return directory.gid if directory.mode & stat.S_ISGID else 0


def _holder(root: _Node, path: bytes) -> tuple[_Node | None, bytes]:
    """The directory that holds a path, and the path's name there; None where one on the way is not a directory."""
    *above, name = path.split(b"/")
    node = root
    for part in above:
        below = node.children.get(part)
        if below is None:
            return None, name
        node = below
    return node if node.entry.is_directory else None, name


def _numbered(root: _Node) -> Tree:
    """The names sorted, and what is left of the hard-link groups numbered in the order of their first paths."""
    found = sorted(_walk(root), key=lambda node: node.entry.path)
    names = defaultdict[tuple[int, int], int](int)
    for node in found:
        names[node.number, node.entry.group] += 1
    groups, tree = dict[tuple[int, int], int](), dict[bytes, Placed]()
    for node in found:
        key = node.number, node.entry.group
        group = 0
        if node.entry.group and names[key] > 1:
            group = groups.setdefault(key, len(groups) + 1)
        tree[node.entry.path] = _of_group(node.placed, group)
    return tree


def _of_group(placed: Placed, group: int) -> Placed:
    entry = placed.entry
    if entry.group == group and not entry.implied:
        return placed
    changed = msgspec.structs.replace(entry, group=group, implied=False, early=False)
    return Placed(changed, placed.layer, placed.content)


def _walk(root: _Node) -> Iterator[_Node]:
    """Without recursion: an archive may nest deeper than Python's stack reaches."""
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(node.children.values())

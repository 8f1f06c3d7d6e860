"""A layer's outline -> the small local trees around it that make overlayfs show what a pull would. Pure.

Lowers of a stack, topmost first: `hide_N : layer_N : white_N : hide_N-1 : layer_N-1 ...`

- `hide` stands above its layer: a 0:0 device over each raw marker and catalog marker, and in its directories the
  metadata that a pull would show, for the topmost directory of a merge decides. It is never left out: it is also the
  one local lower that cures an overlay of nothing but CVMFS of answering ENAMETOOLONG (the client reports a name
  length of 0).
- `white` stands below its layer: a 0:0 device for each deleted name and each opaque directory. A whiteout below a
  directory ends the merge exactly as an opaque mark on it does, and needs neither attribute nor privilege. An opaque
  mark on the layer's root is left out, for the kernel ignores one there and so does a real pull.
"""

import posixpath
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.outline import CATALOG, Outline, Source
from cvmfsrepo.tree import Entry
from cvmfsrepo.whiteouts import ancestors


@dataclass(frozen=True, slots=True)
class Found:
    """What the layers below show at a path; `content` only of a regular file that is named like a catalog marker."""

    entry: Entry
    content: bytes = b""


Below = Callable[[bytes], Found | None]
"""Looks a path up in the merged tree below a layer. It may raise Unavailable."""


class Shim(msgspec.Struct, frozen=True):
    """A small tree: `directories` with their metadata (the root first), `whiteouts` (0:0 devices) and `files`."""

    directories: tuple[Entry, ...]
    whiteouts: tuple[bytes, ...]
    files: tuple[tuple[Entry, bytes], ...] = ()

    @property
    def key(self) -> Digest:
        """Names the shim by what it holds: layers that need the same shim share it."""
        return Digest.of(msgspec.msgpack.encode(self, order="deterministic"))


CATALOGS_LIMIT = 256
"""Files of the image's own that are named like a catalog marker and copied into one shim, content included."""

_PLAIN_DIRECTORY = stat.S_IFDIR | 0o755


def nothing_below(path: bytes) -> Found | None:
    """The `Below` of a base layer."""
    return None


def hide_shim(outline: Outline, below: Below) -> Shim:
    """The shim above a layer.

    A directory that the layer's tar did not list takes the metadata of the one below, if there is one. The root always
    counts as such: containerd's pull passes over a tar's entry for it, so it is 0755 0:0 or what a parent made of it.
    Where the image's own file named like a catalog marker shines through from below, the shim holds a copy of it, for
    the device that hides this layer's marker would hide it too.
    """
    known = {entry.path: entry for entry in outline.directories}
    hidden, below = _topmost(outline.hidden), _shining_through(outline, below)
    files = {path: found for path in hidden if (found := _own_catalog_below(below, path))}
    if len(files) > CATALOGS_LIMIT:
        raise DataLoss("layer", hidden[0], f"stands on more than {CATALOGS_LIMIT} files named like a catalog marker")
    gone = frozenset(hidden)
    implied = [path for path in {b"", *outline.implied} if gone.isdisjoint((path, *ancestors(path)))]
    inherited = _inherited(outline, below, implied)
    needed = {b"", *hidden, *inherited}
    directories = {above for path in needed for above in ancestors(path)} | {b"", *inherited}
    return Shim(
        directories=tuple(_directory(path, known.get(path), inherited.get(path)) for path in sorted(directories)),
        whiteouts=tuple(path for path in hidden if path not in files),
        files=tuple((msgspec.structs.replace(f.entry, path=p, group=0), f.content) for p, f in files.items()),
    )


def white_shim(outline: Outline) -> Shim | None:
    """The shim below a layer, or None where it deletes nothing that the kernel would not see by itself."""
    deleted = _topmost((*outline.whiteouts, *outline.opaques))
    if not deleted:
        return None
    directories = {above for path in deleted for above in ancestors(path)}
    return Shim(tuple(Entry(path, _PLAIN_DIRECTORY) for path in sorted(directories)), deleted)


def _topmost(paths: Iterable[bytes]) -> tuple[bytes, ...]:
    """The sorted paths without the root and those that lie below another one of them."""
    every = set(paths) - {b""}
    return tuple(sorted(path for path in every if every.isdisjoint(ancestors(path))))


def _shining_through(outline: Outline, below: Below) -> Below:
    """`below` without what the layer itself keeps from showing."""
    opaques, deleted = frozenset(outline.opaques) - {b""}, frozenset((*outline.whiteouts, *outline.devices))

    def look(path: bytes) -> Found | None:
        above = ancestors(path)
        ends_here = not opaques.isdisjoint(above) or not deleted.isdisjoint((path, *above))
        return None if ends_here else below(path)

    return look


def _own_catalog_below(below: Below, path: bytes) -> Found | None:
    found = below(path) if posixpath.basename(path) == CATALOG else None
    return found if found and stat.S_ISREG(found.entry.mode) else None


def _inherited(outline: Outline, below: Below, implied: Iterable[bytes]) -> dict[bytes, Entry]:
    """What implied directories take from elsewhere: everything from the one below; or, where they are new, the group
    of the setgid directory that they are made in, if that bit comes from below too.

    A setgid directory that the layer itself lists has given its group already, in the tar's order: the record says
    which, and what came before the listing (early). A raw layer without a record has no order: there a listed directory
    counts as standing before what is in it, as tools write it. The root's own entry counts for nothing, as in a pull.
    """
    known, taken = {entry.path: entry for entry in outline.directories}, dict[bytes, Entry]()
    listed = {path: entry for path, entry in known.items() if path} if outline.source is Source.WALK else {}
    for path in sorted(implied):
        above = posixpath.dirname(path)
        found, parent = below(path), taken.get(above) or listed.get(above)
        if parent is None and path in known and known[path].early and (shown := below(above)):
            parent = shown.entry if shown.entry.is_directory else None
        if found and found.entry.is_directory:
            taken[path] = found.entry
        elif path in known and parent and parent.mode & stat.S_ISGID and known[path].gid != parent.gid:
            taken[path] = msgspec.structs.replace(known[path], gid=parent.gid)
    return taken


def _directory(path: bytes, own: Entry | None, inherited: Entry | None) -> Entry:
    """A shim directory's entry; the time of an implied directory stays its own, as in a pull."""
    entry = own or Entry(path, _PLAIN_DIRECTORY)
    if not path:
        entry = Entry(path, _PLAIN_DIRECTORY, mtime=entry.mtime)
    if inherited is None:
        return msgspec.structs.replace(entry, path=path, implied=False)
    return Entry(path, inherited.mode, inherited.uid, inherited.gid, entry.mtime, xattrs=inherited.xattrs)

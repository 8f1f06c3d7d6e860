"""Fills a directory with a whole tree: the edge of this room.

A file's bytes come only from its layer, whose directory is the repository's and so is read without following a link;
nothing is written through one either. Times of directories are set when nothing in them changes any more.
"""

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

from cvmfsrepo import xattrs
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.tree import Entry
from publisher.flat.changes import Change, Make, Remove, changes, from_nothing, touched
from publisher.flat.content import copy_content
from publisher.flat.flatten import Placed, Tree
from publisher.transactions.contract import Fill
from publisher.unpacking.contained import Inside
from publisher.unpacking.making import describe, explained
from publisher.unpacking.removal import remove_tree
from publisher.unpacking.space import FreeSpace

LayerFs = Callable[[Digest], Path]
"""Where a layer's files are at the time of the call: in the staging area or in the repository."""

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_LINKABLE = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP})


class Sharing(Enum):
    """How a tree gets a file of a layer. `COPY` is exact, and on a file system with reflinks costs nothing. `LINK`
    makes a hard link where all metadata agree, which costs nothing anywhere, but changes what containers see of the
    layer: a link count above 1, for which cron, for one, refuses a file."""

    COPY = "copy"
    LINK = "link"


def filling(
    wanted: Tree, layers: LayerFs, space: FreeSpace, base: Tree | None = None, sharing: Sharing = Sharing.COPY
) -> Fill:
    """What completes a directory to the tree `wanted`. A directory that begins as a copy is one of `base`."""

    def fill(directory: Path, from_base: bool) -> None:
        found = changes(base, wanted) if from_base and base is not None else from_nothing(wanted)
        write(directory, found, wanted, layers, space, sharing)

    return fill


def write(
    directory: Path,
    found: Sequence[Change],
    wanted: Tree,
    layers: LayerFs,
    space: FreeSpace,
    sharing: Sharing = Sharing.COPY,
) -> None:
    """Makes changes in a directory; afterwards it is `wanted`. DataLoss where a layer is not what its record says;
    ResourceExhausted and FailedPrecondition from the file system."""
    with contextlib.ExitStack() as held:
        writer = _Writer(held.enter_context(Inside(directory)), layers, space, sharing, held)
        for change in found:
            with explained("tree entry", change.path):
                writer.make(change)
        for path in touched(found):
            with explained("tree entry", path):
                writer.date(wanted[path].entry)


class _Writer:
    """An open directory, and the layers that were opened so far."""

    def __init__(
        self, inside: Inside, layers: LayerFs, space: FreeSpace, sharing: Sharing, held: contextlib.ExitStack
    ) -> None:
        self._inside, self._layers, self._space, self._sharing, self._held = inside, layers, space, sharing, held
        self._opened: dict[Digest, Inside] = {}

    def make(self, change: Change) -> None:
        """One change; of a directory all but its time, which `date` sets when nothing in it changes any more. DataLoss
        where the layer is not what its record says, ResourceExhausted where space runs out, OSError of the tree."""
        if isinstance(change, Make):
            if change.same_as is None or not self._link_inside(change.same_as, change.path):
                self._create(change.placed, *self._place(change.path))
            return
        parent, name = self._place(change.path)
        if isinstance(change, Remove):
            self._remove(parent, name)
        else:
            xattrs.remove_all(_way(parent, name))
            describe(parent, name, change.placed.entry)

    def date(self, entry: Entry) -> None:
        parent, name = self._place(entry.path)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _place(self, path: bytes) -> tuple[int, bytes]:
        return self._inside.parent(path, _no_directory), posixpath.basename(path) or b"."

    def _remove(self, parent: int, name: bytes) -> None:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            remove_tree(_way(parent, name))
            self._inside.forget()
        else:
            os.unlink(name, dir_fd=parent)

    def _link_inside(self, target: bytes, path: bytes) -> bool:
        """Whether one more name of a file of the tree could be made; if not, the file is made once more."""
        parent, name = self._place(path)
        held = os.dup(parent)
        try:
            above, first = self._place(target)
            return _linked(above, first, held, name)
        finally:
            os.close(held)

    def _create(self, placed: Placed, parent: int, name: bytes) -> None:
        entry = placed.entry
        if stat.S_ISREG(entry.mode):
            if placed.layer is not None and self._link_layer(placed, placed.layer, parent, name):
                return
            self._write_file(placed, parent, name)
        elif stat.S_ISDIR(entry.mode):
            os.mkdir(name, 0o700, dir_fd=parent)
        elif stat.S_ISLNK(entry.mode):
            os.symlink(entry.target, name, dir_fd=parent)
        else:
            os.mknod(name, stat.S_IFMT(entry.mode) | 0o600, os.makedev(*entry.device), dir_fd=parent)
        describe(parent, name, entry)

    def _link_layer(self, placed: Placed, layer: Digest, parent: int, name: bytes) -> bool:
        """Whether the layer's own file could be linked: one that has all that the entry says of it."""
        if self._sharing is not Sharing.LINK:
            return False
        above, own = self._source(placed, layer), posixpath.basename(placed.entry.path)
        status, entry = os.stat(own, dir_fd=above, follow_symlinks=False), placed.entry
        found = status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_size
        if found != (entry.mode, entry.uid, entry.gid, entry.mtime, entry.size):
            return False
        return xattrs.read_all(_way(above, own)) == entry.xattrs and _linked(above, own, parent, name)

    def _write_file(self, placed: Placed, parent: int, name: bytes) -> None:
        entry = placed.entry
        self._space.take(entry.size)
        target = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            if placed.layer is None:
                os.write(target, placed.content)
                return
            above, own = self._source(placed, placed.layer), posixpath.basename(entry.path)
            source = _open_source(above, own, entry, placed.layer)
            try:
                copy_content(source, target, entry.size)
            finally:
                os.close(source)
        finally:
            os.close(target)

    def _source(self, placed: Placed, layer: Digest) -> int:
        """The directory of a layer that holds a file."""
        if layer not in self._opened:
            self._opened[layer] = self._held.enter_context(Inside(self._layers(layer)))

        def missing(above: int, name: bytes, directory: bytes) -> None:
            raise _not_as_recorded(placed.entry, layer, "is not there")

        return self._opened[layer].parent(placed.entry.path, missing)


def _way(parent: int, name: bytes) -> bytes:
    return b"/proc/self/fd/%d/%s" % (parent, name)


def _open_source(above: int, name: bytes, entry: Entry, layer: Digest) -> int:
    try:
        source = os.open(name, _OLD_FILE, dir_fd=above)
    except FileNotFoundError:
        raise _not_as_recorded(entry, layer, "is not there") from None
    status = os.fstat(source)
    if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
        os.close(source)
        raise _not_as_recorded(entry, layer, f"is not a file of {entry.size} bytes")
    return source


def _linked(above: int, target: bytes, parent: int, name: bytes) -> bool:
    """Whether a hard link could be made."""
    try:
        os.link(target, name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NOT_LINKABLE:
            return False
        raise
    return True


def _no_directory(above: int, name: bytes, directory: bytes) -> None:
    raise FileNotFoundError(errno.ENOENT, "the directory around it is not there", os.fsdecode(directory))


def _not_as_recorded(entry: Entry, layer: Digest, problem: str) -> DataLoss:
    return DataLoss(
        "layer", str(layer), f"is not what its record says: /{os.fsdecode(entry.path)} {problem}",
        "look at the disk; where nobody uses the layer, remove it and publish the image again",
    )  # fmt: skip

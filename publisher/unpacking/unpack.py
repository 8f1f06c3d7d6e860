"""One layer's blob -> its directory, as a pull would make it, and the entries and markers that its record keeps.

The layer is read once. Later members of a name replace earlier ones as containerd's applier does: a directory over a
directory merges, anything else replaces what is there. Markers are about the layers below wherever they stand in the
tar, so they are written last, when it is known what the layer makes anew; but the directories that they need are made
in the tar's order, for their group depends on it. Nobody may see the directory before `unpack` has returned: only then
are both digests known to be right.
"""

import io
import os
import posixpath
import stat
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from cvmfsrepo import xattrs
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument
from cvmfsrepo.oci import Descriptor
from cvmfsrepo.tree import Entry, Notation
from cvmfsrepo.whiteouts import OCI_OPAQUE, OCI_PREFIX, OVERLAY_OPAQUE, Markers
from publisher.unpacking.contained import REMEDY, Inside
from publisher.unpacking.making import describe, explained
from publisher.unpacking.markers import Deletions, is_reserved, take_overlay_marks
from publisher.unpacking.members import Kind, Member, walk_content, walk_members
from publisher.unpacking.removal import remove_tree
from publisher.unpacking.space import FreeSpace
from publisher.unpacking.stream import TarBytes, VerifiedBlob
from publisher.unpacking.tarsplit import TarSplit, written_to

_IMPLIED_MODE = stat.S_IFDIR | 0o755
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a layer is: the image's own entries, what it deletes, and the size of its tar in bytes."""

    entries: tuple[Entry, ...]
    markers: Markers
    tar_size: int


def unpack(
    raw: io.RawIOBase,
    layer: Descriptor,
    diff_id: Digest,
    layerfs: Path,
    notation: Notation,
    space: FreeSpace,
    advance: Callable[[int], object] = lambda count: None,
    tar_split: Path | None = None,
) -> Unpacked:
    """Unpacks a blob into the empty directory `layerfs`; `advance` is told the bytes read. At `tar_split` the layer's
    tar-split is written, where it can have one.

    Raises DataLoss (blob, compression, tar or diff id), InvalidArgument (a member that is refused), ResourceExhausted
    and FailedPrecondition (the file system). The directory is then to be thrown away.
    """
    blob = VerifiedBlob(raw, layer, advance)
    try:
        with Inside(layerfs) as inside, written_to(tar_split, space) as split:
            with closing(TarBytes(blob, layer.digest, split.take)) as tar:
                tree = _Tree(inside, tar, layer.digest, space, split)
                for member in walk_members(tar, layer.digest):
                    tree.add(member)
                tar.drain_padding()
            blob.drain()
            tree.finish(notation)
    except DataLoss:
        blob.drain()  # where the blob's own digest is wrong, that is the reason to tell
        raise
    if tar.digest != diff_id:
        problem = f"unpacks to the diff id {tar.digest}, and the image's config says {diff_id}"
        raise DataLoss("layer", str(layer.digest), problem, "the image is inconsistent: build it again")
    return Unpacked(tree.entries(), tree.deletions.markers(notation, tree.remade), tar.size)


@dataclass(slots=True)
class _Node:
    """What one or, for hard links, several names lead to."""

    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    implied: bool = False
    early: bool = False

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class _Tree:
    """The directory that is being filled, and what is known of it."""

    def __init__(self, inside: Inside, tar: TarBytes, layer: Digest, space: FreeSpace, split: TarSplit) -> None:
        self._inside, self._tar, self._layer, self._space, self._split = inside, tar, layer, space, split
        self._nodes = {b"": _Node(_IMPLIED_MODE, 0, 0, 0, implied=True)}
        self.deletions = Deletions()
        self.remade = frozenset[bytes]()
        """Directories that the layer deletes below itself and makes again."""
        describe(inside.root, b".", self._nodes[b""])

    def add(self, member: Member) -> None:
        """Makes one member; what stands for a deletion is kept for `finish`."""
        self._space.take(0)
        if is_reserved(member.path):
            return
        is_marker = self.deletions.take(member)
        with explained("layer entry", member.path):
            if is_marker:
                self._parent(member)
                if member.path in self._nodes and member.path in self.deletions.devices:
                    self._remove(member.path)
            elif member.path:
                self._make(member)
            elif member.kind is Kind.DIRECTORY:
                self._describe(self._inside.root, b".", self._nodes[b""], member)
            else:
                raise InvalidArgument("layer entry", ".", "is not a directory, and is the root", REMEDY)

    def finish(self, notation: Notation) -> None:
        """Writes the markers and, when nothing changes any more, the times of the directories."""
        for path in (*(posixpath.join(d, b"x") for d in self.deletions.opaques), *self.deletions.whiteouts):
            with explained("layer entry", path):
                self._inside.parent(path, self._imply_for(0))
        self.remade = frozenset(p for p in self.deletions.whiteouts if p in self._nodes and self._nodes[p].is_directory)
        if notation is Notation.OVERLAY:
            self._write_overlay_markers()
        else:
            self._write_oci_markers()
        self._set_directory_times()

    def entries(self) -> tuple[Entry, ...]:
        """The image's own entries, sorted; hard-link groups are numbered in the order of their first paths."""
        names = defaultdict[int, list[bytes]](list)
        for path in sorted(self._nodes):
            names[id(self._nodes[path])].append(path)
        linked = [paths for paths in names.values() if len(paths) > 1]
        groups = {path: number for number, paths in enumerate(linked, 1) for path in paths}
        return tuple(_entry(path, self._nodes[path], groups.get(path, 0)) for path in sorted(self._nodes))

    def _make(self, member: Member) -> None:
        old = self._nodes.get(member.path)
        if old and not (old.is_directory and member.kind is Kind.DIRECTORY):
            self._remove(member.path)
            old = None
        if member.kind is Kind.HARD_LINK:
            node = self._link(member)
        else:
            node = old or _Node(member.kind.value, 0, 0, 0, member.size, member.target, member.device)
        parent, name = self._parent(member), posixpath.basename(member.path)
        if member.kind is Kind.FILE:
            self._write_file(parent, name, member)
        elif node is not old and member.kind is not Kind.HARD_LINK:
            _create(parent, name, member)
        self._nodes[member.path] = node
        self._describe(parent, name, node, member)

    def _parent(self, member: Member) -> int:
        return self._inside.parent(member.path, self._imply_for(member.mtime))

    def _imply_for(self, mtime: int) -> Callable[[int, bytes, bytes], None]:
        """Makes a directory that the tar has not listed yet, with the time of the member that needs it: the same tar
        gives the same tree at any time. Below a directory that is setgid by now it takes the group, as mkdir gives it
        in a pull; one that the tar lists as setgid later gives nothing to what is in it already, and the root never:
        a pull ignores its entry. What the layers below have there is the node's to add."""

        def imply(above: int, name: bytes, path: bytes) -> None:
            os.mkdir(name, 0o700, dir_fd=above)
            parent = self._nodes[posixpath.dirname(path)]
            group = parent.gid if parent.mode & stat.S_ISGID and posixpath.dirname(path) else 0
            self._nodes[path] = _Node(_IMPLIED_MODE, 0, group, mtime, implied=True, early=parent.implied)
            describe(above, name, self._nodes[path])

        return imply

    def _link(self, member: Member) -> _Node:
        node = self._nodes.get(member.target)
        if node is None or node.is_directory:
            problem = f"is a hard link to {os.fsdecode(member.target)!r}, no file that stands before it in the layer"
            raise InvalidArgument("layer entry", os.fsdecode(member.path), problem, REMEDY)
        source = os.dup(self._inside.parent(member.target, self._imply_for(0)))
        try:
            os.link(
                posixpath.basename(member.target), posixpath.basename(member.path),
                src_dir_fd=source, dst_dir_fd=self._parent(member), follow_symlinks=False,
            )  # fmt: skip
        finally:
            os.close(source)
        return node

    def _write_file(self, parent: int, name: bytes, member: Member) -> None:
        file = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            with self._split.content_of(member):
                end = 0
                for offset, piece in walk_content(self._tar, member, self._layer):
                    self._space.take(len(piece))
                    _write_at(file, piece, offset)
                    end = offset + len(piece)
            if end < member.size:  # a sparse file may end with a hole
                os.ftruncate(file, member.size)
        finally:
            os.close(file)

    def _describe(self, parent: int, name: bytes, node: _Node, member: Member) -> None:
        """Gives a node the metadata of its newest member; attributes of earlier ones stay, as in a pull."""
        kept, opaque = take_overlay_marks(member)
        if opaque:
            self.deletions.opaques.add(member.path)
        node.mode = stat.S_IFMT(node.mode) | (0o777 if stat.S_ISLNK(node.mode) else member.mode)
        node.uid, node.gid, node.mtime, node.implied = member.uid, member.gid, member.mtime, False
        node.xattrs = dict(sorted({**node.xattrs, **kept}.items()))
        describe(parent, name, node)

    def _remove(self, path: bytes) -> None:
        """Removes what a name leads to, from the disk and from what is known."""
        parent, name = self._inside.parent(path, self._imply_for(0)), posixpath.basename(path)
        if self._nodes[path].is_directory:
            base = b"/proc/self/fd/%d/%s" % (parent, name)
            for below in remove_tree(base):
                self._nodes.pop(posixpath.join(path, below), None)
                self._split.lose(posixpath.join(path, below))
            self._inside.forget()
        else:
            os.unlink(name, dir_fd=parent)
        self._nodes.pop(path)
        self._split.lose(path)

    def _write_overlay_markers(self) -> None:
        """What kernel overlayfs honours. A whiteout has no mode and the marker's owner, as containerd makes it."""
        for path, marker in self.deletions.whiteouts.items():
            if path not in self._nodes:
                with explained("layer entry", path):
                    parent, name = self._inside.parent(path, self._imply_for(0)), posixpath.basename(path)
                    os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
                    describe(parent, name, _Node(stat.S_IFCHR, marker.uid, marker.gid, marker.mtime))
        for path in self.deletions.opaques | self.remade:
            with explained("layer entry", path):
                parent, name = self._inside.parent(path, self._imply_for(0)), posixpath.basename(path) or b"."
                xattrs.write(os.fsdecode(b"/proc/self/fd/%d/%s" % (parent, name)), OVERLAY_OPAQUE, b"y")

    def _write_oci_markers(self) -> None:
        """The raw names, as empty files."""
        plain = _Node(stat.S_IFREG | 0o644, 0, 0, 0)
        raw = {posixpath.join(directory, OCI_OPAQUE): plain for directory in self.deletions.opaques}
        for path, marker in self.deletions.whiteouts.items():
            directory, name = posixpath.split(path)
            node = _Node(stat.S_IFREG | marker.mode, marker.uid, marker.gid, marker.mtime)
            raw[posixpath.join(directory, OCI_PREFIX + name)] = node
        for path, node in raw.items():
            with explained("layer entry", path):
                parent, name = self._inside.parent(path, self._imply_for(0)), posixpath.basename(path)
                os.close(os.open(name, _NEW_FILE, 0o600, dir_fd=parent))
                describe(parent, name, node)

    def _set_directory_times(self) -> None:
        for path, node in self._nodes.items():
            if node.is_directory:
                parent, name = self._inside.parent(path, self._imply_for(0)), posixpath.basename(path) or b"."
                os.utime(name, ns=(node.mtime, node.mtime), dir_fd=parent, follow_symlinks=False)
        root = self._nodes[b""]
        if root.implied:
            root.mtime = max(node.mtime for node in self._nodes.values())
            os.utime(self._inside.root, ns=(root.mtime, root.mtime))


def _entry(path: bytes, node: _Node, group: int) -> Entry:
    return Entry(
        path, node.mode, node.uid, node.gid, node.mtime, size=node.size, target=node.target, device=node.device,
        xattrs=node.xattrs, group=group, implied=node.implied, early=node.implied and node.early,
    )  # fmt: skip


def _create(parent: int, name: bytes, member: Member) -> None:
    if member.kind is Kind.DIRECTORY:
        os.mkdir(name, 0o700, dir_fd=parent)
    elif member.kind is Kind.SYMLINK:
        os.symlink(member.target, name, dir_fd=parent)
    else:
        os.mknod(name, member.kind.value | 0o600, os.makedev(*member.device), dir_fd=parent)


def _write_at(file: int, piece: bytes, offset: int) -> None:
    written = os.pwrite(file, piece, offset)
    while written < len(piece):
        written += os.pwrite(file, piece[written:], offset + written)

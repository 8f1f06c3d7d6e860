"""Unpacked layers laid one on top of another onto a plain directory: what the image is, without any overlay.

It is there to judge what a node shows, so nothing of that is used here: no shim, no link, no mount. The rules are those
of the OCI image specification's layer chapter, and of a pull where that is silent: what a layer deletes is of the
layers below and goes first; a directory over a directory merges and takes the upper one's metadata; one that the tar
needed and did not list keeps those of the one below, or is new, with the group of a setgid directory that it is made
in; the root is always 0755 0:0.
"""

import os
import posixpath
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from cvmfsrepo import xattrs
from cvmfsrepo.tree import Entry
from cvmfsrepo.whiteouts import Markers, ancestors


class Squash:
    """The tree at `target`, an empty directory. Layers are added from the base upwards; their files are moved."""

    def __init__(self, target: Path) -> None:
        self._base = os.fsencode(target)
        self._undated = {b""}
        os.chown(target, 0, 0)
        os.chmod(target, 0o755)

    @property
    def undated(self) -> frozenset[bytes]:
        """Directories whose time a pull makes up: those that the last layer with anything in them did not list."""
        return frozenset(self._undated)

    def add(self, layer: Path, entries: Iterable[Entry], markers: Markers) -> None:
        """One layer, which stands unpacked on the same file system. `entries` are sorted, and all directories above
        one are among them."""
        source, before = os.fsencode(layer), dict[bytes, os.stat_result | None]()
        listed = list[Entry]()
        self._delete(markers)
        for entry in entries:
            if not entry.path:
                continue
            if not entry.is_directory:
                self._remove(entry.path)
                os.rename(posixpath.join(source, entry.path), self._place(entry.path))
            elif entry.implied:
                self._imply(entry, before)
            else:
                before[entry.path] = self._directory(entry.path)
                self._list(entry)
                listed.append(entry)
        self._undated.difference_update(entry.path for entry in listed)
        for entry in reversed(listed):
            os.utime(self._place(entry.path), ns=(entry.mtime, entry.mtime))

    def _delete(self, markers: Markers) -> None:
        for path in markers.whiteouts:
            if self._is_reached(path):
                self._remove(path)
        for path in markers.opaques:
            if path and self._is_reached(path) and self._directory(path) is not None:
                with os.scandir(self._place(path)) as names:
                    below = [posixpath.join(path, name.name) for name in names]
                for one in below:
                    self._remove(one)

    def _imply(self, entry: Entry, before: Mapping[bytes, os.stat_result | None]) -> None:
        """`before` has the directories that this layer lists as they were below it: what was made in one before its
        listing took the group from there; what came later has its own already."""
        self._undated.add(entry.path)
        if self._directory(entry.path) is not None:
            return
        above = posixpath.dirname(entry.path)
        parent = self._directory(above) if above not in before else before[above] if entry.early else None
        group = parent.st_gid if parent and parent.st_mode & stat.S_ISGID else entry.gid
        self._remove(entry.path)
        os.mkdir(self._place(entry.path))
        os.chown(self._place(entry.path), entry.uid, group)
        os.chmod(self._place(entry.path), stat.S_IMODE(entry.mode))

    def _list(self, entry: Entry) -> None:
        place = self._place(entry.path)
        if self._directory(entry.path) is None:
            self._remove(entry.path)
            os.mkdir(place)
        os.chown(place, entry.uid, entry.gid)
        os.chmod(place, stat.S_IMODE(entry.mode))
        xattrs.remove_all(place)
        xattrs.write_all(place, entry.xattrs)

    def _place(self, path: bytes) -> bytes:
        return posixpath.join(self._base, path) if path else self._base

    def _directory(self, path: bytes) -> os.stat_result | None:
        """The directory at a path, or None."""
        try:
            status = os.lstat(self._place(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status if stat.S_ISDIR(status.st_mode) else None

    def _is_reached(self, path: bytes) -> bool:
        """Whether nothing but directories leads to a path: no name is followed through a link."""
        return all(self._directory(above) is not None for above in ancestors(path))

    def _remove(self, path: bytes) -> None:
        if self._directory(path) is not None:
            shutil.rmtree(self._place(path))
            self._undated = {other for other in self._undated if other != path and not other.startswith(path + b"/")}
        elif os.path.lexists(self._place(path)):
            os.unlink(self._place(path))

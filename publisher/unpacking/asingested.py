"""A layer as `cvmfs_server ingest` leaves it today, for tests against what is out there.

Measured on CVMFS 2.12 with DUCC: all owners are the publishing user's, extended attributes are gone, hard links are
separate files, times are whole seconds, a directory that the tar does not list has mode 0755 and the time of the
ingest, and a file `.cvmfscatalog` marks the layer's nested catalog. The layer's record still says what the tar said.
"""

import os
import posixpath
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from cvmfsrepo import xattrs
from cvmfsrepo.layout import CATALOG_MARKER
from cvmfsrepo.tree import Entry

OWNER = (993, 990)
"""User and group that a CVMFS package creates on many machines; anything but root's shows the loss."""

_SECOND = 1_000_000_000
_CATALOG_MODE = 0o664


def ingest(layerfs: Path, entries: Iterable[Entry], owner: tuple[int, int], now: int) -> tuple[bytes, ...]:
    """Takes from an unpacked layer what an ingest loses; returns the names it added. `now` is in nanoseconds."""
    base, known = os.fsencode(layerfs), {entry.path: entry for entry in entries}
    for path in _walk(base):
        _lose(posixpath.join(base, path), owner, base + b".spare")
    added = () if CATALOG_MARKER.encode() in known else (CATALOG_MARKER.encode(),)
    if added:
        write_catalog_marker(layerfs, owner, now)
    directories = [entry for entry in known.values() if entry.is_directory]
    for entry in directories:
        _set_directory(posixpath.join(base, entry.path) if entry.path else base, entry, owner, now)
    return added


def write_catalog_marker(directory: Path, owner: tuple[int, int], now: int) -> None:
    """The file that cuts a nested catalog, unless it is there already."""
    path = directory / CATALOG_MARKER
    if not path.exists():
        path.touch()
        os.chown(path, *owner)
        path.chmod(_CATALOG_MODE)
        os.utime(path, ns=(now // _SECOND * _SECOND,) * 2)


def _walk(base: bytes) -> list[bytes]:
    """Every path but directories'."""
    found, pending = list[bytes](), [b""]
    while pending:
        current = pending.pop()
        with os.scandir(posixpath.join(base, current)) as names:
            for name in names:
                path = posixpath.join(current, name.name)
                (pending if name.is_dir(follow_symlinks=False) else found).append(path)
    return found


def _lose(path: bytes, owner: tuple[int, int], spare: bytes) -> None:
    status = os.lstat(path)
    if status.st_nlink > 1:
        _copy(path, status, spare)
        os.rename(spare, path)
    xattrs.remove_all(path)
    os.chown(path, *owner, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_mtime_ns // _SECOND * _SECOND,) * 2, follow_symlinks=False)


def _copy(path: bytes, status: os.stat_result, copy: bytes) -> None:
    """One name of a hard-linked file as a file of its own."""
    if stat.S_ISREG(status.st_mode):
        shutil.copyfile(path, copy)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(path), copy)
    else:
        os.mknod(copy, status.st_mode, status.st_rdev)


def _set_directory(path: bytes, entry: Entry, owner: tuple[int, int], now: int) -> None:
    xattrs.remove_all(path)
    os.chown(path, *owner)
    os.chmod(path, stat.S_IMODE(entry.mode))
    time = now if entry.implied else entry.mtime
    os.utime(path, ns=(time // _SECOND * _SECOND,) * 2)

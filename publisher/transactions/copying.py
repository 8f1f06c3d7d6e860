"""A staged tree copied into the union of a CVMFS transaction, with everything that a publication can keep.

What a transaction takes for a deletion stays behind and is named: devices 0:0, names that begin with `.wh.`, and links
to `(overlay-whiteout)`, which an old overlayfs wrote. Only an ingest can store these.
"""

import os
import posixpath
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cvmfsrepo import xattrs
from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.whiteouts import OCI_PREFIX

LONGEST_VALUE = 256
"""Bytes of an extended attribute that a catalog holds; a publication drops longer ones without an error."""

_OPAQUE = "trusted.overlay.opaque"
_OLD_WHITEOUT = "(overlay-whiteout)"


@dataclass(slots=True)
class Copied:
    """What became of copied trees: `held_back` are pairs of a staged path and where it belongs, `with_attributes`
    paths that have extended attributes, `too_long` those with a value that a publication drops."""

    held_back: list[tuple[bytes, bytes]] = field(default_factory=list)
    with_attributes: list[bytes] = field(default_factory=list)
    too_long: list[bytes] = field(default_factory=list)
    unmarked: list[bytes] = field(default_factory=list)

    def copy(self, staged: Path, final: Path) -> None:
        """Copies a file, link or directory to a path where nothing is. Names of one file stay one file."""
        links: dict[tuple[int, int], bytes] = {}
        directories: list[tuple[bytes, bytes, os.stat_result]] = []
        pending = [(os.fsencode(staged), os.fsencode(final))]
        while pending:
            source, target = pending.pop()
            status = os.lstat(source)
            if _means_deletion(source, status):
                self.held_back.append((source, target))
            elif stat.S_ISDIR(status.st_mode):
                os.mkdir(target, 0o700)
                directories.append((source, target, status))
                pending += [(posixpath.join(source, n), posixpath.join(target, n)) for n in os.listdir(source)]
            elif first := links.get((status.st_dev, status.st_ino)):
                os.link(first, target, follow_symlinks=False)
            else:
                _make(source, target, status)
                self._describe(source, target, status)
                if status.st_nlink > 1:
                    links[status.st_dev, status.st_ino] = target
        for source, target, status in reversed(directories):
            self._describe(source, target, status)

    def _describe(self, source: bytes, target: bytes, status: os.stat_result) -> None:
        """Owner, attributes, mode and times; the owner first, for a change of it takes capabilities and setuid."""
        os.lchown(target, status.st_uid, status.st_gid)
        values = xattrs.read_all(source)
        xattrs.write_all(target, values)
        if values:
            self.with_attributes.append(target)
        if any(len(value) > LONGEST_VALUE for value in values.values()):
            self.too_long.append(target)
        if stat.S_ISDIR(status.st_mode) and (mark := xattrs.read(source, _OPAQUE)) is not None:
            self._mark(target, mark)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(target, stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)

    def _mark(self, target: bytes, mark: bytes) -> None:
        """Kernels before 6.7 let nobody set the mark through a union. The layer's record tells readers of it, too."""
        try:
            xattrs.write(target, _OPAQUE, mark)
            self.with_attributes.append(target)
        except OSError:
            self.unmarked.append(target)


def _means_deletion(path: bytes, status: os.stat_result) -> bool:
    if os.path.basename(path).startswith(OCI_PREFIX):
        if stat.S_ISDIR(status.st_mode):
            problem = "is a directory with the name of a deletion marker, which CVMFS does not store"
            raise InvalidArgument("layer entry", os.fsdecode(path), problem, "the layer cannot be published to CVMFS")
        return True
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path) == os.fsencode(_OLD_WHITEOUT)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _make(source: bytes, target: bytes, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(status.st_mode):
        shutil.copyfile(source, target, follow_symlinks=False)
    else:
        os.mknod(target, status.st_mode, status.st_rdev)

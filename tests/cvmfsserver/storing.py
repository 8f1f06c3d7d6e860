"""What a publication makes of a tree, as a CVMFS 2.12 server was measured to: what it stores, deletes and loses."""

import os
import shutil
import stat
import tarfile
from pathlib import Path

from cvmfsrepo import xattrs

LONGEST_VALUE = 256
_OPAQUE = "trusted.overlay.opaque"


def sync_union(scratch: Path, union: Path, revision: Path, include_xattrs: bool) -> None:
    """Applies what a transaction wrote to the scratch area to a revision. Hard links become copies."""
    for name in sorted(os.listdir(os.fsencode(scratch))):
        _sync(os.fsencode(scratch), os.fsencode(union), os.fsencode(revision), name, include_xattrs)


def _sync(scratch: bytes, union: bytes, revision: bytes, name: bytes, include: bool) -> None:
    source, target = os.path.join(scratch, name), os.path.join(revision, name)
    status = os.lstat(source)
    if name == b".wh..wh..opq":
        return
    if name.startswith(b".wh.") or _is_whiteout(source, status):
        _remove(os.path.join(revision, name.removeprefix(b".wh.")))
        return
    if stat.S_ISDIR(status.st_mode):
        opaque = xattrs.read(source, _OPAQUE) == b"y"
        if opaque or not _is_directory(target):
            _remove(target)
            os.mkdir(target)
        for child in sorted(os.listdir(source)):
            _sync(source, os.path.join(union, name), target, child, include)
    else:
        _remove(target)
        _make(source, target, status)
    _describe(os.path.join(union, name), target, status, include)


def _is_whiteout(path: bytes, status: os.stat_result) -> bool:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path) == b"(overlay-whiteout)"
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _describe(union: bytes, target: bytes, status: os.stat_result, include: bool) -> None:
    os.lchown(target, status.st_uid, status.st_gid)
    xattrs.remove_all(target)
    if include and not stat.S_ISLNK(status.st_mode):
        values = xattrs.read_all(union)
        if (mark := xattrs.read(union, _OPAQUE)) is not None:
            values[_OPAQUE] = mark
        xattrs.write_all(target, {key: value for key, value in values.items() if len(value) <= LONGEST_VALUE})
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, (int(status.st_mtime), int(status.st_mtime)), follow_symlinks=False)


def ingest(tar: tarfile.TarFile, base: Path, owner: tuple[int, int] | None) -> None:
    """Extracts a tar: no attributes, raw `.wh.` names, 0:0 devices as they are; directories that are there are left
    alone, and those that the tar does not list are the publisher's."""
    seen: set[str] = set()
    for member in tar:
        if not member.isdir():
            if member.name in seen:
                raise ValueError(f"{member.name}: twice in the archive")
            seen.add(member.name)
        target = base / member.name
        _make_parents(target.parent)
        before = target.parent.stat()
        if member.isdir() and target.is_dir():
            continue
        if not member.isdir():
            _remove(os.fsencode(target))
        _extract(tar, member, target)
        uid, gid = owner or (member.uid, member.gid)
        os.lchown(target, uid, gid)
        if not member.issym():
            target.chmod(member.mode)
        os.utime(target, (member.mtime, member.mtime), follow_symlinks=False)
        os.utime(target.parent, ns=(before.st_atime_ns, before.st_mtime_ns))  # a catalog's directory keeps its own


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.isdir():
        target.mkdir()
    elif member.issym():
        target.symlink_to(member.linkname)
    elif member.isdev():
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK if member.isblk() else stat.S_IFIFO
        os.mknod(target, kind, 0 if member.isfifo() else os.makedev(member.devmajor, member.devminor))
    elif (content := tar.extractfile(member)) is not None:
        with open(target, "wb") as file:
            shutil.copyfileobj(content, file)


def _make_parents(directory: Path) -> None:
    for part in reversed([directory, *directory.parents]):
        if not part.exists():
            part.mkdir()
            part.chmod(0o755)


def _make(source: bytes, target: bytes, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(status.st_mode):
        shutil.copyfile(source, target)
    else:
        os.mknod(target, status.st_mode, status.st_rdev)


def _is_directory(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _remove(path: bytes) -> None:
    if _is_directory(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)

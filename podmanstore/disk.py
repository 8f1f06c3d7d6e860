"""Files of a store, written so that a reader and a crash find the old one or the new one.

All files are for every user to read, whatever the umask. `exchange` and `persist` are calls that Python does not have.
"""

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cvmfsrepo.errors import FailedPrecondition, PermissionDenied, ResourceExhausted

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EXDEV)
_libc = ctypes.CDLL(None, use_errno=True)


def write_file(path: str, content: bytes) -> None:
    """A new file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
    finally:
        os.close(descriptor)


def replace_file(path: str, content: bytes, staged: str) -> None:
    """A file in the place of another; `staged` is where it is made."""
    write_file(staged, content)
    descriptor = os.open(staged, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(staged, path)


def make_directory(path: str) -> None:
    os.mkdir(path, 0o755)
    os.chmod(path, 0o755)


def replace_link(path: str, target: str, staged: str) -> None:
    """A symlink that says `target`, made or put in the place of another."""
    try:
        os.symlink(target, path)
    except FileExistsError:
        if is_link(path, target):
            return
        os.symlink(target, staged)
        os.rename(staged, path)


def is_link(path: str, target: str) -> bool:
    """Whether a symlink is there that says `target`."""
    return os.path.islink(path) and os.readlink(path) == target


def has_content(path: str, content: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(content) + 1) == content
    except (FileNotFoundError, NotADirectoryError):
        return False


def names(directory: str) -> list[str]:
    """What is in a directory; nothing where there is none."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def exchange(one: str, other: str) -> None:
    """Two directories take each other's place at once; the first is away for a moment where that cannot be."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number not in _UNSUPPORTED:
        raise OSError(number, os.strerror(number), one)
    remove_tree(one)
    os.rename(other, one)


def persist(path: str) -> None:
    """Brings a whole file system to its disk: what is listed after this is there, whatever happens to the power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)


def remove_tree(path: str | Path) -> None:
    """Removes what is there; links are removed, not followed. Nothing there is fine."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def take_away(path: str, staged: str) -> None:
    """Removes a directory at once, and then what is in it at `staged`. In a transaction of CVMFS no directory can be
    renamed that is there already, and nobody sees one that is half removed."""
    try:
        os.rename(path, staged)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        remove_tree(path)
    else:
        remove_tree(staged)


@contextmanager
def explained(store: Path) -> Iterator[None]:
    """What the disk refuses, as our errors."""
    try:
        yield
    except OSError as error:
        what = f"{error.strerror or error} ({os.fsdecode(error.filename or '')})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make space or inodes there and build again; podman sees the store as it was"
            raise ResourceExhausted("store", str(store), what, remedy) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise PermissionDenied("store", str(store), what, "run as root") from error
        if error.errno in (errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise FailedPrecondition("store", str(store), what, "name a directory on a writable disk") from error
        raise

"""Opens what lies in a repository without following a link on the way.

What a repository holds is somebody else's. A link in it could lead to any directory of the node, and what is there
would be shown as an image's or read as metadata. So each name below the repository's root is opened for itself,
relative to the one before: nothing outside is ever touched, there is no moment between a check and its use, and the
kernel looks up no more names than it would for the whole path. The kernel does all that in one call where it can
(openat2 of Linux 5.6); what it refuses there is opened name by name, for the reason. The root itself is the operator's
and may be a link.
"""

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cvmfsrepo.errors import DataLoss

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_OPENAT2 = 437
"""The number of the call, for which the C library has no function."""
_NO_SYMLINKS, _BENEATH = 0x04, 0x08
_HOW = struct.pack("QQQ", _STEP, 0, _NO_SYMLINKS | _BENEATH)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
_libc.syscall.restype = ctypes.c_long


@contextlib.contextmanager
def holder_of(root: Path, path: Path) -> Iterator[tuple[int, str]]:
    """A descriptor (O_PATH) of the directory in which `path` stands, and its name there. `path` is absolute and below
    `root`. OSError as it comes, and with ELOOP where a link stands between them."""
    above, _, name = _below(root, path).rpartition("/")
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in _steps(directory, above, path):
            os.close(directory)
            directory = step
        yield directory, name
    finally:
        os.close(directory)


@contextlib.contextmanager
def listed_directory(root: Path, path: Path) -> Iterator[int]:
    """A descriptor for reading the directory `path`; OSError as from `holder_of`."""
    with holder_of(root, path) as (above, name):
        directory = _open_directory(name, _LIST, above, path)
    try:
        yield directory
    finally:
        os.close(directory)


@contextlib.contextmanager
def opened_file(root: Path, path: Path, buffering: int = -1) -> Iterator[BinaryIO]:
    """The regular file `path`; DataLoss where something else stands there, which is then not opened: a pipe would be
    waited for, and opening a device can do anything. OSError as from `holder_of`."""
    with holder_of(root, path) as (directory, name):
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        if not stat.S_ISREG(mode):
            raise DataLoss("file", str(path), f"is not a regular file ({stat.filemode(mode)})")
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    with open(descriptor, "rb", buffering) as file:
        yield file


def _below(root: Path, path: Path) -> str:
    """The path from the root on; ValueError where it is not below it, or cannot be a path."""
    start, whole = f"{root}/", str(path)
    below = whole[len(start) :] if whole.startswith(start) else str(path.relative_to(root))
    if ".." in below and ".." in below.split("/"):
        raise ValueError(f"path {whole!r} leads up on its way, and only paths below {str(root)!r} are opened")
    if "\0" in below:  # the kernel would open what stands before it
        raise ValueError(f"path {whole!r} has a NUL in it, and none can be opened")
    return below


def _steps(directory: int, above: str, path: Path) -> Iterator[int]:
    """Descriptors of the directories that lead to `above`, of which only the last is needed."""
    if not above:
        return
    descriptor = _libc.syscall(_OPENAT2, directory, os.fsencode(above), _HOW, len(_HOW))
    if descriptor >= 0:
        yield descriptor
        return
    for part in above.split("/"):  # an older kernel, or one of the names cannot be opened: which, and why?
        directory = _open_directory(part, _STEP, directory, path)
        yield directory


def _open_directory(name: str, flags: int, above: int, path: Path) -> int:
    try:
        return os.open(name, flags, dir_fd=above)
    except NotADirectoryError:  # so says the kernel of a link too
        if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            problem = f"{name!r} is a link, which could lead out of the repository"
            raise OSError(errno.ELOOP, problem, str(path)) from None
        raise

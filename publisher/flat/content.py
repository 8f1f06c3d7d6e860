"""Copies the bytes of a file, as cheaply as the file system can and with the holes that it has."""

import errno
import fcntl
import os
from collections.abc import Iterator

_FICLONE = 0x40049409
"""The request of ioctl(2) that shares all extents of a file: `_IOW(0x94, 9, int)`."""
_STEP = 8 << 20
_CHUNK = 1 << 20
_CANNOT = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF})
"""What kernels say of a file system, or a pair of them, that does not do such a copy."""


def copy_content(source: int, target: int, size: int) -> None:
    """Makes the empty file `target` the same as `source`, which has `size` bytes. OSError as it comes."""
    if size and not _cloned(source, target):
        os.ftruncate(target, size)
        for start, end in _data(source, size):
            _copy_range(source, target, start, end)


def _cloned(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def _data(source: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts that are no holes, as (start, end)."""
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        yield start, min(end, size)


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            count = os.copy_file_range(source, target, min(end - start, _STEP), start, start)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            return _read_and_write(source, target, start, end)
        if not count:
            return _read_and_write(source, target, start, end)  # some file systems say so instead of an error
        start += count
    return None


def _read_and_write(source: int, target: int, start: int, end: int) -> None:
    """OSError(EIO) where the source ends before `end`."""
    while start < end:
        piece = os.pread(source, min(end - start, _CHUNK), start)
        if not piece:
            raise OSError(errno.EIO, "the file ends too early")
        written = 0
        while written < len(piece):
            written += os.pwrite(target, piece[written:], start + written)
        start += len(piece)

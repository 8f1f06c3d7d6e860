"""Sees whether somebody opened, read or changed what lies in a directory: the kernel's word (inotify), not a guess."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_ALL_EVENTS = 0xFFF
_NONBLOCK = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def untouched(directory: Path) -> Iterator[None]:
    """Nothing in the directory is opened, read, listed or changed while the block runs, not by any process."""
    descriptor = _libc.inotify_init1(_NONBLOCK)
    try:
        for path in (directory, *(path for path in directory.rglob("*") if path.is_dir() and not path.is_symlink())):
            if _libc.inotify_add_watch(descriptor, os.fsencode(path), _ALL_EVENTS) < 0:
                raise OSError(ctypes.get_errno(), "cannot be watched", str(path))
        yield
        assert _events(descriptor) == []
    finally:
        os.close(descriptor)


def _events(descriptor: int) -> list[str]:
    try:
        content = os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return []
    found, at = [], 0
    while at < len(content):
        _, mask, _, length = _EVENT.unpack_from(content, at)
        name = content[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
        found.append(f"{os.fsdecode(name)}: event {mask:#x}")
        at += _EVENT.size + length
    return found

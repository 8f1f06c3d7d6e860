"""What the disk and SQLite refuse, as our errors: what ran out, and what to do about it.

Space, inodes and descriptors are RESOURCE_EXHAUSTED: the same call works when there is more. A read-only file system is
FAILED_PRECONDITION, for no repetition mends it; what the daemon has no privilege for is PERMISSION_DENIED.
"""

import errno
import os
from enum import IntEnum
from pathlib import Path

from cvmfsrepo.errors import (
    ContractError,
    DataLoss,
    FailedPrecondition,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)

RESTART = "stop the daemon; when it is started again, it says how to restore a backup"
_AGAIN = "the same call works then"
_SPACE = f"make space or inodes there; {_AGAIN}"
_DESCRIPTORS = f"close connections, or raise LimitNOFILE of the service; {_AGAIN}"
_MEND = "see the kernel's log, and mend the disk"
_PRIVILEGES = "run the daemon as root with the capabilities of its systemd unit: docs/security.md says what for"
_READ_ONLY = "see the kernel's log for why, mount it read-write, and start the daemon again"

_PAGE = 4096

_ENOUGH = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _DESCRIPTORS,
    errno.ENOMEM: _AGAIN,
}
"""Errors of what runs out, and what to do."""


class _Sqlite(IntEnum):
    """SQLite's primary result codes."""

    BUSY = 5
    LOCKED = 6
    NOMEM = 7
    READONLY = 8
    IOERR = 10
    CORRUPT = 11
    FULL = 13
    CANTOPEN = 14
    NOTADB = 26


def of_os(error: OSError) -> ContractError | None:
    """A system call's error on a file of ours; None for what we did not foresee."""
    where, what = error.filename or "", error.strerror or str(error)
    if remedy := _ENOUGH.get(error.errno or 0):
        return ResourceExhausted("file", where, what, remedy)
    if error.errno == errno.EROFS:
        return FailedPrecondition("file", where, what, _READ_ONLY)
    if error.errno == errno.EIO:
        return Unavailable("file", where, what, _MEND)
    if error.errno in (errno.EPERM, errno.EACCES):
        return PermissionDenied("file", where, what, _PRIVILEGES)
    return None


def of_sqlite(code: int, text: str, database: Path) -> ContractError | None:
    """An SQLite result code with its message; None for what we did not foresee."""
    what = ("database", str(database))
    match code & 0xFF:
        case _Sqlite.FULL:
            return ResourceExhausted(*what, "has no space left on its disk", _SPACE)
        case _Sqlite.NOMEM:
            return ResourceExhausted(*what, "has no memory left", _AGAIN)
        case _Sqlite.CORRUPT | _Sqlite.NOTADB:
            return DataLoss(*what, f"is damaged ({text})", RESTART)
        case _Sqlite.BUSY | _Sqlite.LOCKED:
            return Unavailable(*what, "is locked by another process", f"stop that process; {_AGAIN}")
        case _Sqlite.IOERR | _Sqlite.CANTOPEN | _Sqlite.READONLY:
            return _of_its_disk(database, text)
    return None


def _of_its_disk(database: Path, text: str) -> ContractError:
    """SQLite keeps the system's errno for itself, so the disk is asked again: for a page in a file without a name."""
    try:
        descriptor = os.open(database.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, bytes(_PAGE))
        finally:
            os.close(descriptor)
    except OSError as error:
        error.filename = str(database)
        return of_os(error) or Unavailable("database", str(database), f"cannot be written ({error.strerror})", _MEND)
    return Unavailable("database", str(database), f"cannot be read or written ({text})", _MEND)

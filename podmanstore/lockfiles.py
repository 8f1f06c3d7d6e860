"""The locks of a store: ours, which keeps two builds apart, and podman's, which tell it that something changed.

podman only compares the first 64 bytes of its lock files with those that it read last, and reads an index again when
they differ. So a lock changes after its index and never before: else the change is read too early and not again. Its
content is a function of the index, like everything else in a store.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cvmfsrepo.errors import FailedPrecondition
from podmanstore.disk import explained, make_directory

TOKEN_LENGTH = 64
_BUILD_LOCK = ".lock"


@contextmanager
def building(store: Path) -> Iterator[None]:
    """Makes the store's directory if need be and keeps other builds out of it, also those that are only looking at
    what it lists. FailedPrecondition names the one that is at work. The kernel lets go when we die."""
    with explained(store):
        _make_store(store)
        # For nobody else to open: who can open a file can lock it.
        descriptor = os.open(store / _BUILD_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_mode & 0o777 != 0o600:
            os.fchmod(descriptor, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            who = _holder(os.fstat(descriptor).st_ino)
            problem = f"another build is at work on it{who}"
            raise FailedPrecondition("store", str(store), problem, "wait until it has ended, and build again") from None
        yield
    finally:
        os.close(descriptor)


def _make_store(path: Path) -> None:
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        make_directory(str(path))


def token(index: bytes) -> bytes:
    """What a lock file says of its index."""
    return hashlib.sha512(index).digest()


def read_token(path: Path) -> bytes:
    """The content of a lock file; nothing where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def write_token(path: Path, content: bytes) -> None:
    """Changes a lock file in place: readers hold it open. All of it is one write, which no reader sees half of."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holder(inode: int) -> str:
    """The process that holds a lock, in words; nothing where the kernel does not say."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return ""
    for words in (line.split() for line in lines):
        if len(words) >= 6 and words[1] == "FLOCK" and words[5].endswith(f":{inode}") and words[4].isdigit():
            return f" (process {words[4]})"
    return ""

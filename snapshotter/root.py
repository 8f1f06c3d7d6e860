"""The state directory: made, checked and locked before anything is served. Nothing in it is deleted to get started."""

import contextlib
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cvmfsrepo.errors import ContractError, FailedPrecondition, PermissionDenied
from snapshotter.backup import BACKUP, restore_advice
from snapshotter.log import event

_log = logging.getLogger(__name__)

DATABASE, LOCK, INDEX = "metadata.sqlite", "lock", "index.sqlite"
_OURS = ("snapshots", "shims", "layers")


@contextlib.contextmanager
def locked_root(root: Path) -> Iterator[Path]:
    """The root with its directories in place, locked for this process. Directories that we make are 0700; one that
    is there is used as it is, with a warning if others may write to it."""
    try:
        _check_ours(root)
        make_private(root)
        for name in _OURS:
            make_private(root / name)
        lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _refusal(root, error) from None
    try:
        _lock(lock, root)
        yield root
    finally:
        os.close(lock)


def make_private(directory: Path) -> None:
    """Makes a directory and those above it, 0700; warns where others may write to one that is there."""
    if not directory.parent.exists():
        make_private(directory.parent)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(0o700)
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o022 and not mode & stat.S_ISVTX:
        event(_log, logging.WARNING, "others may write to a directory of ours", path=str(directory), mode=oct(mode))


def _check_ours(root: Path) -> None:
    """Refuses a directory that holds something else: also the Go snapshotter's state, which is not readable to us."""
    try:
        names = set(os.listdir(root)) - {"lost+found"}
    except FileNotFoundError:
        return
    foreign = sorted(names - {*_OURS, LOCK} - {name for name in names if name.startswith((DATABASE, BACKUP, INDEX))})
    if foreign and DATABASE not in names:
        raise FailedPrecondition(
            "root directory", str(root), f"holds the state of something else ({', '.join(foreign[:4])})",
            "remove the images that use it from containerd and move it away, or start with another --root",
        )  # fmt: skip
    if not foreign and "snapshots" in names and _is_empty(root / DATABASE) and os.listdir(root / "snapshots"):
        raise FailedPrecondition(
            "root directory", str(root), f"has snapshots but no {DATABASE}, or an empty one",
            restore_advice(root / DATABASE),
        )  # fmt: skip


def _is_empty(database: Path) -> bool:
    """Whether a database holds nothing: to start with it would be to sweep every snapshot away."""
    try:
        return database.stat().st_size == 0
    except FileNotFoundError:
        return True


def _lock(descriptor: int, root: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise FailedPrecondition(
            "root directory", str(root), f"is in use by process {holder}", "stop it, or start with another --root"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _refusal(root: Path, error: OSError) -> ContractError:
    where = error.filename or str(root)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermissionDenied(
            "root directory",
            str(root),
            f"{where}: {error.strerror}",
            "run as the owner of the directory, or mount it rw",
        )
    return FailedPrecondition("root directory", str(root), f"{where}: {error.strerror}", "see that it is a directory")

"""Puts a copy of the database in place of the database, while no daemon runs.

    <root>/metadata.sqlite.before-<time>    the database that was there, kept; with its log, where it had one

What is wrong with the copy is found before anything is changed. The next start keeps the directories that the copy does
not know (`backup.keep_newer`).
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cvmfsrepo.errors import ContractError, DataLoss, FailedPrecondition, NotFound
from snapshotter.backup import find_header, write_copy
from snapshotter.database import open_database
from snapshotter.disk import persist
from snapshotter.filters import parse_filters
from snapshotter.root import DATABASE, LOCK

_STAGED = f"{DATABASE}.restoring"
_ENDS = ("", "-wal", "-shm")


class Restored(msgspec.Struct, frozen=True):
    """What was put in place: when the copy was written, how many snapshots it knows, and where the database that was
    there is kept, "" where there was none."""

    path: str
    written: int
    snapshots: int
    kept: str


def restore(root: Path, copy: Path) -> Restored:
    """Replaces the database of `root` by `copy`, which stays. FailedPrecondition where a daemon runs; what is wrong
    with the copy as of a database."""
    if not (root / "snapshots").is_dir():
        raise NotFound("state", str(root), "is not there", "give --root or --config")
    with _held(root):
        written = _stage(copy, root)
        try:
            snapshots = _check(copy, root)
            kept = _keep(root)
            os.rename(root / _STAGED, root / DATABASE)
        finally:
            _remove(root / _STAGED)
        persist(root)
    return Restored(str(copy), written, snapshots, kept)


@contextlib.contextmanager
def _held(root: Path) -> Iterator[None]:
    """The lock that a daemon takes."""
    lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise FailedPrecondition(
            "root directory", str(root), "is in use by a daemon", "stop it: systemctl stop cvmfs-snapshotter"
        ) from None
    finally:
        os.close(lock)


def _stage(copy: Path, root: Path) -> int:
    """Brings the copy beside the database, with the log that belongs to it; answers when it was written."""
    if copy.resolve() == (root / DATABASE).resolve():
        raise FailedPrecondition("copy", str(copy), "is the database itself")
    _remove(root / _STAGED)
    try:
        shutil.copyfile(copy, root / _STAGED)
        header = find_header(copy)
        if header and header.write_ahead and Path(f"{copy}-wal").exists():
            shutil.copyfile(f"{copy}-wal", root / f"{_STAGED}-wal")
        return copy.stat().st_mtime_ns
    except FileNotFoundError:
        raise NotFound("copy", str(copy), "does not exist") from None


def _check(copy: Path, root: Path) -> int:
    """Makes one whole file of what was staged, with a copy's mark; answers how many snapshots it knows."""
    staged = root / _STAGED
    if find_header(staged) is None:
        raise DataLoss("copy", str(copy), "is no database", "take another copy")
    try:
        store = open_database(staged)
        try:
            count = sum(1 for _ in store.walk(parse_filters([])))
            write_copy(store, staged.with_suffix(".whole"))
        finally:
            store.close()
    except ContractError as error:
        raise type(error)("copy", str(copy), error.problem, "take another copy") from None
    _remove(staged)
    os.rename(staged.with_suffix(".whole"), staged)
    staged.chmod(0o600)
    return count


def _keep(root: Path) -> str:
    """Moves the database aside with its log, the database first: should the machine die within this, the next start
    finds none, refuses, and says what to do."""
    kept = root / f"{DATABASE}.before-{datetime.fromtimestamp(time.time(), UTC):%Y%m%dT%H%M%S}"
    moved = False
    for end in _ENDS:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{root / DATABASE}{end}", f"{kept}{end}")
            moved = True
    return str(kept) if moved else ""


def _remove(path: Path) -> None:
    for end in _ENDS:
        Path(f"{path}{end}").unlink(missing_ok=True)

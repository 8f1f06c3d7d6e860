"""A copy of the database that is always whole, and what a start does with one that was put in place.

    <root>/metadata.backup.sqlite

The copy bears a mark of its own. A start that finds the mark in the database knows that the database is older than the
directories: those that were made since the copy belong to no record, but containers may run on them. They are kept,
and their numbers are not given again. The mark is not needed where more directories are too new than a crash can leave.
"""

import contextlib
import logging
import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from cvmfsrepo.errors import ContractError
from snapshotter.disk import Disk, persist
from snapshotter.log import event
from snapshotter.metastore import Metastore

_log = logging.getLogger(__name__)

BACKUP = "metadata.backup.sqlite"
APPLICATION_ID, BACKUP_ID = 0x43564653, 0x43564642
"""Marks of a database in use, and of a copy."""

INTERVAL = 600.0
"""Seconds between two copies, if something changed."""

_HEADER_BYTES = 100
_WRITE_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes of an SQLite file say: its mark, its schema, and whether a write-ahead log belongs to it."""

    application_id: int
    schema: int
    write_ahead: bool


def find_header(path: Path) -> Header | None:
    """The header of a database; None where there is no whole one."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        return None
    if len(header) < _HEADER_BYTES or not header.startswith(b"SQLite format 3\0"):
        return None
    schema, application_id = (int.from_bytes(header[at : at + 4], "big") for at in (60, 68))
    return Header(application_id, schema, header[19] == _WRITE_AHEAD)


def restore_advice(database: Path, newest_schema: int | None = None) -> str:
    """What to do about a database that cannot be used: where its backup is, how old it is and how to restore it.
    A backup with a schema above `newest_schema` is none."""
    backup = database.with_name(BACKUP)
    header = find_header(backup)
    if header is None or header.application_id != BACKUP_ID or header.schema > (newest_schema or header.schema):
        return "restore a backup of it, or drain the node's images from containerd and start with an empty --root"
    written = backup.stat().st_mtime
    return (
        f"restore a backup: one of {datetime.fromtimestamp(written, UTC):%Y-%m-%d %H:%M:%S} UTC,"
        f" {age(time.time() - written)} old, is at {backup}; with the daemon stopped:"
        f" rm -f {database}-wal {database}-shm && mv {backup} {database}"
    )


class Backups:
    """Writes a copy every `interval` seconds if something changed, and one at the end; a context manager. A copy that
    cannot be written is a warning: the one before it stays."""

    def __init__(self, store: Metastore, path: Path, interval: float = INTERVAL) -> None:
        self._store, self._path, self._interval = store, path, interval
        self._saved: int | None = None
        self._saving = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backup", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self.save_if_changed()

    def save_if_changed(self) -> None:
        """One copy, unless it would be the same."""
        if self._store.changes == self._saved:
            return
        try:
            self.save()
        except (OSError, ContractError) as problem:
            event(_log, logging.WARNING, "backup not written", path=str(self._path), detail=str(problem))

    def save(self) -> Path:
        """A copy of now; answers where it is."""
        with self._saving:
            changes = self._store.changes
            write_copy(self._store, self._path)
            self._saved = changes
        return self._path

    def _run(self) -> None:
        wait = self._first_wait()
        while not self._over.wait(wait):
            self.save_if_changed()
            wait = self._interval

    def _first_wait(self) -> float:
        """A daemon that is restarted often gets its copies too, and one does not replace a young copy at once: the
        database may be the wrong one, put in place by mistake."""
        with contextlib.suppress(OSError):
            age = max(0.0, time.time() - self._path.stat().st_mtime)
            return max(0.0, self._interval - age)
        return 0.0


def write_copy(store: Metastore, target: Path) -> None:
    """A copy of the last commit with a backup's mark, 0600; staged and renamed."""
    staged = target.with_name(f"{target.name}.new")
    staged.unlink(missing_ok=True)
    try:
        os.close(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        store.back_up(staged, BACKUP_ID)
        os.rename(staged, target)
    finally:
        staged.unlink(missing_ok=True)
    persist(target.parent)


def keep_newer(store: Metastore, disk: Disk) -> None:
    """Keeps the directories that are newer than the database, if it is older than they are.

    Numbers are given in order and never twice, and a crash leaves at most one directory whose record was not
    committed: more of them, or a backup's mark, say that the database was restored."""
    with store.transaction() as transaction:
        last, restored = transaction.last_number(), transaction.application_id() == BACKUP_ID
        newer = sorted(number for number in disk.numbers() if number > last)
        if not restored and (not newer or newer[-1] == last + 1):
            return
        for number in newer:
            disk.keep(number)
        if newer:
            transaction.skip_to(newer[-1])
        transaction.set_application_id(APPLICATION_ID)
    event(_log, logging.WARNING, "the database is older than the disk", backup=restored, kept=len(newer), last=last)


def age(seconds: float) -> str:
    """How old something is, in its largest unit."""
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {name}{'s' if number > 1 else ''}"
    return "less than a minute"

"""The database file: made, checked and refused. State is never deleted to get started.

SQLite, write-ahead log. `application_id` says that a file is ours, `user_version` which schema it has.
"""

import contextlib
import sqlite3
from pathlib import Path

from cvmfsrepo.errors import DataLoss, FailedPrecondition, ResourceExhausted, Unavailable
from snapshotter.backup import APPLICATION_ID, BACKUP_ID, find_header, restore_advice
from snapshotter.faults import of_sqlite
from snapshotter.metastore import Metastore, connect

SCHEMA_VERSION = 1
_HEADER_BYTES = 100
"""SQLite takes a shorter file for an empty one, and writes over it."""
_PATIENCE = 2.0
"""Seconds that a start waits for another process to unlock the database."""

_SCHEMA = f"""
BEGIN EXCLUSIVE;
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- number of the directory; never used twice
    name TEXT NOT NULL UNIQUE,              -- key of an active snapshot or a view, name of a committed one
    kind INTEGER NOT NULL,                  -- 1 view, 2 active, 3 committed
    parent_id INTEGER REFERENCES snapshots(id),
    created INTEGER NOT NULL,               -- nanoseconds since 1970
    updated INTEGER NOT NULL,
    labels TEXT NOT NULL,                   -- JSON object
    target TEXT,                            -- the label containerd.io/snapshot.ref, for the index
    size INTEGER NOT NULL DEFAULT 0,        -- bytes, known of committed snapshots
    inodes INTEGER NOT NULL DEFAULT 0,
    repository TEXT NOT NULL,               -- of a repository's layer; "" for a local snapshot, as the next three
    layer TEXT NOT NULL,                    -- its digest, 64 hex digits
    hide TEXT NOT NULL,                     -- keys of its shims
    white TEXT NOT NULL,
    revision INTEGER,                       -- of the repository when the layer was first served
    miss TEXT NOT NULL                      -- why the layer was not served: reason and sentence, or ""
) STRICT;
CREATE INDEX snapshots_parent ON snapshots(parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX snapshots_target ON snapshots(target) WHERE target IS NOT NULL;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


def open_database(path: Path) -> Metastore:
    """The metastore at `path`, made if there is none. Refuses a file that is damaged, is not ours or was written by
    a newer version, and says where a backup is and how old; the file stays as it is."""
    if path.is_file() and 0 < path.stat().st_size < _HEADER_BYTES:
        raise DataLoss("database", str(path), "is cut short", restore_advice(path))
    _check_log(path)
    try:
        connection = connect(path, _PATIENCE)
        try:
            _check_or_create(connection, path)
            connection.executescript("BEGIN IMMEDIATE; ROLLBACK")  # nobody else is writing
        finally:
            connection.close()
        return Metastore(path)
    except sqlite3.DatabaseError as error:
        raise _refusal(path, error) from None


def _check_log(path: Path) -> None:
    """SQLite plays a log that it finds into any database. A backup has none until it is first opened."""
    header, log = find_header(path), Path(f"{path}-wal")
    if header and header.application_id == BACKUP_ID and not header.write_ahead and log.exists():
        raise FailedPrecondition(
            "database", str(path), "is a backup put in place, beside the write-ahead log of the one before it",
            f"rm -f {log} {path}-shm",
        )  # fmt: skip


def _check_or_create(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (application, version, tables) == (0, 0, 0):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
        return
    if application not in (APPLICATION_ID, BACKUP_ID):
        raise FailedPrecondition(
            "database", str(path), "was not made by cvmfs-snapshotter",
            f"move the file away and {restore_advice(path)}; or start with another --root",
        )  # fmt: skip
    if version > SCHEMA_VERSION:
        raise FailedPrecondition(
            "database", str(path), f"has schema {version}, and this version reads up to {SCHEMA_VERSION}",
            f"start the newer cvmfs-snapshotter again, or {restore_advice(path, SCHEMA_VERSION)}",
        )  # fmt: skip
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise DataLoss("database", str(path), f"is damaged ({verdict.splitlines()[-1]})", restore_advice(path))
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        model.executescript(_SCHEMA)
        if _shape(connection) != _shape(model):
            raise DataLoss("database", str(path), "does not have the tables of its schema", restore_advice(path))
    connection.execute("PRAGMA journal_mode = WAL")


def _shape(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    """The columns of our table and its indices; order and comments aside."""
    columns = connection.execute("SELECT name, type, \"notnull\", pk FROM pragma_table_info('snapshots')").fetchall()
    return sorted([*columns, *connection.execute("SELECT name FROM pragma_index_list('snapshots')").fetchall()])


def _refusal(path: Path, error: sqlite3.DatabaseError) -> Exception:
    known = of_sqlite(getattr(error, "sqlite_errorcode", 0), str(error), path)
    if isinstance(known, Unavailable) and error.sqlite_errorname.startswith("SQLITE_BUSY"):
        return FailedPrecondition("database", str(path), "is locked by another process", "stop that process first")
    if isinstance(known, Unavailable):
        problem = f"cannot be written ({error})"
        return FailedPrecondition("database", str(path), problem, "check the owner, the mount and the kernel's log")
    if isinstance(known, ResourceExhausted | FailedPrecondition):
        return known
    return DataLoss("database", str(path), f"cannot be read ({error})", restore_advice(path))

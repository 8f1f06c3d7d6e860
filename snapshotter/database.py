"""The database file: made, checked and refused. State is never deleted to get started.

SQLite, write-ahead log. `application_id` says that a file is ours, `user_version` which schema it has.
"""

import sqlite3
from pathlib import Path

from cvmfsrepo.errors import DataLoss, FailedPrecondition
from snapshotter.metastore import Metastore, connect

APPLICATION_ID = 0x43564653
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
CREATE INDEX snapshots_parent ON snapshots(parent_id);
CREATE INDEX snapshots_target ON snapshots(target);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


def open_database(path: Path) -> Metastore:
    """The metastore at `path`, made if there is none. Refuses a file that is damaged, is not ours or was written by
    a newer version; the file stays as it is."""
    if path.is_file() and 0 < path.stat().st_size < _HEADER_BYTES:
        raise DataLoss("database", str(path), "is cut short", _RESTORE)
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


def _check_or_create(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (application, version, tables) == (0, 0, 0):
        connection.executescript(_SCHEMA)
        return
    if application != APPLICATION_ID:
        raise FailedPrecondition(
            "database", str(path), "was not made by cvmfs-snapshotter",
            "move the file away, or start with another --root",
        )  # fmt: skip
    if version > SCHEMA_VERSION:
        raise FailedPrecondition(
            "database", str(path), f"has schema {version}, and this version reads up to {SCHEMA_VERSION}",
            "start the newer cvmfs-snapshotter again, or restore a backup made before the upgrade",
        )  # fmt: skip
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise DataLoss("database", str(path), f"is damaged ({verdict})", _RESTORE)


_RESTORE = "restore a backup of it, or drain the node's images from containerd and start with an empty --root"


def _refusal(path: Path, error: sqlite3.DatabaseError) -> Exception:
    text = str(error)
    if "locked" in text or "busy" in text:
        return FailedPrecondition("database", str(path), "is locked by another process", "stop that process first")
    if "unable to open" in text or "readonly" in text:
        return FailedPrecondition("database", str(path), f"cannot be written ({text})", "check the owner and the mount")
    return DataLoss("database", str(path), f"cannot be read ({text})", _RESTORE)

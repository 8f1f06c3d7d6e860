"""The index's file: opened, checked and thrown away. The one place of the index that knows SQLite.

It is no truth: whatever is wrong with the file, another is made. Reading never waits: lookups have a connection of
their own, see the last commit, and find nothing where the file is missing, damaged or of another version.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cvmfsrepo.errors import InvalidArgument
from snapshotter.index.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION

T = TypeVar("T")
Row = tuple[Any, ...]
Value = str | int | None

_BROKEN = frozenset({1, 11, 26})
"""SQLite's codes for a table that is not there, a damaged page, and a file that is no database."""
_PATIENCE = 2.0
"""Seconds that a writer waits for another process."""


class Damaged(Exception):
    """The file is no index of this version: `Database.renew` makes way for another."""


class Unwritable(Exception):
    """The disk does not take what is to be written; later it may."""


class Transaction:
    """What is done together."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, query: str, *given: Value) -> list[Row]:
        """Runs a statement; the rows that it answers."""
        return self._connection.execute(query, given).fetchall()

    def run_for(self, query: str, each: Iterable[tuple[Value, ...]]) -> None:
        """Runs a statement for each of several tuples."""
        self._connection.executemany(query, each)


class Database:
    """One file. Safe to be used from many threads. `damage` says what is wrong with the file, or ""; `generation`
    counts the files that there were."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage, self.generation = "", 0
        self._lookups, self._writing = threading.Lock(), threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None

    def read(self, query: str, *given: Value) -> list[Row]:
        """The rows, or none where there is nothing to read."""
        with self._lookups:  # also while damage is noted, which another file would not have
            try:
                if self._reader is None:
                    self._reader = _connected(f"{self.path.absolute().as_uri()}?mode=rw", 0.0)
                return self._reader.execute(query, given).fetchall() if self._reader else []
            except Damaged as error:
                self.damage = str(error)
            except sqlite3.Error as error:
                if _code(error) in _BROKEN:
                    self.damage = str(error)
        return []

    def parsed(self, parse: Callable[[], T]) -> T | None:
        """Values out of rows; a text that is none is damage, and then there are none."""
        try:
            return parse()
        except InvalidArgument as error:
            self.damage = f"holds what was never written: {error}"
            return None

    @contextlib.contextmanager
    def transaction(self, generation: int) -> Iterator[Transaction]:
        """Done as a whole or not at all; Damaged or Unwritable where not. `generation` is the one that the writer has
        in mind: what it knows of another file would be wrong in this one."""
        with self._writing:
            if self.damage or generation != self.generation:
                raise Damaged(self.damage or "was made anew meanwhile")
            try:
                connection = self._writer = self._writer or _made(self.path)
                with _all_or_nothing(connection):
                    yield Transaction(connection)
            except InvalidArgument as error:
                self.damage = f"holds what was never written: {error}"
                raise Damaged(self.damage) from None
            except sqlite3.Error as error:
                if _code(error) not in _BROKEN:
                    raise Unwritable(f"{str(self.path)!r}: {error}") from None
                self.damage = str(error)
                raise Damaged(self.damage) from None

    def renew(self) -> bool:
        """Throws the file away if it is damaged, and answers whether it was; the next transaction makes another.
        OSError where that cannot be."""
        with self._writing, self._lookups:
            if not self.damage:
                return False
            self._close()
            for end in ("", "-wal", "-shm", "-journal"):
                Path(f"{self.path}{end}").unlink(missing_ok=True)
            self.damage = ""
            self.generation += 1
            return True

    def close(self) -> None:
        with self._writing, self._lookups:
            self._close()

    def _close(self) -> None:
        for connection in (self._reader, self._writer):
            if connection:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        self._reader = self._writer = None


@contextlib.contextmanager
def _all_or_nothing(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _connected(name: str, patience: float) -> sqlite3.Connection | None:
    """A connection to an index of this version; None where the database is empty, Damaged where it is another."""
    connection = sqlite3.connect(name, timeout=patience, isolation_level=None, check_same_thread=False, uri=True)
    try:
        # One snapshot for all three: the tables and the numbers may be committed between two of these.
        connection.execute("BEGIN")
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute("ROLLBACK")
        if (application, version) == (APPLICATION_ID, SCHEMA_VERSION):
            return connection
        if (application, version, tables) != (0, 0, 0):
            raise Damaged(f"is no index of version {SCHEMA_VERSION} (application {application}, version {version})")
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def _made(path: Path) -> sqlite3.Connection:
    """A connection for writing; the database is made where there is none."""
    name = f"{path.absolute().as_uri()}?mode=rwc"
    connection = _connected(name, _PATIENCE)
    if connection is None:
        with contextlib.closing(sqlite3.connect(name, isolation_level=None, uri=True)) as new:
            new.execute("PRAGMA journal_mode = WAL")
            new.executescript(SCHEMA)
        path.chmod(0o600)
        connection = _connected(name, _PATIENCE)
        if connection is None:
            raise Damaged("cannot be made")
    connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may take the last entries, and they are read again
    connection.execute("PRAGMA journal_size_limit = 4194304")
    return connection


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary code; 0 where Python had the trouble."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF

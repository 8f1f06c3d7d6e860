"""Names, kinds, parents and labels of snapshots, in SQLite. No file system.

The rules of the contract that concern names and kinds are enforced here, inside the transaction that changes them.
One writer at a time holds the turnstile; readers use a connection of their own thread and see the last commit.
`synchronous=FULL`: a committed transaction survives a power cut.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cvmfsrepo.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from snapshotter import labels as label
from snapshotter.filters import Filter
from snapshotter.snapshots import Info, Kind, Usage

_COLUMNS = (
    "s.id, s.name, s.kind, coalesce(p.name, ''), s.created, s.updated, s.labels, s.size, s.inodes,"
    " s.repository, s.layer, s.hide, s.white, s.revision, s.miss"
)
_FROM = " FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent_id "
_GET = f"SELECT {_COLUMNS}{_FROM}WHERE s.name = ?"
_CHAIN = (
    "WITH RECURSIVE chain(id, depth) AS (SELECT id, 0 FROM snapshots WHERE name = ? UNION ALL"
    " SELECT up.parent_id, depth + 1 FROM chain JOIN snapshots up USING (id) WHERE up.parent_id IS NOT NULL)"
    f" SELECT {_COLUMNS} FROM chain JOIN snapshots s ON s.id = chain.id"
    " LEFT JOIN snapshots p ON p.id = s.parent_id ORDER BY depth"
)
_LIST = f"SELECT {_COLUMNS}{_FROM}"
_PAGE = 1000

_labels_to_text = msgspec.json.Encoder().encode
_labels_from_text = msgspec.json.Decoder(dict[str, str]).decode


@dataclass(frozen=True, slots=True)
class Remote:
    """The repository's layer that a committed snapshot shows, with the keys of its shims (`white` may be "") and
    the repository's revision at that time, if it has revisions."""

    repository: str
    layer: str
    hide: str
    white: str
    revision: int | None


@dataclass(frozen=True, slots=True)
class Record:
    """A snapshot as it is kept: its public info, the number of its directory and what only we know of it."""

    id: int
    info: Info
    usage: Usage
    remote: Remote | None
    miss: str

    @property
    def public_info(self) -> Info:
        """The info with what we add for people: why the layer was not served from a repository."""
        if not self.miss:
            return self.info
        info = self.info
        labels = {**info.labels, label.MISS: self.miss}
        return Info(info.kind, info.name, info.parent, info.created, info.updated, labels)


class Metastore:
    """An open database. `open_database` of `snapshotter.database` makes and checks it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turnstile = threading.Lock()
        self._connections = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._writer = self._connect()

    def close(self) -> None:
        """Closes every connection; the write-ahead log is folded into the database."""
        with self._turnstile:
            for connection in self._all:
                connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator["Transaction"]:
        """A write transaction: committed when the body ends, rolled back when it raises."""
        with self._turnstile:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(self._writer)
                self._writer.execute("COMMIT")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
                    raise ResourceExhausted("database", str(self._path), "has no space left on its disk") from None
                raise
            finally:
                if self._writer.in_transaction:  # SQLite has rolled back by itself after some errors
                    self._writer.execute("ROLLBACK")

    def get(self, name: str) -> Record:
        row = self._reader().execute(_GET, (name,)).fetchone()
        if row is None:
            raise _no_such(name)
        return _record(row)

    def exists(self, name: str) -> bool:
        return self._reader().execute("SELECT 1 FROM snapshots WHERE name = ?", (name,)).fetchone() is not None

    def get_chain(self, name: str) -> list[Record]:
        """The snapshot and its ancestors, the base last."""
        rows = self._reader().execute(_CHAIN, (name,)).fetchall()
        if not rows:
            raise _no_such(name)
        return [_record(row) for row in rows]

    def get_parent_chain(self, parent: str) -> list[Record]:
        """The chain that a new snapshot would stand on: empty for no parent, refused where it is not committed."""
        if not parent:
            return []
        chain = self.get_chain(parent)
        _check_committed(parent, chain[0].info.kind)
        return chain

    def walk(self, wanted: Filter) -> Iterator[Record]:
        """Records that a filter matches, in the order of their making."""
        condition, values = _condition(wanted)
        statement, after = f"{_LIST}WHERE s.id > ?{condition} ORDER BY s.id LIMIT {_PAGE}", 0
        # A page is read whole: between two records the caller may ask for others, and must see what is there by then.
        while rows := self._reader().execute(statement, (after, *values)).fetchall():
            for record in map(_record, rows):
                after = record.id
                if wanted.matches(record.public_info):
                    yield record

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._connections, "reader", None)
        if connection is None:
            connection = self._connections.reader = self._connect()
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self._path)
        self._all.append(connection)
        return connection


class Transaction:
    """The writes of one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def create(
        self,
        kind: Kind,
        name: str,
        parent: str,
        labels: Mapping[str, str],
        remote: Remote | None = None,
        miss: str = "",
    ) -> int:
        """A new snapshot; answers its number. A committed one (a repository's layer) is made only with `remote`."""
        parent_id = self._parent_id(parent)
        now, none = time.time_ns(), Remote("", "", "", "", None)
        layer = remote or none
        values = (
            name, kind, parent_id, now, now, _labels_to_text(dict(labels)).decode(), labels.get(label.TARGET),
            layer.repository, layer.layer, layer.hide, layer.white, layer.revision, miss,
        )  # fmt: skip
        statement = (
            "INSERT INTO snapshots (name, kind, parent_id, created, updated, labels, target,"
            " repository, layer, hide, white, revision, miss) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
        )
        try:
            return int(self._connection.execute(statement, values).lastrowid or 0)
        except sqlite3.IntegrityError:
            raise AlreadyExists("snapshot", name, "exists already") from None

    def commit_active(self, key: str, name: str, labels: Mapping[str, str], usage: Usage, rebase_on: str = "") -> None:
        """Turns the active snapshot `key` into the committed `name`. `rebase_on` gives a parent to one that has
        none; where it has one they must be equal."""
        row = self._connection.execute(_GET, (key,)).fetchone()
        if row is None:
            raise _no_such(key)
        if name == key:
            raise AlreadyExists("snapshot", name, "exists already")
        active = _record(row)
        if active.info.kind is not Kind.ACTIVE:
            raise FailedPrecondition(
                "snapshot", key, f"is {active.info.kind.label}, and only an active one is committed"
            )
        if rebase_on and active.info.parent not in ("", rebase_on):
            raise InvalidArgument("parent", rebase_on, f"is not the parent {active.info.parent!r} of snapshot {key!r}")
        now = time.time_ns()
        values = (
            name, now, now, _labels_to_text(dict(labels)).decode(), labels.get(label.TARGET), usage.size, usage.inodes,
            self._rebase_id(rebase_on), active.id,
        )  # fmt: skip
        statement = (
            f"UPDATE snapshots SET kind = {int(Kind.COMMITTED)}, name = ?, created = ?, updated = ?, labels = ?,"
            " target = ?, size = ?, inodes = ?, parent_id = coalesce(?, parent_id) WHERE id = ?"
        )
        try:
            self._connection.execute(statement, values)
        except sqlite3.IntegrityError:
            raise AlreadyExists("snapshot", name, "exists already") from None

    def delete(self, name: str) -> int:
        """Deletes a snapshot without children; answers its number."""
        row = self._connection.execute("SELECT id FROM snapshots WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise _no_such(name)
        child = self._connection.execute("SELECT name FROM snapshots WHERE parent_id = ?", row).fetchone()
        if child is not None:
            raise FailedPrecondition("snapshot", name, f"has children ({child[0]!r})", "remove those first")
        self._connection.execute("DELETE FROM snapshots WHERE id = ?", row)
        return int(row[0])

    def set_labels(self, name: str, labels: Mapping[str, str]) -> Record:
        """Replaces all labels."""
        values = (_labels_to_text(dict(labels)).decode(), labels.get(label.TARGET), time.time_ns(), name)
        statement = "UPDATE snapshots SET labels = ?, target = ?, updated = ? WHERE name = ?"
        if self._connection.execute(statement, values).rowcount == 0:
            raise _no_such(name)
        return self.get(name)

    def get(self, name: str) -> Record:
        row = self._connection.execute(_GET, (name,)).fetchone()
        if row is None:
            raise _no_such(name)
        return _record(row)

    def ids(self) -> set[int]:
        """Numbers of all snapshots: the directories that are needed."""
        return {int(row[0]) for row in self._connection.execute("SELECT id FROM snapshots")}

    def shim_keys(self) -> set[str]:
        """Keys of all shims that a snapshot stands on."""
        rows = self._connection.execute("SELECT hide FROM snapshots UNION SELECT white FROM snapshots")
        return {str(row[0]) for row in rows} - {""}

    def _parent_id(self, parent: str) -> int | None:
        if not parent:
            return None
        row = self._connection.execute("SELECT id, kind FROM snapshots WHERE name = ?", (parent,)).fetchone()
        if row is None:
            raise NotFound("parent snapshot", parent, "does not exist")
        _check_committed(parent, Kind(row[1]))
        return int(row[0])

    def _rebase_id(self, parent: str) -> int | None:
        try:
            return self._parent_id(parent)
        except InvalidArgument as error:
            raise FailedPrecondition(error.thing, error.value, error.problem) from None


def connect(path: Path, patience: float = 30) -> sqlite3.Connection:
    """A connection with the settings that every one of ours has; `patience` is how long it waits for a lock that
    another process holds, in seconds."""
    connection = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _condition(wanted: Filter) -> tuple[str, tuple[str, ...]]:
    """The part of a filter that the database answers by an index: the look-up that follows each remote Prepare."""
    target = wanted.equalities().get(f"labels.{label.TARGET}")
    return (" AND s.target = ?", (target,)) if target is not None else ("", ())


def _record(row: tuple[object, ...]) -> Record:
    id_, name, kind, parent, created, updated, labels, size, inodes, repository, layer, hide, white, revision, miss = (
        row
    )
    info = Info(Kind(kind), name, parent, created, updated, _labels_from_text(labels))  # type: ignore[arg-type]
    remote = Remote(repository, layer, hide, white, revision) if layer else None  # type: ignore[arg-type]
    return Record(id_, info, Usage(size, inodes), remote, miss)  # type: ignore[arg-type]


def _check_committed(parent: str, kind: Kind) -> None:
    if kind is not Kind.COMMITTED:
        raise InvalidArgument("parent snapshot", parent, f"is {kind.label}, not committed")


def _no_such(name: str) -> NotFound:
    return NotFound("snapshot", name, "does not exist")

"""Names, kinds, parents and labels of snapshots, in SQLite. No file system.

The rules of the contract that concern names and kinds are enforced here, inside the transaction that changes them.
One writer at a time holds the turnstile; each read takes a connection of its own and sees the last commit.
`synchronous=FULL`: a committed transaction survives a power cut.
"""

import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from cvmfsrepo.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound
from snapshotter import labels as label
from snapshotter.faults import RESTART, of_sqlite
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

_MOST_IDLE = 16
"""Connections for reading that are kept."""

_labels_to_text = msgspec.json.Encoder().encode
_labels_from_text = msgspec.json.Decoder(dict[str, str]).decode


class Remote(msgspec.Struct, frozen=True):
    """The repository's layer that a committed snapshot shows, with the keys of its shims (`white` may be "") and
    the repository's revision at that time, if it has revisions."""

    repository: str
    layer: str
    hide: str
    white: str
    revision: int | None


class Record(msgspec.Struct, frozen=True):
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
        self._idle = deque[sqlite3.Connection]()
        self._is_open = True
        self._writer = connect(path)

    def close(self) -> None:
        """Closes every connection; the write-ahead log is folded into the database."""
        with self._turnstile:
            self._is_open = False
            while self._idle:
                self._idle.pop().close()
            self._writer.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator["Transaction"]:
        """A write transaction: committed when the body ends, rolled back when it raises."""
        with self._turnstile:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield Transaction(self._writer)
                self._writer.execute("COMMIT")
            except sqlite3.DatabaseError as error:
                self._make_room()
                raise _answer(error, self._path) from None
            finally:
                self._roll_back()

    def _roll_back(self) -> None:
        """Ends a transaction that failed, unless SQLite has done so by itself."""
        with contextlib.suppress(sqlite3.DatabaseError):
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    def _make_room(self) -> None:
        """Brings the write-ahead log into the database, so that the next transaction writes over the log: where a
        disk is full, a Remove is what makes space there, and it needs some for its record."""
        self._roll_back()
        with contextlib.suppress(sqlite3.DatabaseError):
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @property
    def changes(self) -> int:
        """A number that is another one after each transaction that changed something."""
        return self._writer.total_changes

    def back_up(self, target: Path, application_id: int) -> None:
        """Writes a copy of the last commit, with a mark of its own, while others read and write."""
        try:
            with contextlib.closing(connect(self._path)) as source, contextlib.closing(connect(target)) as copy:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
                copy.execute(f"PRAGMA application_id = {application_id}")
                (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            raise _answer(error, self._path) from None
        if verdict != "ok":
            raise DataLoss("database", str(self._path), f"is damaged ({verdict.splitlines()[-1]})", RESTART)

    def get(self, name: str) -> Record:
        rows = self._read(_GET, name)
        if not rows:
            raise _no_such(name)
        return _record(rows[0])

    def exists(self, name: str) -> bool:
        return bool(self._read("SELECT 1 FROM snapshots WHERE name = ?", name))

    def get_chain(self, name: str) -> list[Record]:
        """The snapshot and its ancestors, the base last."""
        rows = self._read(_CHAIN, name)
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

    def look(self) -> None:
        """Does what every change has to do first and last, and changes nothing."""
        with self.transaction() as transaction:
            transaction.last_number()

    def counts(self) -> dict[tuple[Kind, bool, bool], int]:
        """How many there are, by kind, whether it shows a repository's layer, and whether it was made after a miss."""
        rows = self._read("SELECT kind, layer != '', miss != '', count(*) FROM snapshots GROUP BY 1, 2, 3")
        found = dict[tuple[Kind, bool, bool], int]()
        for kind, remote, miss, count in rows:
            found[Kind(kind), bool(remote), bool(miss)] = count  # type: ignore[arg-type,assignment]
        return found

    def walk(self, wanted: Filter) -> Iterator[Record]:
        """Records that a filter matches, in the order of their making."""
        condition, values = _condition(wanted)
        statement, after = f"{_LIST}WHERE s.id > ?{condition} ORDER BY s.id LIMIT {_PAGE}", 0
        # A page is read whole: between two records the caller may ask for others, and must see what is there by then.
        while rows := self._read(statement, after, *values):
            for record in map(_record, rows):
                after = record.id
                if wanted.matches(record.public_info):
                    yield record

    def _read(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with self._reader() as reader:
            try:
                return reader.execute(statement, values).fetchall()
            except sqlite3.DatabaseError as error:
                raise _answer(error, self._path) from None

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses now; kept afterwards, for opening one costs more than a read."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = connect(self._path)
        try:
            yield connection
        finally:
            if self._is_open and len(self._idle) < _MOST_IDLE:
                self._idle.append(connection)
            else:
                connection.close()


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
        _check_name(name)
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
        _check_name(name)
        row = self._connection.execute(_GET, (key,)).fetchone()
        if row is None:
            raise _no_such(key)
        if self._connection.execute("SELECT 1 FROM snapshots WHERE name = ?", (name,)).fetchone():  # the key's own too
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
        """Replaces all labels. A clock that was set back makes no snapshot older than its own making."""
        values = (_labels_to_text(dict(labels)).decode(), labels.get(label.TARGET), time.time_ns(), name)
        statement = "UPDATE snapshots SET labels = ?, target = ?, updated = max(?, created) WHERE name = ?"
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

    def last_number(self) -> int:
        """The highest number that a committed transaction gave away."""
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'").fetchone()
        return int(row[0]) if row else 0

    def skip_to(self, number: int) -> None:
        """Gives no number up to this one any more."""
        self._connection.execute("DELETE FROM sqlite_sequence WHERE name = 'snapshots'")
        self._connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('snapshots', ?)", (number,))

    def application_id(self) -> int:
        """The mark that says whose file it is, and whether it is a backup put in place."""
        return int(self._connection.execute("PRAGMA application_id").fetchone()[0])

    def set_application_id(self, mark: int) -> None:
        self._connection.execute(f"PRAGMA application_id = {mark}")

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


def _answer(error: sqlite3.DatabaseError, path: Path) -> Exception:
    """What SQLite reports, as our error; what we did not foresee stays what it is."""
    return of_sqlite(getattr(error, "sqlite_errorcode", 0), str(error), path) or error


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


def _check_name(name: str) -> None:
    if not name:
        raise InvalidArgument("snapshot", name, "has no name", "give it a key")


def _check_committed(parent: str, kind: Kind) -> None:
    if kind is not Kind.COMMITTED:
        raise InvalidArgument("parent snapshot", parent, f"is {kind.label}, not committed")


def _no_such(name: str) -> NotFound:
    return NotFound("snapshot", name, "does not exist")

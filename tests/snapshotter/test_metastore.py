"""The database: its schema, what is refused at the start, and what a failed write leaves."""

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from snapshotter.backup import APPLICATION_ID
from snapshotter.database import SCHEMA_VERSION, open_database
from snapshotter.filters import parse_filters
from snapshotter.metastore import Metastore, Remote
from snapshotter.snapshots import Kind, Usage

REMOTE = Remote("r", "a" * 64, "b" * 64, "", 7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Metastore]:
    store = open_database(path)
    yield store
    store.close()


def create(store: Metastore, name: str, kind: Kind = Kind.ACTIVE, parent: str = "") -> int:
    with store.transaction() as transaction:
        return transaction.create(kind, name, parent, {}, REMOTE if kind is Kind.COMMITTED else None)


def create_many(store: Metastore, count: int) -> None:
    with store.transaction() as transaction:
        for number in range(count):
            transaction.create(Kind.ACTIVE, f"{number:04}" * 100, "", {})


def names(store: Metastore) -> list[str]:
    return [record.info.name for record in store.walk(parse_filters([]))]


def test_the_schema_is_recorded(path: Path, store: Metastore) -> None:
    """A file says whose it is and which schema it has; every commit is on the disk before it is answered."""
    with sqlite3.connect(path) as connection:
        values = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version", "journal_mode")
        ]
    connection.close()
    assert values == [APPLICATION_ID, SCHEMA_VERSION, "wal"]
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)


def test_an_open_database_is_opened_again(path: Path) -> None:
    """Nothing is lost by closing."""
    store = open_database(path)
    create(store, "a", Kind.COMMITTED)
    store.close()
    store = open_database(path)
    record = store.get("a")
    assert (record.id, record.remote, record.usage) == (1, REMOTE, Usage())
    store.close()


def test_a_newer_schema_is_refused(path: Path) -> None:
    """With both versions and what to do; the file stays as it is."""
    open_database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(FailedPrecondition, match=f"has schema {SCHEMA_VERSION + 1}, and this version reads up to"):
        open_database(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 8176, b"x"])
def test_a_damaged_file_is_refused(path: Path, content: bytes) -> None:
    """DataLoss with what to do; the file stays as it is."""
    path.write_bytes(content)
    with pytest.raises(DataLoss, match="restore a backup"):
        open_database(path)
    assert path.read_bytes() == content


def test_a_page_that_rotted_is_refused(path: Path) -> None:
    """Also where the header is whole: the start reads all of it once."""
    store = open_database(path)
    for number in range(200):
        create(store, f"{number}" * 50)
    store.close()
    content = bytearray(path.read_bytes())
    content[5 * 4096 : 6 * 4096] = b"\xaa" * 4096
    path.write_bytes(content)
    with pytest.raises(DataLoss, match="metadata"):
        open_database(path)


def test_a_file_cut_short_is_refused(path: Path) -> None:
    """As a full disk leaves a copy."""
    store = open_database(path)
    for number in range(200):
        create(store, f"{number}" * 50)
    store.close()
    path.write_bytes(path.read_bytes()[: 3 * 4096])
    with pytest.raises(DataLoss):
        open_database(path)


def test_an_empty_file_is_a_new_database(path: Path) -> None:
    """A first start that was killed at once leaves one."""
    path.touch()
    store = open_database(path)
    assert names(store) == []
    store.close()


def test_somebody_elses_database_is_refused(path: Path) -> None:
    """A good SQLite file without our mark."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(FailedPrecondition, match="was not made by cvmfs-snapshotter"):
        open_database(path)


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_locked_database_is_refused(path: Path, lock: str) -> None:
    """Within seconds, not when the first snapshot is made."""
    open_database(path).close()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute(lock)
    with pytest.raises(FailedPrecondition, match="is locked by another process"):
        open_database(path)
    holder.close()
    open_database(path).close()


def test_a_directory_in_its_place_is_refused(path: Path) -> None:
    """And anything else that cannot be opened."""
    path.mkdir()
    with pytest.raises(FailedPrecondition, match="cannot be written"):
        open_database(path)


def test_a_failed_transaction_leaves_nothing(store: Metastore) -> None:
    """What the body raised comes through, its writes are gone, and the next one works."""
    with contextlib.suppress(LookupError), store.transaction() as transaction:
        transaction.create(Kind.ACTIVE, "a", "", {})
        raise LookupError
    assert names(store) == []
    assert create(store, "b") > 0


def test_a_full_disk(store: Metastore) -> None:
    """ResourceExhausted, whether SQLite rolls back by itself or not; the state is as before, and so is the next try."""
    create(store, "first")
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    for _ in range(2):
        with pytest.raises(ResourceExhausted, match="no space left"):
            create_many(store, 1000)
    assert names(store) == ["first"]
    store._writer.execute("PRAGMA max_page_count = 1000000")
    create(store, "second")
    assert names(store) == ["first", "second"]


def test_numbers_are_never_given_twice(path: Path) -> None:
    """Not after a removal either, nor after a restart: a directory belongs to one snapshot for ever."""
    store = open_database(path)
    create(store, "a")
    number = create(store, "b")
    with store.transaction() as transaction:
        assert transaction.delete("b") == number
    store.close()
    store = open_database(path)
    assert create(store, "c") == number + 1
    store.close()


def test_readers_see_the_last_commit(store: Metastore) -> None:
    """While a transaction is open others read what was there before it, without waiting."""
    create(store, "before")
    seen: list[list[str]] = []
    with store.transaction() as transaction:
        transaction.create(Kind.ACTIVE, "within", "", {})
        thread = threading.Thread(target=lambda: seen.append(names(store)))
        thread.start()
        thread.join(10)
    assert seen == [["before"]]
    assert names(store) == ["before", "within"]


def test_one_writer_at_a_time(store: Metastore) -> None:
    """Threads that write wait for each other, and none is told of a lock."""
    failures: list[BaseException] = []

    def write(word: str) -> None:
        try:
            for number in range(20):
                create(store, f"{word}-{number}")
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=write, args=(word,)) for word in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(names(store)) == 160


def test_a_walk_of_many_pages(store: Metastore) -> None:
    """Each record once, in the order of their making, with removals and additions on the way."""
    with store.transaction() as transaction:
        for number in range(2500):
            transaction.create(Kind.ACTIVE, f"{number:04}", "", {})
    seen = []
    for record in store.walk(parse_filters([])):
        seen.append(record.info.name)
        if len(seen) == 10:
            with store.transaction() as transaction:
                transaction.delete("2000")
                transaction.create(Kind.ACTIVE, "late", "", {})
    assert seen == [f"{number:04}" for number in range(2500) if number != 2000] + ["late"]


def test_the_look_up_of_a_remote_prepare_uses_the_index(store: Metastore) -> None:
    """It follows every hit; a walk of all snapshots would make a pull slow on a full node."""
    statements: list[str] = []
    wanted = parse_filters(['labels."containerd.io/snapshot.ref"==sha256:x,parent==""'])
    with store._reader() as reader:
        reader.set_trace_callback(statements.append)
    assert list(store.walk(wanted)) == []  # with the connection that was given back
    with store._reader() as reader:
        reader.set_trace_callback(None)
        (plan,) = [str(reader.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()) for statement in statements[:1]]
    assert "snapshots_target" in plan


def test_an_empty_name_is_refused(store: Metastore) -> None:
    """Nobody could name such a snapshot as a parent."""
    create(store, "a", Kind.ACTIVE)
    with pytest.raises(InvalidArgument, match="has no name"), store.transaction() as transaction:
        transaction.create(Kind.ACTIVE, "", "", {})
    with pytest.raises(InvalidArgument, match="has no name"), store.transaction() as transaction:
        transaction.commit_active("a", "", {}, Usage())


def test_a_chain_is_read_topmost_first(store: Metastore) -> None:
    """The snapshot itself, its parent and so on; an unknown one is NotFound."""
    parent = ""
    for name in "abcd":
        create(store, name, Kind.COMMITTED, parent)
        parent = name
    assert [record.info.name for record in store.get_chain("d")] == list("dcba")
    assert store.get_parent_chain("") == []
    with pytest.raises(NotFound):
        store.get_chain("x")


def test_a_remote_record_is_made_once(store: Metastore) -> None:
    """The name decides, inside the transaction."""
    create(store, "r", Kind.COMMITTED)
    with pytest.raises(AlreadyExists):
        create(store, "r", Kind.COMMITTED)
    with store.transaction() as transaction:
        assert transaction.shim_keys() == {"b" * 64}


def test_a_killed_writer_loses_what_it_had_not_committed(path: Path, tmp_path: Path) -> None:
    """The files as they stand in the middle of a transaction are those that a crash leaves."""
    store = open_database(path)
    create(store, "committed")
    with store.transaction() as transaction:
        transaction.create(Kind.ACTIVE, "open", "", {})
        (tmp_path / "crash").mkdir()
        for file in tmp_path.glob("metadata.sqlite*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, tmp_path / "crash")
    store.close()
    store = open_database(tmp_path / "crash" / "metadata.sqlite")
    assert names(store) == ["committed"]
    store.close()

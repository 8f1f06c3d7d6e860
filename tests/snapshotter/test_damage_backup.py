"""The copy of the database: whole whenever it is read, written on a change, never replaced by a worse one."""

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshotter.backup import APPLICATION_ID, BACKUP, BACKUP_ID, Backups, find_header, keep_newer
from snapshotter.database import SCHEMA_VERSION, open_database
from snapshotter.disk import Disk
from snapshotter.metastore import Metastore
from snapshotter.root import DATABASE
from snapshotter.snapshots import Kind
from tests.snapshotter.nodes import eventually


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Metastore]:
    (tmp_path / "snapshots").mkdir()
    store = open_database(tmp_path / DATABASE)
    yield store
    store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / BACKUP


def create(store: Metastore, *names: str) -> None:
    with store.transaction() as transaction:
        for name in names:
            transaction.create(Kind.ACTIVE, name, "", {"text": "x" * 500})


def records(database: Path) -> list[str]:
    """Names in a database, read by SQLite alone."""
    connection = sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    names = [str(row[0]) for row in connection.execute("SELECT name FROM snapshots ORDER BY id")]
    connection.close()
    return names


def test_a_copy_is_one_file(store: Metastore, path: Path) -> None:
    """It needs no log beside it, bears its own mark, and holds all that was committed."""
    create(store, "a", "b")
    Backups(store, path).save_if_changed()
    header = find_header(path)
    assert header is not None
    assert (header.application_id, header.schema, header.write_ahead) == (BACKUP_ID, SCHEMA_VERSION, False)
    assert records(path) == ["a", "b"]
    assert sorted(name for name in os.listdir(path.parent) if name.startswith(BACKUP)) == [BACKUP]


def test_a_copy_while_others_write(store: Metastore, path: Path) -> None:
    """It holds whole transactions, however many are committed meanwhile."""
    over, backups = threading.Event(), Backups(store, path)

    def write() -> None:
        for number in range(200):
            create(store, *(f"{number:03}-{part}" for part in range(5)))
        over.set()

    thread = threading.Thread(target=write)
    thread.start()
    copies = 0
    while not over.is_set():
        backups.save_if_changed()
        copies, found = copies + 1, records(path)
        assert found == [f"{number:03}-{part}" for number in range(len(found) // 5) for part in range(5)]
    thread.join(30)
    assert copies > 3


def test_no_copy_without_a_change(store: Metastore, path: Path) -> None:
    """Reading is none."""
    create(store, "a")
    backups = Backups(store, path)
    backups.save_if_changed()
    path.unlink()
    store.get("a")
    backups.save_if_changed()
    assert not path.exists()
    create(store, "b")
    backups.save_if_changed()
    assert records(path) == ["a", "b"]


def test_copies_are_written_by_themselves(store: Metastore, path: Path) -> None:
    """At once where there is none, at intervals when something changed, and at the end."""
    with Backups(store, path, interval=0.05):
        eventually(path.exists)
        create(store, "a")
        eventually(lambda: records(path) == ["a"])
    path.unlink()
    with Backups(store, path, interval=600):
        eventually(path.exists)
        create(store, "b")
    assert records(path) == ["a", "b"]


def test_a_young_copy_is_not_replaced_at_once(store: Metastore, path: Path) -> None:
    """The database may be the wrong one; an old copy is. A clock that was set back does not keep it for ever."""
    Backups(store, path).save_if_changed()
    first = path.stat().st_ino
    backups = Backups(store, path, interval=600)
    now = path.stat().st_mtime
    for seconds, least, most in ((0, 590, 600), (-300, 295, 301), (-9000, 0, 0), (100_000, 600, 600)):
        os.utime(path, (now + seconds, now + seconds))
        assert least <= backups._first_wait() <= most
    assert path.stat().st_ino == first


def test_a_copy_that_cannot_be_written(store: Metastore, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Is a warning; the daemon goes on, and so does the next try."""
    path.mkdir()
    backups = Backups(store, path)
    backups.save_if_changed()
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == ["backup not written"]
    assert os.listdir(path.parent).count(f"{BACKUP}.new") == 0
    path.rmdir()
    backups.save_if_changed()
    assert path.is_file()


def test_a_damaged_database_does_not_replace_a_good_copy(store: Metastore, path: Path) -> None:
    """A page that rots while the daemon runs is found before the copy gets its name."""
    create(store, *(f"{number}" for number in range(200)))
    backups = Backups(store, path)
    backups.save_if_changed()
    with store.transaction() as transaction:
        transaction.delete("7")
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (path.parent / DATABASE).open("r+b") as file:
        file.seek(6 * 4096)
        file.write(b"\xaa" * 4096)
    backups.save_if_changed()
    assert len(records(path)) == 200


def test_directories_newer_than_the_database(store: Metastore, tmp_path: Path) -> None:
    """Are kept with a word of why, and their numbers are skipped; one too many is what a crash leaves."""
    create(store, "a")
    disk = Disk(tmp_path)
    for number in (1, 2):
        (disk.snapshots / str(number)).mkdir()
    keep_newer(store, disk)
    assert [path.name for path in disk.set_aside({1})] == ["old-2"]
    for number in (2, 3):
        (disk.snapshots / str(number)).mkdir()
    keep_newer(store, disk)
    (disk.snapshots / "old-2").rmdir()
    assert disk.set_aside({1}) == []
    assert b"newer than the database" in (disk.snapshots / "3" / "kept").read_bytes()
    create(store, "b")
    assert store.get("b").id == 4


def test_the_mark_of_a_backup_is_taken_off(store: Metastore, tmp_path: Path) -> None:
    """Once what is newer is kept: the next start sweeps again."""
    with store.transaction() as transaction:
        transaction.set_application_id(BACKUP_ID)
    disk = Disk(tmp_path)
    (disk.snapshots / "1").mkdir()
    keep_newer(store, disk)
    assert disk.set_aside([]) == []
    with store.transaction() as transaction:
        assert transaction.application_id() == APPLICATION_ID


def test_a_number_that_was_never_given(tmp_path: Path) -> None:
    """Somebody made the directory while the daemon ran: Cleanup leaves it alone."""
    disk = Disk(tmp_path)
    for number in (4, 5, 6, 7):
        (disk.snapshots / str(number)).mkdir(parents=True)
    assert {path.name for path in disk.set_aside({4}, last=5)} == {"old-5", "old-6"}
    assert (disk.snapshots / "7").is_dir()

"""`backup` and `restore`."""

import os
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from tests.cli.commands import CONTAINER, Told, told

pytestmark = pytest.mark.slow  # a daemon and several commands for each test


def names(node: Told) -> set[str]:
    return {found["name"] for found in node("snapshots", "--json").json}


def test_a_backup_while_the_daemon_runs(tmp_path: Path) -> None:
    """A whole database of now, 0600, where it is asked for; the answer says where and how large."""
    target = tmp_path / "copies" / "copy.sqlite"
    target.parent.mkdir()
    with told(tmp_path) as node:
        said, expected = node("backup", str(target), "--json"), names(node)
    assert said.status == 0
    assert said.json["path"] == str(target)
    assert said.json["size"] == target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with sqlite3.connect(target) as copy:
        assert {name for (name,) in copy.execute("SELECT name FROM snapshots")} == expected
    copy.close()
    assert os.listdir(target.parent) == ["copy.sqlite"]


def test_a_backup_without_a_target_is_the_daemons_own(tmp_path: Path) -> None:
    """The one that a refused start points to; it is newer than what the interval would have made."""
    with told(tmp_path) as node:
        path = node.daemon.root / "metadata.backup.sqlite"
        said = node("backup", "--json")
        with sqlite3.connect(path) as copy:
            found = {name for (name,) in copy.execute("SELECT name FROM snapshots")}
        copy.close()
        assert found == names(node)
    assert (said.status, said.json["path"]) == (0, str(path))


def test_a_target_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A directory, and a place that is not there."""
    with told(tmp_path) as node:
        directory, nowhere = node("backup", str(tmp_path)), node("backup", str(tmp_path / "none" / "copy"))
    assert (directory.status, nowhere.status) == (1, 1)
    assert "is a directory" in directory.err
    assert "No such file or directory" in nowhere.err


def test_there_and_back(tmp_path: Path) -> None:
    """The records of the copy are served again; what was made since is kept on the disk, and the start says so."""
    copy = tmp_path / "copy.sqlite"
    with told(tmp_path) as node:
        assert node("backup", str(copy)).status == 0
        before = names(node)
        with node.daemon.client() as client:
            client.prepare("k8s.io/11/later", "", {})
            client.remove("k8s.io/8/download")
        node.daemon.stop()
        said = node("restore", str(copy))
        node.daemon.start()
        after, started = names(node), node.daemon.log_lines()
        mounts = node("explain", CONTAINER)
        kept = next(node.daemon.root.glob("metadata.sqlite.before-*"))
        assert (node.daemon.root / "snapshots" / "5" / "kept").exists()
    assert said.status == 0
    assert after == before
    lines = said.out.splitlines()
    assert lines[0] == f"restored 4 snapshots from {copy}"
    assert lines[1].endswith("ago: what was made since is not in it")
    assert lines[2] == f"the database that was there: {kept}"
    assert [line["kept"] for line in started if line["msg"] == "the database is older than the disk"] == [1]
    assert mounts.status == 0


def test_a_restore_can_be_undone(tmp_path: Path) -> None:
    """With the database that was kept, whose last commits may still be in its log."""
    copy = tmp_path / "copy.sqlite"
    with told(tmp_path) as node:
        assert node("backup", str(copy)).status == 0
        with node.daemon.client() as client:
            client.prepare("k8s.io/11/later", "", {})
        expected = names(node)
        node.daemon.kill9()
        kept = node("restore", str(copy), "--json").json["kept"]
        assert Path(f"{kept}-wal").exists()
        assert "k8s.io/11/later" not in names(node)
        assert node("restore", kept, "--json").json["snapshots"] == len(expected)
        node.daemon.start()
        assert names(node) == expected


def test_restore_refuses_while_a_daemon_runs(tmp_path: Path) -> None:
    """And changes nothing."""
    with told(tmp_path) as node:
        copy = Path(node("backup", "--json").json["path"])
        before = sorted(os.listdir(node.daemon.root))
        said = node("restore", str(copy))
        assert sorted(os.listdir(node.daemon.root)) == before
    assert said.status == 1
    assert "is in use by a daemon; stop it" in said.err


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist"),
        (b"", "is no database"),
        (b"root:x:0:0::/root:/bin/sh\n" * 20, "is no database"),
        (b"SQLite format 3\0" + bytes(4000), "take another copy"),
    ],
    ids=["missing", "empty", "text", "header only"],
)
def test_a_copy_that_is_none_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    """Before anything is changed: the daemon starts with what it had."""
    copy = tmp_path / "copy.sqlite"
    if content is not None:
        copy.write_bytes(content)
    with told(tmp_path) as node:
        before = names(node)
        node.daemon.stop()
        said = node("restore", str(copy))
        assert not list(node.daemon.root.glob("*before*"))
        assert not list(node.daemon.root.glob("*restoring*"))
        node.daemon.start()
        assert names(node) == before
    assert said.status == 1
    assert said.err.startswith(f"error: copy '{copy}': ")
    assert problem in said.err


def test_a_damaged_or_foreign_copy_is_refused(tmp_path: Path) -> None:
    """One with a broken page, and a database of something else."""
    with told(tmp_path) as node:
        copy, foreign = tmp_path / "copy.sqlite", tmp_path / "foreign.sqlite"
        assert node("backup", str(copy)).status == 0
        node.daemon.stop()
        content = bytearray(copy.read_bytes())
        content[4096:8192] = b"\xff" * 4096
        copy.write_bytes(content)
        with sqlite3.connect(foreign) as other:
            other.execute("CREATE TABLE t (a)")
        other.close()
        damaged, strange = node("restore", str(copy)), node("restore", str(foreign))
        itself = node("restore", str(node.daemon.root / "metadata.sqlite"))
    assert (damaged.status, strange.status, itself.status) == (1, 1, 1)
    assert "was not made by cvmfs-snapshotter" in strange.err
    assert "is the database itself" in itself.err
    assert "cannot be read" in damaged.err or "is damaged" in damaged.err


def test_restore_mends_a_lost_database(tmp_path: Path) -> None:
    """The daemon refuses to start without it; after a restore it starts."""
    copy = tmp_path / "copy.sqlite"
    with told(tmp_path) as node:
        assert node("backup", str(copy)).status == 0
        before = names(node)
        node.daemon.stop()
        (node.daemon.root / "metadata.sqlite").unlink()
        said = node("restore", str(copy))
        node.daemon.start()
        assert names(node) == before
    assert "there was none" in said.out


def test_a_backup_without_a_daemon(tmp_path: Path) -> None:
    """From the disk."""
    with told(tmp_path) as node:
        node.daemon.stop()
        copy = tmp_path / "copy.sqlite"
        assert node("backup", str(copy)).status == 0
        shutil.copy(copy, tmp_path / "second.sqlite")
        assert node("restore", str(tmp_path / "second.sqlite"), "--json").json["snapshots"] == 4

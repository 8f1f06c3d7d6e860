"""A damaged state: a start refuses it and says what to do, or serves what is whole and says what is not."""

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cvmfsrepo.errors import AlreadyExists, DataLoss
from snapshotter.backup import BACKUP
from snapshotter.client import Client
from snapshotter.database import SCHEMA_VERSION
from snapshotter.root import DATABASE
from snapshotter.server import MOST_WARNINGS
from snapshotter.snapshotter import remote_name
from tests import mounting
from tests.snapshotter.daemon import Daemon, refusal
from tests.snapshotter.layers import NAME, HandMade, pull
from tests.suites.contract import upper_of

pytestmark = pytest.mark.slow  # each test starts a daemon, and some do it again and again

REMOTE = remote_name("base", "")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State and repository of a node that ended in peace, with a committed snapshot, an active one on it, a
    repository's layer with both shims and one on that. Made once; each test has a copy."""
    directory = tmp_path_factory.mktemp("whole")
    repository = HandMade(directory / "repository")
    layer = repository.add("base", {"a": "a", ".wh.gone": "", ".wh.away": ""})
    with Daemon(directory / "root", repository=NAME, absolute_mountpoint=repository.root) as daemon:
        with daemon.client() as client:
            for number in range(60):
                client.prepare(f"key-{number}", "", {"text": "x" * 200})
            client.commit("local", "key-0", {})
            client.prepare("active", "local", {})
            with pytest.raises(AlreadyExists, match="is served"):
                client.prepare("extract", "", pull("base", layer))
            client.prepare("on-remote", REMOTE, {})
        assert daemon.stop() == 0
    return directory


@pytest.fixture
def repository(whole: Path, tmp_path: Path) -> HandMade:
    subprocess.run(["cp", "-a", whole / "repository", tmp_path], check=True)
    return HandMade(tmp_path / "repository")


@pytest.fixture
def daemon(whole: Path, repository: HandMade, tmp_path: Path) -> Iterator[Daemon]:
    """That node, which does not run; its last backup is of just now."""
    subprocess.run(["cp", "-a", whole / "root", tmp_path], check=True)
    with closing(Daemon(tmp_path / "root", repository=NAME, absolute_mountpoint=repository.root)) as daemon:
        layer = number_of(daemon, REMOTE) / "fs"
        relink(layer, os.readlink(layer).replace(str(whole), str(tmp_path)))
        os.utime(daemon.root / BACKUP)
        yield daemon


@pytest.fixture
def database(daemon: Daemon) -> Path:
    """The node's database."""
    return daemon.root / DATABASE


def names(client: Client) -> set[str]:
    return {info.name for info in client.walk()}


def tree(root: Path) -> list[tuple[str, bytes]]:
    """Every path but the lock and what SQLite makes to read a log; with its content, or where it leads."""
    paths = (path for path in sorted(root.rglob("*")) if not path.name.endswith(("lock", "-shm", "-wal")))
    return [(str(path), os.fsencode(os.readlink(path)) if path.is_symlink() else _content(path)) for path in paths]


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def execute(database: Path, *statements: str) -> None:
    connection = sqlite3.connect(database, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def overwrite(database: Path, at: int, content: bytes) -> None:
    with database.open("r+b") as file:
        file.seek(at)
        file.write(content)


def replace_database(database: Path) -> None:
    database.unlink()
    execute(database, "CREATE TABLE songs (title)")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a few bytes": lambda path: os.truncate(path, 50),
    "empty": lambda path: os.truncate(path, 0),
    "lost": lambda path: path.unlink(),
    "garbage": lambda path: path.write_bytes(b"garbage" * 10_000),
    "garbage in a page": lambda path: overwrite(path, 5 * 4096, b"\xaa" * 4096),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another's": replace_database,
    "without a column": lambda path: execute(path, "ALTER TABLE snapshots DROP COLUMN revision"),
    "without an index": lambda path: execute(path, "DROP INDEX snapshots_target"),
    "newer": lambda path: execute(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_database_that_cannot_be_used(daemon: Daemon, database: Path, damage: str) -> None:
    """Is refused, untouched, with where the backup is, how old it is, and the command that restores it: which does."""
    DAMAGE[damage](database)
    before = tree(daemon.root)
    said = refusal(daemon.root, repository=NAME)
    assert tree(daemon.root) == before
    found = re.search(r"a backup: one of 20\d\d-.* UTC, less than a minute old, is at (\S+); .*?: (rm .*)", said)
    assert found, said
    assert found[1] == str(daemon.root / BACKUP)
    subprocess.run(found[2].split("; or ")[0], shell=True, check=True)
    daemon.start()
    with daemon.client() as client:
        assert {"local", "active", REMOTE, "on-remote", "key-59"} <= names(client)
        client.prepare("next", "local", {})


def test_how_old_a_backup_is(daemon: Daemon, database: Path) -> None:
    """By the clock; one from the future is young. Without a backup the refusal names the other way out."""
    database.write_bytes(b"garbage" * 1000)
    backup, now = daemon.root / BACKUP, (daemon.root / BACKUP).stat().st_mtime
    for seconds, age in ((12 * 60 + 5, "12 minutes"), (3700, "1 hour"), (3 * 86400, "3 days"), (-900, "less than a")):
        os.utime(backup, (now - seconds, now - seconds))
        assert f"{age} old, is at" in refusal(daemon.root) or age == "less than a"
    assert "less than a minute old" in refusal(daemon.root)
    backup.unlink()
    assert "drain the node's images from containerd" in refusal(daemon.root)


def test_a_backup_that_is_newer_than_this_version(daemon: Daemon, database: Path) -> None:
    """Does not help where the database is too new."""
    for path in (database, daemon.root / BACKUP):
        execute(path, "PRAGMA user_version = 99")
    said = refusal(daemon.root)
    assert "start the newer cvmfs-snapshotter again" in said
    assert str(daemon.root / BACKUP) not in said


def test_a_database_that_another_process_locks(daemon: Daemon, database: Path) -> None:
    """Is refused within seconds, as a second daemon is; the first one does not notice."""
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert "is locked by another process; stop that process first" in refusal(daemon.root)
    holder.close()
    daemon.start()
    assert f"is in use by process {daemon.pid}; stop it" in refusal(daemon.root)
    with daemon.client() as client:
        client.prepare("next", "local", {})


def test_a_log_that_was_left_behind(daemon: Daemon) -> None:
    """By a kill: it holds what was committed, and the start reads it."""
    daemon.start()
    with daemon.client() as client:
        client.prepare("last", "", {})
        before = names(client)
    daemon.kill9()
    assert Path(f"{daemon.root / DATABASE}-wal").stat().st_size > 0
    daemon.start()
    with daemon.client() as client:
        assert names(client) == before


def test_a_backup_beside_the_log_of_another(daemon: Daemon) -> None:
    """A log left behind is no backup's: SQLite would play it into it. Refused, with the command that helps."""
    daemon.start()
    with daemon.client() as client:
        for number in range(40):
            client.remove(f"key-{number + 1}")
            client.prepare(f"late-{number}", "", {})
    daemon.kill9()
    shutil.copy(daemon.root / BACKUP, daemon.root / DATABASE)
    said = refusal(daemon.root)
    found = re.search("beside the write-ahead log of the one before it; (rm -f .*)", said)
    assert found, said
    subprocess.run(found[1], shell=True, check=True)
    daemon.start()
    with daemon.client() as client:
        assert {"key-59", "key-1"} <= names(client)
        assert "late-1" not in names(client)


@pytest.mark.root
def test_a_restore_under_a_running_container(daemon: Daemon, repository: HandMade, tmp_path: Path) -> None:
    """The container is newer than the backup. Its directories and all that they stand on are kept, its mount goes on,
    no number is given again, a warning names what is kept; also over another start, until a person removes it."""
    daemon.start()
    late = repository.add("late", {"a": "a", ".wh.late": "", "sub/.wh.late": ""})
    with daemon.client() as client:
        with pytest.raises(AlreadyExists, match="is served"):
            client.prepare("extract", "local", pull("late", late))
        (mount,) = client.prepare("container", remote_name("late", "local"), {})
    upper = upper_of([mount])
    numbers = {upper.parent.name, str(int(upper.parent.name) - 1)}
    with mounting.mounted(mount.type, mount.source, tmp_path / "merged", mount.options) as merged:
        (merged / "before").write_text("precious")
        daemon.kill9()
        overwrite(daemon.root / DATABASE, 0, b"garbage" * 2000)
        found = re.search("with the daemon stopped: (.*)", refusal(daemon.root))
        assert found
        subprocess.run(found[1], shell=True, check=True)
        for _ in range(2):
            daemon.start()
            with daemon.client() as client:
                assert "container" not in names(client)
                client.cleanup()
                next_upper = upper_of(client.prepare("next", "local", {}))
                assert int(next_upper.parent.name) > int(upper.parent.name)
                client.remove("next")
            assert sorted(os.listdir(merged)) == ["a", "before", "sub"]
            assert os.listdir(merged / "sub") == []
            assert (merged / "before").read_text() == (upper / "before").read_text() == "precious"
            (merged / "after").write_text("")
            (merged / "after").unlink()
            kept = [line for line in daemon.log_lines() if "is newer than the database" in line.get("problem", "")]
            assert {Path(line["path"]).name for line in kept} == numbers
            daemon.kill9()
    for number in numbers:
        shutil.rmtree(daemon.root / "snapshots" / number)
    before = len(daemon.log_lines())
    daemon.start()
    assert [line["msg"] for line in daemon.log_lines()[before:] if "newer" in line.get("problem", "")] == []


def test_a_backup_one_snapshot_old(daemon: Daemon, database: Path) -> None:
    """A crash leaves such a directory too, but a backup's mark tells them apart."""
    daemon.start()
    with daemon.client() as client:
        upper = upper_of(client.prepare("newer", "local", {}))
    daemon.kill9()
    Path(f"{database}-wal").unlink()
    (daemon.root / BACKUP).rename(database)
    daemon.start()
    assert upper.is_dir()
    with daemon.client() as client:
        client.cleanup()
        assert int(upper_of(client.prepare("next", "", {})).parent.name) > int(upper.parent.name)
    assert upper.is_dir()


def test_what_a_crash_leaves_is_no_sign_of_a_restore(daemon: Daemon, database: Path) -> None:
    """A directory with the next number is an orphan and goes."""
    last = max(int(path.name) for path in (daemon.root / "snapshots").iterdir())
    (daemon.root / "snapshots" / str(last + 1) / "fs").mkdir(parents=True)
    daemon.start()
    assert not (daemon.root / "snapshots" / str(last + 1)).exists()


def number_of(daemon: Daemon, name: str) -> Path:
    connection = sqlite3.connect(daemon.root / DATABASE)
    (number,) = connection.execute("SELECT id FROM snapshots WHERE name = ?", (name,)).fetchone()
    connection.close()
    return daemon.root / "snapshots" / str(number)


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def swap_for_link(path: Path, target: str) -> None:
    path.rename(path.with_name("was"))
    path.symlink_to(target)


def replace_with_file(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


def remove_below(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path)


EDITS: dict[str, tuple[str, Callable[[Daemon], object]]] = {
    "is missing: .*'active'": ("a directory is gone", lambda d: shutil.rmtree(number_of(d, "active"))),
    "/fs is missing: .*'active'": ("an upper is gone", lambda d: (number_of(d, "active") / "fs").rmdir()),
    "/work is missing: .*'active'": ("a work directory is gone", lambda d: (number_of(d, "active") / "work").rmdir()),
    "/fs is no directory but a link to /etc: .*'active'": (
        "an upper is a link", lambda d: swap_for_link(number_of(d, "active") / "fs", "/etc")),
    "/fs is missing: .*'local'": ("a file is in its place", lambda d: replace_with_file(number_of(d, "local"))),
    "/fs is a link to /etc in place of a link to layer .*'remote/": (
        "a link leads elsewhere", lambda d: relink(number_of(d, REMOTE) / "fs", "/etc")),
    "/fs is a link to nowhere in place": ("a link dangles", lambda d: relink(number_of(d, REMOTE) / "fs", "nowhere")),
    "/h is nothing in place of a link to shim": ("a link is gone", lambda d: (number_of(d, REMOTE) / "h").unlink()),
    "/w is a link to /etc in place of a link to shim": (
        "a shim's link leads elsewhere", lambda d: relink(number_of(d, REMOTE) / "w", "/etc")),
    "/h leads to shim .*, which is missing": ("shims are gone", lambda d: remove_below(d.root / "shims")),
    "/1.bak is none of our directories": ("a copy", lambda d: (d.root / "snapshots" / "1.bak").mkdir()),
    "/4711 .* has no record of it": ("a number never given", lambda d: (d.root / "snapshots" / "4711").mkdir()),
    "/007 is none of our directories": ("another spelling", lambda d: (d.root / "snapshots" / "007").mkdir()),
    "/9* is none of our directories": ("a number too long", lambda d: (d.root / "snapshots" / ("9" * 40)).mkdir()),
}  # fmt: skip
"""What the warning says of path and problem, behind what was done and how."""


@pytest.mark.parametrize("said", EDITS, ids=[what for what, _ in EDITS.values()])
def test_a_directory_that_was_edited(daemon: Daemon, database: Path, said: str) -> None:
    """Is one warning with what to do, and stays as it is; everything else is served."""
    _, change = EDITS[said]
    change(daemon)
    before = [path for path, _ in tree(daemon.root / "snapshots")]
    daemon.start()
    found = [line for line in daemon.log_lines() if line["msg"] == "state damaged"]
    assert any(re.search(said, f"{line['path']} {line['problem']}") and line["remedy"] for line in found), found
    assert len(found) <= 2  # both shims' links are seen
    assert [path for path, _ in tree(daemon.root / "snapshots") if not path.endswith("/kept")] == before
    with daemon.client() as client:
        client.cleanup()
        client.prepare("next", "", {})
        client.commit("committed", "next", {})
        assert len(names(client)) == 64


def test_a_whole_state_is_no_warning(daemon: Daemon, database: Path) -> None:
    """Also where the repository is away: that is no damage."""
    shutil.rmtree(daemon.root.parent / "repository")
    daemon.start()
    assert [line for line in daemon.log_lines() if line["level"] == "warning"] == []


def test_much_damage_is_some_warnings(daemon: Daemon, database: Path) -> None:
    """And one that says how many more there would be."""
    remove_below(daemon.root / "snapshots")
    daemon.start()
    lines = [line for line in daemon.log_lines() if line["level"] == "warning"]
    assert len(lines) == MOST_WARNINGS + 1
    assert lines[-1]["paths"] == 63 - MOST_WARNINGS


def test_a_snapshot_on_one_that_lost_its_directory(daemon: Daemon, database: Path) -> None:
    """Is refused with what to do, not made to fail when it is mounted; a removal works."""
    shutil.rmtree(number_of(daemon, "local"))
    daemon.start()
    with daemon.client() as client:
        with pytest.raises(DataLoss, match=r"'local': has lost .*/fs; remove the images that use it"):
            client.prepare("next", "local", {})
        client.remove("active")
        client.remove("local")

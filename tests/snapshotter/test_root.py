"""Start-up: what is in the way is refused with what to do about it, and nothing is deleted."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.errors import FailedPrecondition, PermissionDenied
from snapshotter.config import Config
from snapshotter.root import DATABASE, locked_root
from snapshotter.server import opened
from snapshotter.socket import bound_socket
from tests import mounting
from tests.snapshotter.daemon import Daemon, refusal


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def config(root: Path, tmp_path: Path) -> Config:
    return Config(root=str(root), absolute_mountpoint=str(tmp_path / "no-repository"))


@pytest.fixture
def used(config: Config) -> Config:
    """A state directory with one snapshot."""
    with opened(config) as verbs:
        verbs.prepare("key", "", {})
    return config


def test_directories_are_made_private(tmp_path: Path) -> None:
    """Those above, too; the umask does not matter."""
    previous = os.umask(0)
    try:
        with locked_root(tmp_path / "a" / "b") as root:
            made = [root.parent, root, *(root / name for name in ("snapshots", "shims", "layers"))]
            assert {mode(path) for path in made} == {0o700}
            assert mode(root / "lock") == 0o600
    finally:
        os.umask(previous)


def test_the_database_is_behind_a_private_directory(used: Config) -> None:
    """Nobody but the owner comes near it."""
    assert mode(Path(used.root)) == 0o700


def test_a_directory_that_is_there_is_used_as_it_is(root: Path, config: Config) -> None:
    """Its mode is its owner's choice."""
    root.mkdir()
    root.chmod(0o755)
    with opened(config):
        assert mode(root) == 0o755


@pytest.mark.parametrize(("bits", "warned"), [(0o777, True), (0o770, True), (0o1777, False), (0o755, False)])
def test_a_directory_that_others_may_write_to(
    root: Path, config: Config, caplog: pytest.LogCaptureFixture, bits: int, warned: bool
) -> None:
    """Is used with a warning that names it."""
    root.mkdir()
    root.chmod(bits)
    with opened(config):
        paths = [record.__dict__["fields"]["path"] for record in caplog.records if "may write" in record.message]
    assert paths == ([str(root)] if warned else [])


def test_the_state_of_something_else_is_refused(root: Path, config: Config) -> None:
    """The Go snapshotter's, for one: nothing is made in it and nothing removed."""
    (root / "snapshotter" / "snapshots" / "1").mkdir(parents=True)
    (root / "metadata.db").touch()
    before = tree(root)
    with pytest.raises(FailedPrecondition, match=r"something else \(metadata.db, snapshotter\)"), opened(config):
        pass
    assert tree(root) == before


def test_a_fresh_file_system_is_no_state(root: Path, config: Config) -> None:
    """`lost+found` is nobody's."""
    (root / "lost+found").mkdir(parents=True)
    with opened(config) as verbs:
        verbs.prepare("key", "", {})


@pytest.mark.parametrize("damage", ["lost", "empty", "tiny"])
def test_snapshots_without_their_database(used: Config, damage: str) -> None:
    """To start would be to sweep them away as orphans."""
    database = Path(used.root, DATABASE)
    database.unlink()
    if damage != "lost":
        database.write_bytes(b"" if damage == "empty" else b"x")
    before = tree(Path(used.root))
    with pytest.raises(Exception, match="restore a backup"), opened(used):
        pass
    assert tree(Path(used.root)) == before


def test_a_start_that_was_killed_at_once(root: Path, config: Config) -> None:
    """An empty database beside empty directories is a first start's."""
    (root / "snapshots").mkdir(parents=True)
    (root / DATABASE).touch()
    with opened(config) as verbs:
        verbs.prepare("key", "", {})


def test_a_file_in_place_of_the_root(root: Path, config: Config) -> None:
    """Is refused, also where one stands in place of a directory in it."""
    root.touch()
    with pytest.raises(FailedPrecondition, match="Not a directory"), opened(config):
        pass
    root.unlink()
    root.mkdir()
    (root / "snapshots").touch()
    with pytest.raises(FailedPrecondition), opened(config):
        pass


def test_a_second_instance_is_refused(used: Config) -> None:
    """With the process that has the root; a stale lock file is none."""
    with (
        opened(used),
        pytest.raises(FailedPrecondition, match=rf"in use by process {os.getpid()}; stop it"),
        opened(used),
    ):
        pass
    Path(used.root, "lock").write_text("4242\n")
    with opened(used) as verbs:
        assert verbs.stat("key").name == "key"


@pytest.mark.root
def test_a_root_that_cannot_be_written(root: Path, config: Config) -> None:
    """A read-only mount: PermissionDenied, with where and what to do."""
    root.mkdir()
    with (
        mounting.mounted("tmpfs", "tmpfs", root, ["ro"]),
        pytest.raises(PermissionDenied, match="Read-only file system"),
        opened(config),
    ):
        pass


def test_a_leftover_that_cannot_be_removed(used: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps no node from starting: the records are served, and the next start removes it."""
    (Path(used.root) / "snapshots" / "2").mkdir()

    def refuse(path: Path) -> None:
        raise OSError(16, "Device or resource busy", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("snapshotter.server.remove_tree", refuse)
        with opened(used) as verbs:
            assert verbs.stat("key").name == "key"
    with opened(used):
        assert sorted(os.listdir(Path(used.root) / "snapshots")) == ["1"]


def test_the_start_sweeps_what_no_record_needs(used: Config, caplog: pytest.LogCaptureFixture) -> None:
    """Orphans, staged directories and shims without a snapshot; one line says how many."""
    caplog.set_level(logging.INFO)
    root = Path(used.root)
    for name in ("snapshots/2/fs", "snapshots/new-a/fs", "snapshots/old-7", "shims/new-b", f"shims/{'a' * 64}"):
        (root / name).mkdir(parents=True)
    (root / "layers" / "new-c").touch()
    with opened(used) as verbs:
        assert [info.name for info in verbs.walk()] == ["key"]
        found = [sorted(os.listdir(root / name)) for name in ("snapshots", "shims", "layers")]
    assert found == [["1"], [], []]
    (record,) = [record for record in caplog.records if record.message.startswith("swept")]
    assert record.__dict__["fields"] == {"paths": 6}


@pytest.fixture
def address(short_path: Path) -> Path:
    return short_path / "run" / "s.sock"


@pytest.fixture
def listening(address: Path) -> Iterator[socket.socket]:
    """A server on the address."""
    address.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address))
        server.listen()
        yield server


def test_the_socket_of_a_live_server_is_refused(address: Path, listening: socket.socket) -> None:
    """And stays where it is."""
    with pytest.raises(FailedPrecondition, match="is in use by a running server"), bound_socket(address):
        pass
    assert address.is_socket()


def test_a_stale_socket_is_replaced(address: Path, listening: socket.socket) -> None:
    """That of a server that was killed."""
    listening.close()
    with bound_socket(address):
        assert not address.exists()


@pytest.mark.parametrize("what", ["file", "directory", "link"])
def test_something_else_in_place_of_the_socket(address: Path, what: str) -> None:
    """A mistyped address must not cost a file."""
    address.parent.mkdir()
    target = address.parent / "target"
    target.write_text("precious")
    if what == "file":
        address.write_text("precious")
    elif what == "directory":
        address.mkdir()
    else:
        address.symlink_to(target)
    before = tree(address.parent)
    with pytest.raises(FailedPrecondition, match="is not a socket"), bound_socket(address):
        pass
    assert tree(address.parent) == before


@pytest.mark.parametrize("path", ["/proc/none/s.sock", "{long}/s.sock", "/dev/null/s.sock"])
def test_an_address_that_cannot_be(short_path: Path, path: str) -> None:
    """No directory for it, or a name longer than the kernel's 108 bytes: refused with the address."""
    address = Path(path.format(long=short_path / ("l" * 100)))
    with pytest.raises((FailedPrecondition, PermissionDenied), match=r"socket '.*s\.sock'"), bound_socket(address):
        pass


@pytest.mark.slow
def test_the_daemon_refuses_in_one_line(root: Path, tmp_path: Path) -> None:
    """A second daemon on one root and one on the first one's socket; the first one is not disturbed."""
    with Daemon(root, absolute_mountpoint=tmp_path / "no-repository") as first, first.client() as client:
        client.prepare("key", "", {})
        assert f"is in use by process {first.pid}; stop it" in refusal(root)
        said = refusal(tmp_path / "other", address=first.address)
        assert f"socket '{first.address}': is in use by a running server" in said
        assert client.stat("key").name == "key"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a b", "a%20b", "a#b", "a?b=c", "ü"])
def test_an_address_with_strange_characters(tmp_path: Path, short_path: Path, name: str) -> None:
    """The socket is where the configuration says, whatever a URI would make of its name."""
    address = short_path / name / "s.sock"
    with Daemon(tmp_path / "root", address=address, absolute_mountpoint=tmp_path / "no-repository") as daemon:
        assert address.is_socket()
        assert mode(address) == 0o600
        with daemon.client() as client:
            client.cleanup()
        assert daemon.stop() == 0
        assert not address.exists()


def test_help_does_not_start_anything(tmp_path: Path) -> None:
    """The command line answers without a root or a configuration."""
    program = "from snapshotter.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "--root" in done.stdout

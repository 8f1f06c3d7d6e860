"""Who may connect: root, and the members of a group if the configuration names one."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.snapshotter.daemon import Daemon, refusal

pytestmark = [pytest.mark.root, pytest.mark.slow]

USER, GROUP, OTHER_GROUP = 65534, 4242, 4343

# Becomes another user once it has imported what it needs: that user need not be able to read this Python.
_CALL = """
import encodings.idna, os, sys
from snapshotter.client import Client
address, user, group, *groups = sys.argv[1:]
os.setgroups([int(number) for number in groups])
os.setresgid(*[int(group)] * 3)
os.setresuid(*[int(user)] * 3)
with Client(address, timeout=10) as client:
    try:
        print(client.prepare("key", "", {})[0].type)
    except Exception as error:
        print(type(error).__name__, error)
"""


def call(daemon: Daemon, user: int, group: int, groups: Sequence[int] = ()) -> str:
    """What a Prepare of another user brings."""
    command = [sys.executable, "-c", _CALL, str(daemon.address), *map(str, (user, group, *groups))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


@pytest.fixture
def place(short_path: Path) -> Iterator[Path]:
    """Where anyone may enter, and the daemon makes the socket's directory."""
    short_path.chmod(0o755)
    yield short_path / "run"
    shutil.rmtree(short_path / "run", ignore_errors=True)


def permissions(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return oct(stat.S_IMODE(status.st_mode)), status.st_uid, status.st_gid


def test_without_a_group_only_root_connects(tmp_path: Path, place: Path) -> None:
    """Not another user, whatever its groups; not even where it may enter the directory, as under systemd."""
    with Daemon(tmp_path / "root", address=place / "s.sock", absolute_mountpoint=tmp_path / "none") as daemon:
        assert permissions(daemon.address) == ("0o600", 0, 0)
        assert permissions(place) == ("0o700", 0, 0)
        for mode in (0o700, 0o711):
            place.chmod(mode)
            assert "Permission denied" in call(daemon, USER, USER)
            assert "Permission denied" in call(daemon, USER, GROUP, [0, GROUP])
        assert call(daemon, 0, 0) == "bind"


@pytest.mark.parametrize("supplementary", [False, True])
def test_the_group_connects_and_no_other(tmp_path: Path, place: Path, supplementary: bool) -> None:
    """By its number; its members enter the directory that was made for the socket, and need no other right."""
    with Daemon(
        tmp_path / "root", address=place / "s.sock", absolute_mountpoint=tmp_path / "none", socket_group=str(GROUP)
    ) as daemon:
        assert permissions(daemon.address) == ("0o660", 0, GROUP)
        assert permissions(place) == ("0o710", 0, GROUP)
        assert "Permission denied" in call(daemon, USER, OTHER_GROUP)
        place.chmod(0o711)
        assert "Permission denied" in call(daemon, USER, OTHER_GROUP)
        place.chmod(0o710)
        member = (USER, OTHER_GROUP, [GROUP]) if supplementary else (USER, GROUP)
        assert call(daemon, *member) == "bind"
        assert "AlreadyExists" in call(daemon, 0, 0)


def test_a_directory_that_is_there_is_left_alone(tmp_path: Path, place: Path) -> None:
    """It may hold other things; where the group cannot enter it a warning says so."""
    place.mkdir(0o700)
    with Daemon(
        tmp_path / "root", address=place / "s.sock", absolute_mountpoint=tmp_path / "none", socket_group=str(GROUP)
    ) as daemon:
        assert permissions(place) == ("0o700", 0, 0)
        assert "Permission denied" in call(daemon, USER, GROUP)
        (warning,) = [line for line in daemon.log_lines() if line["level"] == "warning"]
        assert (warning["msg"], warning["path"]) == ("the socket's group cannot enter its directory", str(place))
        place.chmod(0o711)
        assert call(daemon, USER, GROUP) == "bind"


def test_the_group_by_name(tmp_path: Path, place: Path) -> None:
    """As in the node's group database."""
    with Daemon(
        tmp_path / "root", address=place / "s.sock", absolute_mountpoint=tmp_path / "none", socket_group="daemon"
    ) as daemon:
        import grp

        assert daemon.address.stat().st_gid == grp.getgrnam("daemon").gr_gid


def test_an_unknown_group_is_refused(tmp_path: Path, place: Path) -> None:
    """Before anything listens: a typing error must neither open nor close the socket unnoticed."""
    said = refusal(tmp_path / "root", address=place / "s.sock", socket_group="no-such-group")
    assert "socket-group 'no-such-group': is not a group of this node" in said
    assert not os.path.lexists(place / "s.sock")

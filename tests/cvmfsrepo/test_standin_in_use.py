"""The stand-in under an overlay, and how it ends."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import mounting
from tests.mounting import mounts_at, overlay, standin

pytestmark = [pytest.mark.root, pytest.mark.fuse]

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep, revision 2


@pytest.fixture(scope="module", autouse=True)
def _fuse_is_here() -> None:
    mounting.needs_fuse()


def layers(root: Path, count: int = 2) -> None:
    for number in range(count):
        (root / f"{number}/d").mkdir(parents=True)
        (root / f"{number}/d/from-{number}").write_text(str(number))


def test_an_overlay_of_nothing_but_remote_layers_answers_no_name(tmp_path: Path) -> None:
    """The trap: the name length of 0 makes such an overlay list names and then refuse each as too long."""
    layers(tmp_path / "source")
    with standin(tmp_path / "source", tmp_path / "mount") as running:
        remote = [running.mountpoint / "1", running.mountpoint / "0"]
        with overlay(remote, tmp_path / "view") as view:
            assert os.listdir(view) == ["d"]
            for name in ("d", "d/from-0", "absent"):
                with pytest.raises(OSError) as caught:
                    os.stat(view / name)
                assert caught.value.errno == errno.ENAMETOOLONG


def test_one_local_lower_cures_the_overlay(tmp_path: Path) -> None:
    """With one local directory, wherever it stands among the lowers, every name is found."""
    layers(tmp_path / "source")
    local = tmp_path / "local"
    local.mkdir()
    with standin(tmp_path / "source", tmp_path / "mount") as running:
        remote = [running.mountpoint / "1", running.mountpoint / "0"]
        for lowers in ([local, *remote], [remote[0], local, remote[1]], [*remote, local]):
            with overlay(lowers, tmp_path / "view") as view:
                assert sorted(os.listdir(view / "d")) == ["from-0", "from-1"]
                assert (view / "d/from-0").read_text() == "0"
                assert not (view / "absent").exists()


def test_whiteouts_and_opaque_marks_work_through_an_overlay(tmp_path: Path) -> None:
    """Devices 0:0 hide names, also from listings, and trusted.overlay.opaque hides a lower directory's content."""
    source, local = tmp_path / "source", tmp_path / "local"
    layers(source)
    local.mkdir()
    (source / "0/gone").touch()
    (source / "0/dir").mkdir()
    (source / "0/dir/hidden").touch()
    os.mknod(source / "1/gone", stat.S_IFCHR, os.makedev(0, 0))
    (source / "1/dir").mkdir()
    os.setxattr(source / "1/dir", "trusted.overlay.opaque", b"y")
    with (
        standin(source, tmp_path / "mount") as running,
        overlay([local, running.mountpoint / "1", running.mountpoint / "0"], tmp_path / "view") as view,
    ):
        assert sorted(os.listdir(view)) == ["d", "dir"]
        assert not (view / "gone").exists()
        assert os.listdir(view / "dir") == []


def test_a_copy_up_carries_the_files_attributes_and_no_magic(tmp_path: Path) -> None:
    """What a container changes keeps its capability, owner and mode in the upper, and gets no user.fqrn."""
    source, upper, work = (tmp_path / name for name in ("source", "upper", "work"))
    for directory in (source, source / "dir", upper, work):
        directory.mkdir()
    for name in ("ping", "su"):
        (source / name).write_text(name)
    os.setxattr(source / "ping", "security.capability", CAPABILITY)
    os.setxattr(source / "ping", "user.own", b"mine")
    os.chown(source / "su", 1234, 4_000_000_000)
    (source / "su").chmod(0o4755)
    with (
        standin(source, tmp_path / "mount") as running,
        overlay([running.mountpoint], tmp_path / "view", upper, work, ["index=off"]) as view,
    ):
        os.utime(view / "ping")
        os.utime(view / "su")
        (view / "dir").chmod(0o711)
    assert os.getxattr(upper / "ping", "security.capability") == CAPABILITY
    assert (upper / "ping").read_text() == "ping"
    copied = (upper / "su").stat()
    assert (copied.st_uid, copied.st_gid, stat.S_IMODE(copied.st_mode)) == (1234, 4_000_000_000, 0o4755)
    listed = {name: os.listxattr(upper / name) for name in ("", "ping", "su", "dir")}
    magic = [(path, name) for path, names in listed.items() for name in names if name.startswith("user.")]
    assert magic == [("ping", "user.own")]


def test_a_stack_of_a_hundred_long_names_mounts(tmp_path: Path) -> None:
    """The tests' own overlay mounts what does not fit the option page, as containerd does, odd characters included."""
    base = tmp_path / ("lowers:of,a\\stack " + "x" * 60)
    layers(base, 100)
    lowers = [base / str(number) for number in range(100)]
    with overlay(lowers, tmp_path / "view") as view:
        assert len(os.listdir(view / "d")) == 100


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing_mounted(tmp_path: Path, number: signal.Signals) -> None:
    """Exit status 0, the mount gone, the directory usable again, even while a file is held open."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").touch()
    with standin(source, tmp_path / "mount") as running:
        held = os.open(running.mountpoint / "f", os.O_RDONLY)
        running.process.send_signal(number)
        assert running.process.wait(10) == 0
        assert mounts_at(running.mountpoint) == []
        (running.mountpoint / "usable").touch()
        with pytest.raises(OSError) as caught:
            os.close(held)
        assert caught.value.errno == errno.ENOTCONN


def test_the_end_under_a_live_overlay_is_a_dead_client(tmp_path: Path) -> None:
    """The overlay above stays and answers ENOTCONN, as when a client is killed; nothing hangs."""
    source, local = tmp_path / "source", tmp_path / "local"
    layers(source)
    local.mkdir()
    with (
        standin(source, tmp_path / "mount") as running,
        overlay([local, running.mountpoint / "0"], tmp_path / "view") as view,
    ):
        running.stop()
        assert mounts_at(running.mountpoint) == []
        with pytest.raises(OSError) as caught:
            os.listdir(view / "d")
        assert caught.value.errno == errno.ENOTCONN
    assert mounts_at(view) == []


def test_an_unmount_from_outside_ends_it(tmp_path: Path) -> None:
    """umount(8) is as good as a signal."""
    source = tmp_path / "source"
    source.mkdir()
    with standin(source, tmp_path / "mount") as running:
        subprocess.run(["umount", str(running.mountpoint)], check=True)
        assert running.process.wait(10) == 0


def test_it_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """The named parent is killed, and the mount is gone."""
    (tmp_path / "source").mkdir()
    (tmp_path / "mount").mkdir()
    with subprocess.Popen(["sleep", "300"]) as parent:
        command = [sys.executable, "-m", "cvmfsrepo.standin", str(tmp_path / "source"), str(tmp_path / "mount")]
        environment = {**os.environ, **mounting.fuse_environment()}
        with subprocess.Popen([*command, "--parent", str(parent.pid)], env=environment, cwd=mounting.PROJECT) as child:
            try:
                wait_until(lambda: bool(mounts_at(tmp_path / "mount")))
                parent.kill()
                assert child.wait(10) == 0
                assert mounts_at(tmp_path / "mount") == []
            finally:
                parent.kill()
                child.kill()
                mounting.detach(tmp_path / "mount")


def test_what_cannot_be_served_is_refused_with_a_reason(tmp_path: Path) -> None:
    """A source that is not there, or libfuse that cannot be loaded: one line that says so, and no mount."""
    with (
        pytest.raises(OSError, match=r"directory '.*absent': No such file or directory; create it"),
        standin(tmp_path / "absent", tmp_path / "mount"),
    ):
        pass
    command = [sys.executable, "-m", "cvmfsrepo.standin", str(tmp_path), str(tmp_path / "mount")]
    environment = {**os.environ, "FUSE_LIBRARY_PATH": "/absent/libfuse.so.2"}
    ended = subprocess.run(command, env=environment, cwd=mounting.PROJECT, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "libfuse2 installed or named by FUSE_LIBRARY_PATH" in ended.stderr

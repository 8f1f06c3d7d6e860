"""The stand-in's mount vanishes, dies, hangs whole, comes back; and its catalog changes."""

import errno
import functools
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import mounting, unmounting
from tests.cvmfsrepo.answers import PROMPT, number_of
from tests.mounting import Standin, mounts_at, overlay, standin

pytestmark = [pytest.mark.root, pytest.mark.fuse]

START = 10.0
"""Seconds in which a client starts, on a busy machine too."""
GONE = {errno.ENOTCONN, errno.ECONNABORTED}


@pytest.fixture(scope="module", autouse=True)
def _fuse_is_here() -> None:
    mounting.needs_fuse()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "source" / name).mkdir(parents=True)
        (tmp_path / "source" / name / "f").write_text(name)
    return tmp_path / "source"


@pytest.fixture
def served(pool: ThreadPoolExecutor, source: Path, tmp_path: Path) -> Iterator[Standin]:
    """With the real client's kernel cache."""
    with standin(source, tmp_path / "mount", revision=7, kcache=60, negative=60) as running:
        running.patience = 20
        yield running


def revision(running: Standin) -> int:
    return int(os.getxattr(running.mountpoint, "user.revision"))


def test_a_vanished_mount_leaves_an_empty_directory(served: Standin) -> None:
    """Names are ENOENT, an open file is read on; a new client serves, and the old one ends with its last holder."""
    old = served.process
    with (served.mountpoint / "a/f").open("rb", buffering=0) as held:
        served.vanish()
        assert os.listdir(served.mountpoint) == []
        assert number_of(lambda: os.stat(served.mountpoint / "a")) == errno.ENOENT
        served.reappear()
        assert served.counters().operations == {}
        assert (served.mountpoint / "b/f").read_text() == "b"
        assert held.read() == b"a"
        assert old.poll() is None
    old.wait(10)  # with a status that is libfuse's own: 0 or, on a busy machine, 1
    assert (served.mountpoint / "a/f").read_text() == "a"


def test_it_vanishes_under_stalled_calls(served: Standin, pool: ThreadPoolExecutor) -> None:
    """The calls hang on, the mountpoint answers at once, empty and then anew; the end of the block frees them."""
    served.fault("stall")
    call = pool.submit(os.listdir, served.mountpoint / "a")
    served.wait_until_held(1)
    began = time.monotonic()
    served.vanish()
    assert os.listdir(served.mountpoint) == []
    served.reappear()
    assert (served.mountpoint / "a/f").read_text() == "a"
    assert time.monotonic() - began < START
    assert not call.done()
    served.stop()
    assert number_of(call.result) in GONE
    assert mounts_at(served.mountpoint) == []


def test_a_dead_client_leaves_a_dead_mount(served: Standin) -> None:
    """ENOTCONN from everything, cached or held; no other can be mounted over it; after umount -l one can, and what was
    held stays dead."""
    mount = served.mountpoint
    held = os.open(mount / "a/f", os.O_RDONLY)
    served.kill()
    for call in (os.listdir, os.statvfs, os.listxattr):
        assert number_of(functools.partial(call, mount)) == errno.ENOTCONN
    assert number_of(lambda: (mount / "a/f").read_text()) == errno.ENOTCONN
    assert len(mounts_at(mount)) == 1
    second = subprocess.run(served.command, env=served.environment, stderr=subprocess.PIPE, text=True)
    assert second.returncode == 1
    assert second.stderr.endswith("Transport endpoint is not connected; a dead mount goes with umount -l\n")
    served.reappear()
    assert len(mounts_at(mount)) == 1
    assert (mount / "a/f").read_text() == "a"
    assert number_of(lambda: os.pread(held, 1, 0)) == errno.ENOTCONN
    assert number_of(lambda: os.close(held)) == errno.ENOTCONN


def test_the_kernel_remembers_for_a_dead_client(served: Standin) -> None:
    """With the real kernel cache a stat of a name known before still succeeds, and one that was missing is ENOENT, not
    ENOTCONN: neither says that the client lives. What it does not know is ENOTCONN."""
    mount = served.mountpoint
    os.stat(mount / "a")
    assert not (mount / "absent").exists()
    served.kill()
    assert (mount / "a").is_dir()
    assert number_of(lambda: os.stat(mount / "absent")) == errno.ENOENT
    assert number_of(lambda: os.stat(mount / "b")) == errno.ENOTCONN
    assert number_of(lambda: os.listdir(mount / "a")) == errno.ENOTCONN


def test_without_a_kernel_cache_a_dead_client_is_dead_at_once(source: Path, tmp_path: Path) -> None:
    """The stat of a name known before is ENOTCONN too."""
    with standin(source, tmp_path / "mount") as running:
        os.stat(running.mountpoint / "a")
        running.kill()
        for name in ("", "a", "absent"):
            assert number_of(functools.partial(os.stat, running.mountpoint / name)) == errno.ENOTCONN


def test_an_overlay_sees_the_death_and_not_the_new_client(served: Standin, tmp_path: Path) -> None:
    """Running containers do not recover by a new mount: their lower is the dead one, until they are started again."""
    local, view = tmp_path / "local", tmp_path / "view"
    local.mkdir()
    with overlay([local, served.mountpoint / "a"], view):
        assert (view / "f").read_text() == "a"
        served.kill()
        assert number_of(lambda: (view / "f").read_text()) == errno.ENOTCONN
        served.reappear()
        assert number_of(lambda: (view / "f").read_text()) == errno.ENOTCONN
    with overlay([local, served.mountpoint / "a"], view):
        assert (view / "f").read_text() == "a"


def test_a_frozen_client_can_be_cleaned_up(served: Standin, pool: ThreadPoolExecutor) -> None:
    """It answers nobody, nor its control socket, and SIGTERM does not end it: the fixture does, its callers come back
    with an error, nothing stays mounted; and the fixture says that it had to."""
    served.stop_seconds = 0.5
    served.freeze()
    call = pool.submit(os.listdir, served.mountpoint / "b")
    time.sleep(0.2)
    assert not call.done()
    with pytest.raises(subprocess.TimeoutExpired):
        served.stop()
    assert number_of(call.result) in GONE
    assert served.process.returncode == -9
    assert mounts_at(served.mountpoint) == []


def test_a_test_cannot_hang_in_its_own_stand_in(served: Standin) -> None:
    """A call of the test's only thread, where no signal reaches it, comes back when patience ends, and that is said."""
    served.patience = 0.5
    served.fault("stall")
    assert number_of(lambda: os.listdir(served.mountpoint)) in GONE
    with pytest.raises(TimeoutError, match=r"killed after 0\.5 s of stalling; clear it"):
        served.stop()


def test_a_thawed_client_answers(served: Standin, pool: ThreadPoolExecutor) -> None:
    """What hung while it was frozen gets its answer."""
    served.freeze()
    call = pool.submit(os.listdir, served.mountpoint / "b")
    time.sleep(0.2)
    served.thaw()
    assert call.result(PROMPT) == ["f"]


def test_an_aborted_connection_frees_its_callers(served: Standin, pool: ThreadPoolExecutor) -> None:
    """The last resort, for a client that not even SIGKILL ends: every call comes back, though the client hangs on."""
    served.freeze()
    calls = [pool.submit(os.stat, served.mountpoint / name) for name in ("a", "b")]
    time.sleep(0.2)
    unmounting.abort(served.connection)
    for call in calls:
        assert isinstance(call.exception(PROMPT), OSError)
        assert number_of(call.result) in GONE
    assert number_of(lambda: os.listdir(served.mountpoint)) == errno.ENOTCONN
    assert served.process.poll() is None
    unmounting.abort(served.connection)
    served.thaw()


def test_absence_is_remembered_until_the_next_revision(served: Standin) -> None:
    """A name that was missing stays so for the kernel though it is there now, until a new catalog is applied."""
    mount = served.mountpoint
    assert not (mount / "late").exists()
    (served.source / "late").touch()
    assert not (mount / "late").exists()
    assert served.counters().paths["/late"] == {"getattr": 1}
    served.publish()
    assert (mount / "late").exists()
    assert revision(served) == 8
    (line,) = mounts_at(mount)
    assert " ro,nosuid,nodev,relatime,user_id=0,group_id=0,default_permissions,allow_other " in line


def test_absence_is_remembered_for_a_time(source: Path, tmp_path: Path) -> None:
    """The real client's 60 s, scaled down."""
    with standin(source, tmp_path / "mount", kcache=60, negative=1) as running:
        began = time.monotonic()
        assert not (running.mountpoint / "late").exists()
        (source / "late").touch()
        while not (running.mountpoint / "late").exists():
            assert time.monotonic() - began < 1 + PROMPT
            time.sleep(0.05)
        assert time.monotonic() - began >= 1


def test_a_new_revision_is_seen_when_the_catalog_is_old(served: Standin) -> None:
    """Until `after` seconds, the catalog's time to live, all is as before."""
    served.publish(revision=20, hide=["/a"], after=0.7)
    began = time.monotonic()
    assert (revision(served), (served.mountpoint / "a/f").read_text()) == (7, "a")
    while revision(served) == 7:
        assert time.monotonic() - began < 0.7 + PROMPT
        time.sleep(0.02)
    assert time.monotonic() - began >= 0.5
    assert revision(served) == 20
    assert os.listdir(served.mountpoint) == ["b"]


def test_a_layer_leaves_and_comes_back(served: Standin) -> None:
    """Hidden: not listed, ENOENT itself and below, though the kernel knew it, the source untouched. Shown: there."""
    mount = served.mountpoint
    assert (mount / "a/f").read_text() == "a"
    served.publish(hide=["/a"])
    assert os.listdir(mount) == ["b"]
    assert number_of(lambda: os.stat(mount / "a")) == errno.ENOENT
    assert number_of(lambda: os.stat(mount / "a/f")) == errno.ENOENT
    assert (served.source / "a/f").read_text() == "a"
    served.publish(show=["/a"])
    assert (mount / "a/f").read_text() == "a"
    assert sorted(os.listdir(mount)) == ["a", "b"]


def test_what_is_in_use_outlives_its_layer(served: Standin, tmp_path: Path) -> None:
    """What is open is read on. Names in use, by it or by an overlay, keep their stat as long as the kernel remembers
    them: no proof of a layer. A listing and an open are ENOENT, through the overlay too, until the layer is back."""
    mount, local = served.mountpoint, tmp_path / "local"
    local.mkdir()
    with (mount / "a/f").open("rb", buffering=0) as held, overlay([local, mount / "a"], tmp_path / "view") as view:
        assert (view / "f").exists()
        served.publish(hide=["/a"])
        assert held.read() == b"a"
        assert (mount / "a").is_dir()
        assert number_of(lambda: os.listdir(mount / "a")) == errno.ENOENT
        assert number_of(lambda: (mount / "a/f").read_text()) == errno.ENOENT
        assert number_of(lambda: (view / "f").read_text()) == errno.ENOENT
        served.publish(show=["/a"])
        assert (view / "f").read_text() == "a"


def test_a_live_overlay_over_a_new_revision(served: Standin, tmp_path: Path) -> None:
    """As measured: new names are listed, but one that was looked up as missing stays so for the overlay."""
    local, view = tmp_path / "local", tmp_path / "view"
    local.mkdir()
    with overlay([local, served.mountpoint / "a"], view):
        assert not (view / "asked").exists()
        for name in ("asked", "new"):
            (served.source / "a" / name).touch()
        served.publish()
        assert sorted(os.listdir(view)) == ["asked", "f", "new"]
        assert (view / "new").exists()
        assert not (view / "asked").exists()

"""What a caller sees of a repository that misbehaves: the kernel's answer, how long it takes, and the recovery."""

import errno
import functools
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import mounting
from tests.cvmfsrepo.answers import PROMPT, number_of
from tests.mounting import Standin, standin

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture(scope="module", autouse=True)
def _fuse_is_here() -> None:
    mounting.needs_fuse()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("a/x", "a/y", "b/x"):
        (tmp_path / "source" / name).mkdir(parents=True)
        (tmp_path / "source" / name / "f").write_text(name)
    for number in range(64):
        (tmp_path / f"source/a/{number}").write_bytes(os.urandom(10_000))
    return tmp_path / "source"


@pytest.fixture
def served(pool: ThreadPoolExecutor, source: Path, tmp_path: Path) -> Iterator[Standin]:
    with standin(source, tmp_path / "mount") as running:
        running.patience = 20
        yield running


@pytest.fixture
def remembered(pool: ThreadPoolExecutor, source: Path, tmp_path: Path) -> Iterator[Standin]:
    """The same with the kernel cache of a real client."""
    with standin(source, tmp_path / "mount", kcache=60, negative=60) as running:
        running.patience = 20
        yield running


def answered(future: Future[Any]) -> bool:
    """Whether it is, a little later."""
    time.sleep(0.2)
    return future.done()


def test_a_stall_holds_until_it_is_cleared(served: Standin, pool: ThreadPoolExecutor) -> None:
    """No answer for what lies at the path or below, the right one afterwards; everything else goes on."""
    served.fault("stall", "/a/x")
    read = pool.submit((served.mountpoint / "a/x/f").read_text)
    served.wait_until_held(1)
    assert not answered(read)
    assert (served.mountpoint / "a/y/f").read_text() == "a/y"
    assert sorted(os.listdir(served.mountpoint)) == ["a", "b"]
    served.clear()
    assert read.result(PROMPT) == "a/x"
    assert served.held() == 0


def test_a_stall_of_some_seconds_ends_for_all_at_once(served: Standin, pool: ThreadPoolExecutor) -> None:
    """`seconds` is the length of the outage, not of each call."""
    began = time.monotonic()
    served.fault("stall", seconds=1)
    early = pool.submit(os.stat, served.mountpoint / "a")
    time.sleep(0.5)
    late = pool.submit(os.stat, served.mountpoint / "b")
    early.result(3), late.result(3)
    assert 1 <= time.monotonic() - began < 1 + PROMPT
    began = time.monotonic()
    os.listdir(served.mountpoint / "a")
    assert time.monotonic() - began < 1


def test_what_the_kernel_remembers_is_not_held(remembered: Standin, pool: ThreadPoolExecutor) -> None:
    """With the real kernel cache a stalled client still has answers: names looked up before, there or not."""
    mount = remembered.mountpoint
    os.stat(mount / "a/x/f")
    assert number_of(lambda: os.stat(mount / "absent")) == errno.ENOENT
    remembered.fault("stall")
    assert os.stat(mount / "a/x/f").st_size == 3
    assert number_of(lambda: os.stat(mount / "absent")) == errno.ENOENT
    unknown = pool.submit(os.stat, mount / "b")
    listing = pool.submit(os.listdir, mount / "a/x")
    remembered.wait_until_held(2)
    remembered.clear()
    assert listing.result(PROMPT) == ["f"]
    unknown.result(PROMPT)


@pytest.mark.parametrize("kind", ["EIO", "ENOTCONN", "ESTALE", "EACCES"])
@pytest.mark.parametrize("path", ["/", "/a"])
def test_an_error_comes_from_every_access(served: Standin, kind: str, path: str) -> None:
    """stat, listing, open, a name that does not exist, a file open already; beside it and after it all is well."""
    mount, number = served.mountpoint, getattr(errno, kind)
    held = os.open(mount / "a/0", os.O_RDONLY)
    served.fault(kind.lower(), path)
    for call in (os.stat, os.listdir, os.lstat):
        assert number_of(functools.partial(call, mount / "a")) == number
    assert number_of(lambda: (mount / "a/x/f").read_text()) == number
    assert number_of(lambda: os.stat(mount / "a/absent")) == number
    assert number_of(lambda: os.pread(held, 100, 0)) == number
    assert number_of(lambda: os.stat(mount / "b")) == (number if path == "/" else 0)
    served.clear(path)
    assert len(os.pread(held, 100, 0)) == 100
    assert (mount / "a/x/f").read_text() == "a/x"
    os.close(held)


def test_an_error_may_take_its_time(served: Standin, pool: ThreadPoolExecutor) -> None:
    """`seconds` of trying before EIO, as with a silent server; who tries when the server comes back gets the answer."""
    served.fault("eio", "/a", seconds=0.5)
    began = time.monotonic()
    assert number_of(lambda: os.stat(served.mountpoint / "a")) == errno.EIO
    assert 0.5 <= time.monotonic() - began < 0.5 + PROMPT
    served.clear()
    served.fault("eio", "/a", seconds=60)
    trying = pool.submit(os.listdir, served.mountpoint / "a/x")
    served.wait_until_held(1)
    served.clear()
    assert trying.result(PROMPT) == ["f"]


def test_magic_attributes_outlive_the_server(remembered: Standin) -> None:
    """With EIO everywhere else user.revision still answers from the client's memory; of a dead client nothing does."""
    mount = remembered.mountpoint
    os.stat(mount)
    remembered.fault("eio")
    assert os.getxattr(mount, "user.revision") == b"1"
    assert number_of(lambda: os.listdir(mount)) == errno.EIO
    remembered.clear()
    remembered.fault("enotconn")
    assert number_of(lambda: os.getxattr(mount, "user.revision")) == errno.ENOTCONN


@pytest.mark.parametrize("kcache", [0, 60])
def test_an_unloaded_catalog_has_a_good_stat(source: Path, tmp_path: Path, kcache: float) -> None:
    """The directory is there; its listing is EIO, and so is every name in it, even one that does not exist."""
    with standin(source, tmp_path / "mount", kcache=kcache, negative=kcache) as running:
        mount = running.mountpoint
        running.fault("catalog", "/a/x")
        assert (mount / "a/x").is_dir()
        assert number_of(lambda: os.listdir(mount / "a/x")) == errno.EIO
        assert number_of(lambda: os.stat(mount / "a/x/f")) == errno.EIO
        assert number_of(lambda: os.stat(mount / "a/x/absent")) == errno.EIO
        assert number_of(lambda: os.stat(mount / "a/absent")) == errno.ENOENT
        assert os.listdir(mount / "a/y") == ["f"]
        running.clear()
        assert os.listdir(mount / "a/x") == ["f"]
        assert number_of(lambda: os.stat(mount / "a/x/absent")) == errno.ENOENT


def test_giving_back_is_never_hit(served: Standin) -> None:
    """What was open is closed in the stand-in too while everything fails: its descriptors do not pile up."""
    descriptors = Path(f"/proc/{served.pid}/fd")
    before = len(os.listdir(descriptors))
    opened = [os.open(served.mountpoint / f"a/{number}", os.O_RDONLY) for number in range(30)]
    assert len(os.listdir(descriptors)) >= before + 30
    served.fault("enotconn")
    for descriptor in opened:
        os.close(descriptor)
    deadline = time.monotonic() + 10
    while len(os.listdir(descriptors)) > before + 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_star_is_any_name(served: Standin) -> None:
    """/*/x is every x one level down, and not y, nor x further down."""
    (served.source / "a/y/x").mkdir()
    served.fault("eio", "/*/x")
    for name in ("a/x", "b/x/f"):
        assert number_of(functools.partial(os.stat, served.mountpoint / name)) == errno.EIO
    for name in ("a", "a/y", "a/y/x"):
        os.stat(served.mountpoint / name)


def test_a_fault_can_be_narrowed_to_an_operation(served: Standin, pool: ThreadPoolExecutor) -> None:
    """A stall of opendir alone: every stat answers, the listing hangs."""
    served.fault("stall", operations=["opendir"])
    assert (served.mountpoint / "a/x/f").read_text() == "a/x"
    listing = pool.submit(os.listdir, served.mountpoint / "a/x")
    served.wait_until_held(1)
    assert not answered(listing)
    served.clear()
    assert listing.result(PROMPT) == ["f"]


def test_slow_costs_by_lookup(remembered: Standin) -> None:
    """Each name that the kernel does not remember costs its latency once; a listing costs none."""
    remembered.fault("slow", seconds=0.2)
    began = time.monotonic()
    os.stat(remembered.mountpoint / "a/x/f")
    cold = time.monotonic() - began
    os.stat(remembered.mountpoint / "a/x/f")
    os.listdir(remembered.mountpoint / "a/x")
    assert 0.6 <= cold < 0.6 + PROMPT
    assert time.monotonic() - began - cold < 0.2


def test_sixty_four_stalled_calls_leave_the_rest_usable(served: Standin, pool: ThreadPoolExecutor) -> None:
    """Lookups, listings and reads that hang, beside them, in the same directory too, the others; all are counted once
    and none of their threads stays."""
    mount = served.mountpoint
    for path in ("/a/1*", "/a/2*", "/a/3*"):
        served.fault("stall", path)
    lookups = [pool.submit(os.stat, mount / f"a/{number}") for number in range(10, 40)]
    lookups += [pool.submit(os.stat, mount / f"a/1-{number}") for number in range(34)]
    served.wait_until_held(64)
    began = time.monotonic()
    assert os.stat(mount / "a/4").st_size == 10_000
    assert len((mount / "a/50").read_bytes()) == 10_000
    assert len(os.listdir(mount / "a")) == 66
    assert time.monotonic() - began < PROMPT
    assert (served.held(), served.counters().paths["/a/10"]) == (64, {"getattr": 1})
    assert threads_of(served.pid) < 64 + 32
    served.clear()
    for lookup in lookups[:30]:
        assert lookup.result(PROMPT).st_size == 10_000
    assert [number_of(lookup.result) for lookup in lookups[30:]] == [errno.ENOENT] * 34
    deadline = time.monotonic() + 10
    while threads_of(served.pid) > 24:  # libfuse keeps ten idle ones
        assert time.monotonic() < deadline
        os.listdir(mount)


def threads_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


@pytest.mark.parametrize(("size", "under_way"), [(4_000, 64), (400_000, 12)])
def test_stalled_reads(served: Standin, pool: ThreadPoolExecutor, size: int, under_way: int) -> None:
    """Of larger files the kernel has 12 reads under way in a mount, the real client's too: more that stall stop every
    such read, as no stand-in can help. Small files, names and listings go on."""
    files = []
    for number in range(64):
        (served.source / f"a/data-{number}").write_bytes(bytes(size))
        files.append((served.mountpoint / f"a/data-{number}").open("rb", buffering=0))
    (served.source / "b/data").write_bytes(bytes(size))
    served.fault("stall", "/a", operations=["read"])
    reads = [pool.submit(file.read) for file in files]
    served.wait_until_held(under_way)
    other = pool.submit((served.mountpoint / "b/data").read_bytes)
    assert answered(other) == (under_way == 64)
    assert served.held() == under_way
    assert (served.mountpoint / "b/x/f").read_text() == "b/x"
    assert os.listdir(served.mountpoint / "a/x") == ["f"]
    served.clear()
    assert {len(read.result(PROMPT)) for read in reads} == {size}
    assert len(other.result(PROMPT)) == size
    for file in files:
        file.close()


def test_bounded_workers_are_used_up(pool: ThreadPoolExecutor, source: Path, tmp_path: Path) -> None:
    """With so few workers as a real client may have, that many stalled calls stall the whole mount."""
    with standin(source, tmp_path / "mount", workers=3) as running:
        running.fault("stall", "/a/1*")
        stalled = [pool.submit(os.stat, running.mountpoint / f"a/1{number}") for number in range(3)]
        running.wait_until_held(3)
        other = pool.submit(os.stat, running.mountpoint / "b")
        assert not answered(other)
        running.clear()
        for call in (*stalled, other):
            call.result(PROMPT)


def test_sigterm_ends_it_while_calls_hang(served: Standin, pool: ThreadPoolExecutor) -> None:
    """Within the usual time; the callers get an error."""
    served.fault("stall")
    calls = [pool.submit(os.stat, served.mountpoint / name) for name in ("a", "b")]
    served.wait_until_held(1)
    began = time.monotonic()
    served.stop()
    assert time.monotonic() - began < PROMPT
    assert {number_of(call.result) for call in calls} <= {errno.ENOTCONN, errno.ECONNABORTED, errno.EINTR}
    assert mounting.mounts_at(served.mountpoint) == []

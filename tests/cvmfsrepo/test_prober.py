"""The prober knows of an outage before a Prepare runs into it, and of its end soon after."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cvmfsrepo.breaker import State
from cvmfsrepo.guarded import mount_of
from cvmfsrepo.layout import Layout
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Layer, Repository
from tests import mounting
from tests.cvmfsrepo.held import LONG, NAME, SHORT, Held, find, held, hold, probing, reason, soon, state
from tests.privilege.watching import untouched


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Held]:
    with held(tmp_path) as repository:
        yield repository


def test_the_prober_opens_before_anybody_asks(repository: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """And closes as soon as its probe comes back: within one interval."""
    release, scandir = threading.Event(), os.scandir

    def hanging(path: object) -> object:
        assert release.wait(3 * LONG)
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr("cvmfsrepo.guarded.os.scandir", hanging)
    with probing(repository) as guarded:
        assert soon(lambda: state(guarded) is State.OPEN)
        time.sleep(5 * SHORT)
        assert sum(thread.name == "probe" for thread in threading.enumerate()) == 1
        release.set()
        assert soon(lambda: state(guarded) is State.HEALTHY, 1.0)


def test_the_prober_sees_errors_and_their_end(tmp_path: Path) -> None:
    """A repository that is not there is degraded, and healthy when it comes."""
    with probing(Repository(NAME, Layout(tmp_path / "away"))) as guarded:
        assert soon(lambda: state(guarded) is State.DEGRADED)
        assert guarded.health.detail.endswith(".layers: No such file or directory")
        (tmp_path / "away" / ".layers").mkdir(parents=True)
        assert soon(lambda: state(guarded) is State.HEALTHY)


def test_the_prober_follows_no_link(tmp_path: Path) -> None:
    """What a link in place of the layers leads to is not even opened, and the repository's health says why."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / ".layers").symlink_to(tmp_path / "outside")
    with (
        untouched(tmp_path / "outside"),
        probing(Repository(NAME, Layout(tmp_path / "repository"))) as guarded,
    ):
        assert soon(lambda: state(guarded) is State.DEGRADED)
        assert "'.layers' is a link" in guarded.health.detail


def test_stopped_probing_ends_its_thread(repository: Held) -> None:
    """Nothing is left that could touch the repository."""
    with probing(repository) as guarded:
        name = f"prober of {guarded.name}"
        assert any(thread.name == name for thread in threading.enumerate())
    assert soon(lambda: not any(thread.name == name for thread in threading.enumerate()))


@pytest.mark.slow
@pytest.mark.root
def test_another_mount_clears_what_hung_on_the_last(repository: Held) -> None:
    """What hung may hang for ever: it says nothing of the mount that takes its place, also where it is given up later
    than that."""
    mounting.needs_root()
    hold(repository, "a", "b")
    with probing(repository, deadline=0.6) as guarded:
        assert reason(find(guarded, "a")) is Reason.TIMEOUT
        late = threading.Thread(target=find, args=(guarded, "b"))
        late.start()
        with mounting.mounted("none", str(repository.layout.root), repository.layout.root, ["bind"]):
            assert soon(lambda: guarded.mounts == 1, 2.0)
            late.join()
            repository.holding.clear()
            assert isinstance(find(guarded, "a"), Layer)
            assert isinstance(find(guarded, "b"), Layer)
            assert state(guarded) is State.HEALTHY
    for thread in threading.enumerate():
        assert thread is not late


@pytest.mark.root
def test_another_mount_is_probed_while_a_probe_hangs_on_the_last(
    repository: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when that probe's deadline is over; nor does its late end say anything of the new mount."""
    mounting.needs_root()
    release, scandir, probes = threading.Event(), os.scandir, list[int]()

    def hanging(path: Any) -> Any:
        probes.append(1)
        if len(probes) == 1:
            assert release.wait(3 * LONG)
            raise OSError(107, "Transport endpoint is not connected")
        return scandir(path)

    monkeypatch.setattr("cvmfsrepo.guarded.os.scandir", hanging)
    with probing(repository, deadline=LONG) as guarded:
        assert soon(lambda: probes)
        with mounting.mounted("none", str(repository.layout.root), repository.layout.root, ["bind"]):
            assert soon(lambda: len(probes) > 1, LONG / 4)
            guarded.stop_probing()
            assert soon(lambda: _threads("prober of") == 0 and _threads("probe") == 1)
            release.set()
            assert soon(lambda: _threads("probe") == 0)
            assert state(guarded) is State.HEALTHY


def _threads(name: str) -> int:
    """Those with this name, or one that begins with it and a word more."""
    return sum(thread.name == name or thread.name.startswith(f"{name} ") for thread in threading.enumerate())


TABLE = r"""21 1 0:20 / / rw - ext4 /dev/sda rw
30 21 0:30 / /cvmfs rw - autofs auto rw
31 30 0:31 / /cvmfs/a.example.org rw - fuse cvmfs2 rw
32 30 0:32 / /cvmfs/a.example rw - fuse cvmfs2 rw
33 21 0:33 / /mnt/a\040b rw - fuse cvmfs2 rw
34 30 0:34 / /cvmfs/a.example.org rw - fuse cvmfs2 rw
"""


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/cvmfs/a.example.org", "34"),
        ("/cvmfs/a.example.org/.layers", "34"),
        ("/cvmfs/a.example", "32"),
        ("/cvmfs/b", "30"),
        ("/mnt/a b/c", "33"),
        ("/mnt", "21"),
    ],
)
def test_the_mount_of_a_path(tmp_path: Path, path: str, number: str) -> None:
    """The deepest that holds it, and of several on one directory the last; names are compared whole."""
    (tmp_path / "table").write_text(TABLE)
    assert mount_of(Path(path), tmp_path / "table") == number


def test_the_revision_is_read_once_an_interval(tmp_path: Path) -> None:
    """By the first caller, then by the prober: no Prepare pays for it."""
    read = list[float]()

    @dataclass(frozen=True)
    class Counted(Repository):
        def find_revision(self) -> int | None:
            read.append(time.monotonic())
            return len(read)

    (tmp_path / ".layers").mkdir()
    with probing(Counted(NAME, Layout(tmp_path)), LONG, 0.3) as guarded:
        assert guarded.find_revision() == 1
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            guarded.find_revision()
            time.sleep(0.001)
        assert 2 <= len(read) <= 5
        assert guarded.find_revision() == len(read)

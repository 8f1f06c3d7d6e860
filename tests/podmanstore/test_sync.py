"""A store that follows its repository."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from podmanstore import sync as module
from podmanstore.build import Request
from podmanstore.gather import Terms
from podmanstore.sync import LONGEST_WAIT, sync, wait_after
from podmanstore.values import Mount
from tests.images.tarlayer import File
from tests.podmanstore.repositories import AMD64, DUCC, Shelf
from tests.standins import standin

pytestmark = [pytest.mark.root]


class _Ended(Exception):
    """Ends a sync from within."""


class Hurry(threading.Event):
    """Ends the loop when the test is over."""

    over = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self.over:
            super().wait(timeout)
        if self.over:
            raise _Ended
        return True


@contextmanager
def running(request: Request, interval: float = 0.05) -> Iterator[Hurry]:
    """A sync in a thread of its own."""
    hurry = Hurry()

    def run() -> None:
        with pytest.raises(_Ended):
            sync(request, interval, hurry)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield hurry
    finally:
        hurry.over = True
        hurry.set()
        thread.join(30)
        assert not thread.is_alive()


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


def images_in(store: Path) -> int:
    path = store / "overlay-images/images.json"
    return len(json.loads(path.read_bytes())) if path.exists() else -1


@pytest.mark.fuse
def test_it_follows_the_revision(tmp_path: Path) -> None:
    """A new image is there soon after its revision; one more look without a new revision changes nothing."""
    shelf = Shelf(tmp_path)
    shelf.publish("one:1", [File("a")])
    with standin(shelf.root, tmp_path / "mnt", revision=7) as served:
        request = Request((shelf.place(served.mountpoint),), tmp_path / "store", Terms(Mount.BOTH, AMD64))
        with running(request):
            until(lambda: images_in(request.store) == 1)
            shelf.publish("two:1", [File("b")])
            time.sleep(0.3)
            assert images_in(request.store) == 1
            served.publish()
            until(lambda: images_in(request.store) == 2)


@pytest.mark.fuse
def test_an_outage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, whatever it lasts; when the repository is back the store goes on."""
    shelf = Shelf(tmp_path)
    shelf.publish("one:1", [File("a")])
    with standin(shelf.root, tmp_path / "mnt", revision=7) as served:
        request = Request((shelf.place(served.mountpoint, seconds=0.5),), tmp_path / "store", Terms(Mount.BOTH, AMD64))
        served.fault("stall")
        with running(request, 0.01):
            until(lambda: len(caplog.records) == 1)
            time.sleep(1.5)
            assert [record.levelno for record in caplog.records] == [logging.WARNING]
            assert "does not answer" in caplog.text
            served.clear()
            until(lambda: images_in(request.store) == 1)


def test_what_is_left_out_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With its reason; a change of the store is said too."""
    shelf = Shelf(tmp_path)
    shelf.publish("one:1", [File("a")])
    shelf.publish("two:1", [File("b")], form=DUCC)
    caplog.set_level(logging.INFO)
    request = Request((shelf.place(),), tmp_path / "store", Terms(Mount.BOTH, AMD64))
    with running(request, 0.02):
        until(lambda: len(caplog.records) == 2)
        time.sleep(0.3)
    assert len(caplog.records) == 2
    assert "1 images added" in caplog.text
    assert "left out: registry.example/two:1: " in caplog.text


def test_a_build_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An error of the disk is logged as one, and the next look comes; `hurry` looks at once."""
    looks = list[float]()

    def failing(request: Request) -> None:
        looks.append(time.monotonic())
        raise OSError(28, "No space left on device", "/store")

    monkeypatch.setattr(module, "build", failing)
    shelf = Shelf(tmp_path)
    with running(Request((shelf.place(),), tmp_path / "store", Terms(Mount.BOTH, AMD64)), 3600.0) as hurry:
        until(lambda: len(looks) == 1)
        hurry.set()
        until(lambda: len(looks) == 2)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_waits_are_bounded() -> None:
    """Twice as long after each failure, and never more than ten minutes or the interval."""
    assert [wait_after(failures, 10) for failures in (0, 1, 2, 3)] == [10, 20, 40, 80]
    assert wait_after(10_000, 10) == LONGEST_WAIT
    assert wait_after(5, 3600) == 3600

"""A collection or withdrawal that is killed at any of its steps: the next one ends it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import NotFound
from tests.images.ocilayout import Image, read_image
from tests.publisher.collecting.shelves import DAY, Shelf, rules

pytestmark = [pytest.mark.root, pytest.mark.slow]

_STEPS = ("rename", "fsync", "rmdir")
"""Files that are unlinked are in the staging area, which the next run empties."""


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the n-th change of the disk from now on, and every later one, kill; -1 for none."""
    left = [-1]

    def stepping(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **keywords: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return call(*arguments, **keywords)

        return step

    for name in _STEPS:
        monkeypatch.setattr(os, name, stepping(getattr(os, name)))

    def at(number: int) -> None:
        left[0] = number

    return at


def made(directory: Path) -> tuple[Shelf, Image, Image]:
    """A copy of one that is made once: publishing is what takes its time."""
    first = directory.parent / "first"
    if not first.exists():
        _made(first)
    subprocess.run(["cp", "-a", str(first), str(directory)], check=True)
    images = [
        read_image(directory / "layouts" / f"{n}", f"registry.example/{t}:1") for n, t in enumerate(("kept", "gone"))
    ]
    return Shelf(directory), images[0], images[1]


def _made(directory: Path) -> None:
    shelf = Shelf(directory)
    shelf.publish("kept:1", "a", flat=True)
    shelf.publish("gone:1", "a", "b", "c", flat=True)


def whole(shelf: Shelf, kept: Image) -> None:
    """What is published is complete at every moment."""
    assert shelf.has(kept) == [True]
    assert shelf.manifest(kept).is_file()
    assert (shelf.layout.root / kept.ref / "d/a").is_file()
    assert shelf.layout.blob(Digest.parse(kept.manifest)).is_file()


def gone_entirely(shelf: Shelf, gone: Image) -> None:
    assert shelf.has(gone) == [True, False, False]
    assert not shelf.manifest(gone).parent.exists()
    assert not (shelf.layout.root / gone.ref).is_symlink()
    assert not shelf.layout.flat(Digest.parse(gone.config)).exists()
    assert not shelf.layout.blob(Digest.parse(gone.manifest)).exists()


def until_done(kill_at: Callable[[int], None], directory: Path, work: Callable[[Path], None]) -> int:
    """Kills the work one step later each time, in a new directory each; the number of kills."""
    for number in range(2000):
        try:
            work(directory / str(number))
        except Killed:
            pytest.fail("the work itself is to catch its death")
        if not (directory / str(number) / "killed").exists():
            return number
        shutil.rmtree(directory / str(number))
    raise AssertionError("it never ends")


def test_a_sweep_is_ended_by_the_next(tmp_path: Path, kill_at: Callable[[int], None]) -> None:
    """Nothing that is published is ever hurt, and no grace period begins anew."""

    def work(directory: Path) -> None:
        shelf, kept, gone = made(directory)
        shelf.remove(gone)
        shelf.now += 7 * DAY
        kill_at(int(directory.name))
        try:
            shelf.collect(at_once=3)
        except Killed:
            os.mknod(directory / "killed")
        kill_at(-1)
        whole(shelf, kept)
        shelf.collect()
        whole(shelf, kept)
        gone_entirely(shelf, gone)

    assert until_done(kill_at, tmp_path, work) > 20


def test_a_withdrawal_is_ended_by_the_next(tmp_path: Path, kill_at: Callable[[int], None]) -> None:
    """The same command again withdraws what is left of the name."""

    def work(directory: Path) -> None:
        shelf, kept, gone = made(directory)
        kill_at(int(directory.name))
        try:
            shelf.remove(gone)
        except Killed:
            os.mknod(directory / "killed")
        kill_at(-1)
        try:
            shelf.remove(gone)
        except NotFound:  # it was withdrawn, and then killed
            pass
        whole(shelf, kept)
        shelf.now += 8 * DAY
        shelf.collect()
        shelf.now += 8 * DAY
        shelf.collect()
        gone_entirely(shelf, gone)

    assert until_done(kill_at, tmp_path, work) > 5


def test_an_expiry_is_ended_by_the_next(tmp_path: Path, kill_at: Callable[[int], None]) -> None:
    """With the public link alone left, the rule still applies."""

    def work(directory: Path) -> None:
        shelf, kept, gone = made(directory)
        over = rules("*/gone:*=7")
        shelf.now += 8000 * DAY
        kill_at(int(directory.name))
        try:
            shelf.collect(grace=0, rules=over)
        except Killed:
            os.mknod(directory / "killed")
        kill_at(-1)
        whole(shelf, kept)
        shelf.collect(grace=0, rules=over)
        gone_entirely(shelf, gone)

    assert until_done(kill_at, tmp_path, work) > 20

"""What every kind of target promises of a publication: run over a plain directory and over CVMFS's stand-in."""

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cvmfsrepo.errors import Unavailable
from cvmfsrepo.layout import Layout
from publisher.transactions.contract import Fill, Finish, Target, Transaction
from publisher.transactions.directory import DirectoryTarget
from tests.cvmfsserver.fixture import cvmfs_repository

pytestmark = pytest.mark.root


class Wrong(Exception):
    """What a body raises."""


Finishing = Callable[[Finish | None], Target]
"""Makes a target that has something computed in each publication."""


@pytest.fixture(params=["directory", pytest.param("cvmfs", marks=pytest.mark.slow)])
def finishing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Finishing]:
    if request.param == "directory":
        (tmp_path / "repository").mkdir()
        yield lambda finish: DirectoryTarget(Layout(tmp_path / "repository"), durable=False, finish=finish)
    else:
        with cvmfs_repository(tmp_path) as published:
            yield lambda finish: replace(published.target, finish=finish)


@pytest.fixture
def target(finishing: Finishing) -> Target:
    return finishing(None)


def seen(target: Target) -> set[str]:
    """Everything that a reader finds, but for the publisher's own area."""
    root = target.layout.root
    paths = {str(path.relative_to(root)) for path in root.rglob("*")}
    return {path for path in paths if not path.startswith(".cvmfs-publisher")}


def staged_tree(transaction: Transaction, deleting: bool = True) -> Path:
    """A directory with one file that has two names, a link, a deletion, and metadata that nobody has by default."""
    staged = transaction.stage()
    (staged / "d").mkdir(parents=True)
    (staged / "d/file").write_bytes(b"content")
    os.link(staged / "d/file", staged / "d/other")
    (staged / "d/link").symlink_to("file")
    os.mkfifo(staged / "d/fifo")
    if deleting:
        os.mknod(staged / "d/gone", stat.S_IFCHR, 0)
    os.chown(staged / "d/file", 12, 13)
    (staged / "d/file").chmod(0o4755)
    os.utime(staged / "d/file", (1_000_000_000, 1_000_000_000))
    (staged / "d").chmod(0o2750)
    os.utime(staged / "d", (1_100_000_000, 1_100_000_000))
    return staged


def test_nothing_is_seen_before_show(target: Target) -> None:
    """Neither content nor announcements; and what is not shown at all is thrown away."""
    root = target.layout.root
    with target.begin() as transaction:
        transaction.add(staged_tree(transaction), root / "content/x")
        transaction.announce_file(b"here", root / "announced")
        assert seen(target) == set()
    assert seen(target) == set()
    with target.begin() as transaction:
        assert not list(transaction.stage().parent.iterdir())


@pytest.mark.parametrize("deleting", [True, False])
def test_what_is_shown(target: Target, deleting: bool) -> None:
    """Names, types, owners, modes and times of a tree, deletions among them; small files; links."""
    root = target.layout.root
    with target.begin() as transaction:
        transaction.add(staged_tree(transaction, deleting), root / "content/x")
        transaction.add_file(b"small", root / "content/small")
        transaction.add_link("x", root / "content/link")
        transaction.announce_link("content/x", root / "public")
        transaction.show()
        assert transaction.changed
    names = ["fifo", "file", "link", "other", *(["gone"] if deleting else [])]
    assert sorted(os.listdir(root / "content/x/d")) == sorted(names)
    status = (root / "public/d/file").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), status.st_mtime) == (12, 13, 0o4755, 1e9)
    assert (root / "content/x/d/other").read_bytes() == b"content"
    directory = (root / "content/x/d").stat()
    assert (stat.S_IMODE(directory.st_mode), directory.st_mtime) == (0o2750, 1.1e9)
    if deleting:
        device = (root / "content/x/d/gone").lstat()
        assert (stat.S_ISCHR(device.st_mode), device.st_rdev) == (True, 0)
    assert stat.S_IMODE((root / "content").stat().st_mode) == 0o755


def test_what_is_there_already_changes_nothing(target: Target) -> None:
    """The same files and links again are no change; other bytes and another link are one."""
    root = target.layout.root
    for number, (text, link) in enumerate([("a", "x"), ("a", "x"), ("b", "y")]):
        with target.begin() as transaction:
            transaction.add_file(b"same", root / "file")
            transaction.announce_file(text.encode(), root / "announced")
            transaction.announce_link(link, root / "public")
            transaction.show()
            assert transaction.changed is (number != 1)
    assert ((root / "announced").read_text(), os.readlink(root / "public")) == ("b", "y")


def test_a_directory_is_replaced_and_removed(target: Target) -> None:
    """Nothing of the old one stays; removing what is not there is no change."""
    root = target.layout.root
    for name in ("old", "new"):
        with target.begin() as transaction:
            staged = transaction.stage()
            staged.mkdir()
            (staged / name).touch()
            transaction.add(staged, root / "content/x")
            transaction.show()
    assert os.listdir(root / "content/x") == ["new"]
    for changed in (True, False):
        with target.begin() as transaction:
            transaction.remove(root / "content/x")
            transaction.show()
            assert transaction.changed is changed
    assert seen(target) == {"content"}


def test_trees_from_a_base(target: Target) -> None:
    """Each is complete, whether it began as a copy or empty: `fill` is told which."""
    root = target.layout.root

    def fill(directory: Path, copied: bool) -> None:
        if not copied:
            (directory / "base").write_text("base")
        (directory / "more").write_text("more")

    def begin(directory: Path, copied: bool) -> None:
        (directory / "base").write_text("base")

    with target.begin() as transaction:
        transaction.add_tree(root / "trees/1", begin)
        transaction.show()
    with target.begin() as transaction:
        transaction.add_tree(root / "trees/2", fill, root / "trees/1")
        transaction.add_tree(root / "trees/3", fill, root / "trees/1")
        transaction.cut_catalog(root / "trees/2")
        transaction.show()
    for name in ("2", "3"):
        assert {path.name for path in (root / "trees" / name).iterdir()} - {".cvmfscatalog"} == {"base", "more"}
    assert os.listdir(root / "trees/1") == ["base"]


def show_failing(transaction: Transaction, fail: Fill) -> None:
    root = transaction.layout.root
    transaction.add_tree(root / "trees/2", fail, root / "trees/1")
    transaction.announce_file(b"x", root / "announced")
    transaction.show()


def test_errors_propagate(target: Target) -> None:
    """Those of the body, and those of a tree's `fill`; the repository is as it was, and can be published to."""

    def fail(directory: Path, copied: bool) -> None:
        raise Wrong

    root = target.layout.root
    with pytest.raises(Wrong), target.begin():
        raise Wrong
    with target.begin() as transaction:
        transaction.add_tree(root / "trees/1", lambda directory, _: None)
        transaction.show()
    before = seen(target)
    with target.begin() as transaction, pytest.raises(Wrong):
        show_failing(transaction, fail)
    assert seen(target) == before
    with target.begin() as transaction:
        transaction.announce_file(b"x", root / "announced")
        transaction.show()
    assert (root / "announced").is_file()


class Counted:
    """What is computed from a whole repository: how many names there are at its root."""

    def __init__(self, due: bool = False, problem: Exception | None = None) -> None:
        self.due, self.problem, self.made = due, problem, 0

    def is_due(self, layout: Layout) -> bool:
        return self.due

    def make(self, layout: Layout, is_changing: bool) -> bool:
        if self.problem:
            raise self.problem
        self.made += 1
        names = [name for name in os.listdir(layout.root) if not name.startswith(".") and name != "count"]
        (layout.root / "count").write_text(str(len(names)))
        return True


def announce(target: Target, name: str) -> bool:
    with target.begin() as transaction:
        transaction.announce_file(b"x", target.layout.root / name)
        transaction.show()
        return transaction.changed


def test_what_is_computed_is_made_of_all_that_is_shown(finishing: Finishing) -> None:
    """In the same publication, after each change; without one only where it is due."""
    target = finishing(finish := Counted())
    for name in ("a", "b", "b"):
        announce(target, name)
    assert ((target.layout.root / "count").read_text(), finish.made) == ("2", 2)
    finish.due = True
    assert announce(target, "b")
    assert finish.made == 3


def test_what_could_not_be_computed(finishing: Finishing) -> None:
    """Fails the publication, and is made by the next one of anything."""
    target = finishing(finish := Counted(problem=Wrong()))
    with pytest.raises(Wrong):
        announce(target, "a")
    finish.problem = None
    announce(target, "a")
    assert ((target.layout.root / "count").read_text(), finish.made) == ("1", 1)


def test_one_publisher_at_a_time(target: Target) -> None:
    """Another is refused at once, saying who publishes, or waits as long as it was told to."""
    entered = threading.Event()

    def wait() -> None:
        with target.begin(wait=60):
            entered.set()

    with target.begin():
        with pytest.raises(Unavailable, match=f"another publisher, process {os.getpid()}"), target.begin():
            pass
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.5)
        assert not entered.is_set()
    waiting.join(60)
    assert entered.is_set()

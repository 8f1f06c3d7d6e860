"""The nodes on which docs/install.md is typed: Debian 13, with the files that a reader has, in /root.

`python -m tests.packages.pagenode` types the page and writes the answers that are no longer so.
"""

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cli.operations import Chapter, Event, chapters, play, write_page
from tests.packages import built
from tests.packages.machine import Disk, disk
from tests.packages.node import CONTAINER, Node, World, installed, node, world
from tests.packages.trees import PYTHONS, Tree
from tests.standins import PROJECT

PAGE = PROJECT / "docs" / "install.md"
RELEASE = "13"
_FILES = "/files"
_NAMES = (("0.1.0", built.VERSION), ("0.2.0", built.NEXT))
"""Versions on the page, and those that are installed here."""


@dataclass(frozen=True)
class PageNode:
    """One node, and what is typed on it."""

    node: Node

    def type(self, command: str) -> tuple[int, str]:
        """Status and answer of one line, in the words of the page."""
        for name, here in _NAMES:
            command = command.replace(name, here)
        done = self.node.machine.type(f"cd /root; {command}")
        said = done.said.replace(self.node.world.reference, "registry.example.org/job:1")
        for name, here in _NAMES:
            said = said.replace(here, name)
        return done.status, said

    def happen(self, words: str) -> None:
        """One event of the page."""
        {"installed": self._install, "container": self._start, "wheel": self._bring_wheel, "drained": self._drain}[
            words
        ]()

    def _install(self) -> None:
        self.node.install()
        self.node.configure()

    def _start(self) -> None:
        self.node.pull()
        self.node.run(CONTAINER)

    def _drain(self) -> None:
        """The administrator takes the snapshotter out of containerd's file as well."""
        self.node.leave()

    def _bring_wheel(self) -> None:
        """The package index of this machine's pip is a directory."""
        index = f"[global]\nno-index = true\nfind-links =\n    {_FILES}/wheels\n    {_FILES}/plain\n"
        (self.node.machine.prefix / "etc/pip.conf").write_text(index)


@contextlib.contextmanager
def place(directory: Path) -> Iterator[World]:
    """The shared world, with the wheel beside the packages, and what an index has besides; pipx asks for a new pip."""
    plain = directory / "plain"
    _run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(plain),
        _copy(directory),
    )
    lock = str(PROJECT / "requirements.lock")
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(plain), "-c", lock, "fusepy", "pip")
    with world(directory) as made:
        more = {f"{_FILES}/plain": plain, f"{_FILES}/wheels": built.wheels() / PYTHONS[RELEASE]}
        yield World(made.reference, {**made.binds, **more, f"{_FILES}/config": PROJECT / "config"})


@contextlib.contextmanager
def page_node(made: World, prepared: Disk, chapter: Chapter) -> Iterator[PageNode]:
    """A node of one chapter: an empty one, or one on which everything is `prepared`."""
    base = prepared if Event("installed") in chapter.steps else Tree(RELEASE, "python")
    with disk(base) as written, node(made, written) as booted:
        booted.machine.say(f"ln -s /packages/*/*.deb {_FILES}/plain/cvmfs_*.whl {_FILES}/config /root/")
        yield PageNode(booted)


@contextlib.contextmanager
def nodes(directory: Path) -> Iterator[Callable[[Chapter], contextlib.AbstractContextManager[PageNode]]]:
    """What makes the node of a chapter."""
    with place(directory) as made, installed(made, Tree(RELEASE, "python")) as prepared:
        yield lambda chapter: page_node(made, prepared, chapter)


def _copy(directory: Path) -> str:
    """What the wheel is built from, for a build leaves directories behind."""
    source = directory / "source"
    source.mkdir()
    for name in ("cvmfsrepo", "snapshotter", "podmanstore", "publisher", "protos"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    return str(source)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def page_chapters() -> list[Chapter]:
    """Those in which something is typed."""
    return chapters(PAGE.read_text())


def main() -> None:
    """Types all chapters and writes the page."""
    answers = []
    with tempfile.TemporaryDirectory() as directory, nodes(Path(directory)) as node_of:
        for chapter in page_chapters():
            with node_of(chapter) as it:
                answers += play(chapter, it.happen, it.type)
    write_page(PAGE, answers)


if __name__ == "__main__":
    main()

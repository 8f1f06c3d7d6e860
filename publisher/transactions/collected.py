"""What a publication is to change, in order, while nothing is changed: the half of a transaction that is the same in
every kind of repository."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

from cvmfsrepo.layout import Layout
from publisher.transactions.contract import Fill
from publisher.unpacking.removal import remove_tree


class Collected:
    """The staging area and what was made in it, each with the path at which it is to be shown."""

    def __init__(self, layout: Layout, staging: Path) -> None:
        self.layout, self._staging = layout, staging
        self._numbers = itertools.count(1)
        self._content: list[tuple[Path, Path]] = []
        self._announcements: list[tuple[Path, Path]] = []
        self._made: list[tuple[Callable[[int | None], bytes], Path]] = []
        self._removals: list[Path] = []
        self.changed = False

    @property
    def staging(self) -> Path:
        self._staging.mkdir(mode=0o700, exist_ok=True)
        return self._staging

    def stage(self) -> Path:
        return self.staging / str(next(self._numbers))

    def add(self, staged: Path, final: Path) -> None:
        self._content.append((staged, final))

    def add_file(self, content: bytes, final: Path) -> None:
        if content_of(final) != content:
            self._content.append((self._written(content), final))

    def add_link(self, text: str, final: Path) -> None:
        if not final.exists():
            self._content.append((self._linked(text), final))

    def add_tree(self, final: Path, fill: Fill, base: Path | None = None) -> None:
        staged = self.stage()
        make_directories(staged, self._staging)
        fill(staged, False)
        self._content.append((staged, final))

    def announce_file(self, content: bytes, final: Path) -> None:
        if content_of(final) != content:
            self._announcements.append((self._written(content), final))

    def announce_link(self, text: str, final: Path) -> None:
        if not (final.is_symlink() and os.readlink(final) == text):
            self._announcements.append((self._linked(text), final))

    def announce_made(self, make: Callable[[int | None], bytes], final: Path) -> None:
        self._made.append((make, final))

    def remove(self, final: Path) -> None:
        self._removals.append(final)

    def clear(self) -> None:
        """Removes what is in the staging area."""
        if self._staging.is_dir():
            remove_tree(self._staging)

    def _removed(self) -> list[Path]:
        """What is to go and is there."""
        return [final for final in self._removals if os.path.lexists(final)]

    def _written(self, content: bytes) -> Path:
        staged = self.stage()
        write_file(staged, content)
        return staged

    def _linked(self, text: str) -> Path:
        staged = self.stage()
        staged.symlink_to(text)
        return staged


def make_directories(directory: Path, root: Path) -> None:
    """Makes the directories from `root` to `directory` that are missing, readable by all whatever the umask."""
    for part in (directory, *directory.parents):
        if part == root or part.is_dir():
            break
    for name in reversed([p for p in (directory, *directory.parents) if part in p.parents]):
        name.mkdir(mode=0o755)
        name.chmod(0o755)


def write_file(path: Path, content: bytes) -> None:
    """Writes a new file that all may read whatever the umask."""
    path.write_bytes(content)
    path.chmod(0o644)


def content_of(path: Path) -> bytes | None:
    """A small file's bytes; None where there is no such file."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None

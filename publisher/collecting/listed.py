"""A repository's directories, listed so that nothing is overlooked: what cannot be read ends the look."""

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from cvmfsrepo.contained import holder_of, listed_directory, opened_file
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument, Unavailable
from cvmfsrepo.layout import CATALOG_MARKER, Layout

_FILE_LIMIT = 64 << 20
_STOPPED = "mend or remove it; until then nothing is collected"


class What(Enum):
    """What a name in a directory is."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"
    OTHER = "other"


@dataclass(slots=True)
class Listing:
    """Reads one repository; `unknown` collects paths of no known shape, relative to its root."""

    layout: Layout
    unknown: list[str] = field(default_factory=list)

    def relative(self, path: Path) -> str:
        return path.relative_to(self.layout.root).as_posix()

    def names(self, directory: Path) -> list[tuple[str, What]]:
        """Sorted, without catalog markers; nothing where there is no such directory."""
        with self._telling(directory):
            try:
                if directory == self.layout.root:
                    return _sorted(directory)
                with listed_directory(self.layout.root, directory) as opened:
                    return _sorted(opened)
            except FileNotFoundError:
                return []

    def read(self, path: Path) -> bytes | None:
        """A file's bytes, None where there is none. DataLoss where it is larger than any we know."""
        with self._telling(path):
            try:
                with opened_file(self.layout.root, path) as file:
                    content = file.read(_FILE_LIMIT + 1)
            except FileNotFoundError:
                return None
        if len(content) > _FILE_LIMIT:
            raise DataLoss("file", str(path), f"is larger than {_FILE_LIMIT} bytes", _STOPPED)
        return content

    def modified(self, path: Path) -> float:
        """Seconds since 1970."""
        with self._telling(path):
            return path.lstat().st_mtime

    def target(self, path: Path) -> str | None:
        """Where a link leads, relative to the root; None for one with variables in it, which CVMFS's client expands.
        DataLoss where it leads out of the repository."""
        with self._telling(path), holder_of(self.layout.root, path) as (directory, name):
            text = os.readlink(name, dir_fd=directory)
        if text.startswith("/"):
            joined = posixpath.relpath(text, self.layout.root.absolute().as_posix())
        else:
            joined = posixpath.normpath(posixpath.join(posixpath.dirname(self.relative(path)), text))
        if joined == ".." or joined.startswith("../"):
            raise DataLoss("link", str(path), f"leads out of the repository, to {text!r}", _STOPPED)
        return None if "$(" in joined and joined.startswith(".multiarch/") else joined

    def digests(self, directory: Path, wanted: What) -> Iterator[Digest]:
        """The digests below `directory`, each at `<ab>/<hex>`."""
        for folder, what in self.names(directory):
            if what is not What.DIRECTORY or len(folder) != 2:
                self.pass_over(directory / folder)
                continue
            for name, kind in self.names(directory / folder):
                digest = _digest(name)
                if digest and kind is wanted and name.startswith(folder):
                    yield digest
                else:
                    self.pass_over(directory / folder / name)

    def pass_over(self, path: Path) -> None:
        self.unknown.append(os.fsencode(self.relative(path)).decode("utf-8", "backslashreplace"))

    @contextmanager
    def _telling(self, path: Path) -> Iterator[None]:
        """Errors of the disk in our words."""
        try:
            yield
        except FileNotFoundError as error:
            raise Unavailable("path", str(path), "went away while it was looked at", "run it again") from error
        except OSError as error:
            raise Unavailable("path", str(path), f"cannot be read: {error.strerror}", _STOPPED) from error


def digest_in(target: str, folder: str) -> Digest | None:
    """The digest at `<folder>/<ab>/<hex>`, or of what lies below it, in a path from the root."""
    first, *rest = target.split("/")
    if first != folder or len(rest) < 2 or not rest[1].startswith(rest[0]):
        return None
    return _digest(rest[1])


def _sorted(directory: Path | int) -> list[tuple[str, What]]:
    with os.scandir(directory) as names:
        return sorted(((name.name, _what(name)) for name in names if name.name != CATALOG_MARKER), key=lambda n: n[0])


def _what(name: os.DirEntry[str]) -> What:
    if name.is_symlink():
        return What.LINK
    if name.is_dir(follow_symlinks=False):
        return What.DIRECTORY
    return What.FILE if name.is_file(follow_symlinks=False) else What.OTHER


def _digest(name: str) -> Digest | None:
    try:
        return Digest(name)
    except InvalidArgument:
        return None

"""Names of an archive stay inside the directory that it is unpacked into.

Two gates, and every name passes both: `contained` judges the text, and `Inside` reaches the parent directory component
by component, each opened relative to the one above it and never through a symlink. So a link that an archive (or
anybody) placed earlier leads nowhere, not even in a race.
"""

import os
import posixpath
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from cvmfsrepo.errors import InvalidArgument

LONGEST_PATH = 3840
"""Bytes of a path: the kernel takes 4,096, and the directory that the layer stands in needs some of them."""

REMEDY = "the layer is refused; ask whoever built the image"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def contained(name: bytes, thing: str) -> bytes:
    """The name in its plain form: relative, without `.` and doubled slashes; the root is b"".

    Refuses what is absolute, climbs with `..`, holds a NUL, is empty or longer than LONGEST_PATH.
    """
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    problem = ""
    if not name:
        problem = "is empty"
    elif name.startswith(b"/"):
        problem = "is absolute"
    elif b".." in parts:
        problem = "climbs out of its directory with .."
    elif b"\0" in name:
        problem = "holds a NUL byte"
    elif len(name) > LONGEST_PATH:
        problem = f"is longer than {LONGEST_PATH} bytes"
    if problem:
        raise InvalidArgument(thing, os.fsdecode(name), problem, REMEDY)
    return b"/".join(parts)


class Inside:
    """A directory, and the way to every parent directory in it."""

    def __init__(self, root: Path) -> None:
        self.root = os.open(root, _DIRECTORY)
        self._cached = b""
        self._cached_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget()
        os.close(self.root)

    def parent(self, path: bytes, make: Callable[[int, bytes, bytes], None]) -> int:
        """A descriptor of the directory that holds a contained path, good until the next call.

        `make(above, name, directory)` makes a directory of the way that is not there. InvalidArgument where something
        else than a directory stands in the way.
        """
        directory = posixpath.dirname(path)
        if not directory:
            return self.root
        if directory != self._cached or self._cached_fd < 0:
            opened = self._walk(path, directory, make)
            self.forget()
            self._cached, self._cached_fd = directory, opened
        return self._cached_fd

    def forget(self) -> None:
        """To be called before a directory is removed: the descriptor would outlive it."""
        if self._cached_fd >= 0:
            os.close(self._cached_fd)
            self._cached_fd = -1

    def _walk(self, path: bytes, directory: bytes, make: Callable[[int, bytes, bytes], None]) -> int:
        """Opens each directory of the way, from the one opened last where that lies on it."""
        near = self._cached_fd >= 0 and directory.startswith(self._cached + b"/")
        current, reached = os.dup(self._cached_fd if near else self.root), self._cached if near else b""
        try:
            for name in directory[len(reached) :].strip(b"/").split(b"/"):
                reached = posixpath.join(reached, name)
                below = self._open(current, name, path, reached, make)
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            raise
        return current

    def _open(
        self, above: int, name: bytes, path: bytes, directory: bytes, make: Callable[[int, bytes, bytes], None]
    ) -> int:
        try:
            return os.open(name, _DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            make(above, name, directory)
            return os.open(name, _DIRECTORY, dir_fd=above)
        except NotADirectoryError:
            mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
            what = "the symlink" if stat.S_ISLNK(mode) else "something that is no directory:"
            problem = f"leads through {what} {os.fsdecode(directory)!r}"
            raise InvalidArgument("layer entry", os.fsdecode(path), problem, REMEDY) from None

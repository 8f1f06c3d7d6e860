"""The files that a container of an image reads when it starts: its command, interpreters, and shared libraries.

A guess that is worth its bytes: what a program opens by itself is known to nobody but who lists it.
"""

import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from cvmfsrepo.errors import DataLoss
from snapshotter.elf import Needs, parse_needs

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIBRARY_DIRECTORIES = (b"lib", b"usr/lib", b"lib64", b"usr/lib64", b"usr/local/lib")
_MOST_GUESSES = 4
"""Files of one name that are taken where none stands in a directory that the loader looks into."""


class View(Protocol):
    """The image, as `used_files` needs it. Paths are relative to its root."""

    def find_file(self, path: bytes) -> bytes | None:
        """The regular file that a path leads to, through links."""

    def read(self, path: bytes) -> bytes:
        """The beginning of a regular file, b"" where it cannot be had; all of it is fetched."""

    def find_named(self, name: bytes) -> Sequence[bytes]:
        """The regular files and links with this base name."""

    def list_names(self, directory: bytes) -> Sequence[bytes]:
        """The names in a directory."""


class Process(msgspec.Struct, frozen=True):
    """What an image's config says of the process: `Entrypoint`, `Cmd` and `Env` as they stand there."""

    entrypoint: tuple[str, ...] | None = msgspec.field(default=None, name="Entrypoint")
    cmd: tuple[str, ...] | None = msgspec.field(default=None, name="Cmd")
    env: tuple[str, ...] | None = msgspec.field(default=None, name="Env")

    @property
    def words(self) -> tuple[str, ...]:
        return (*(self.entrypoint or ()), *(self.cmd or ()))

    def variable(self, name: str, default: str = "") -> str:
        """A variable of the environment."""
        found = [text for text in self.env or () if text.startswith(f"{name}=")]
        return found[-1].partition("=")[2] if found else default


class _Config(msgspec.Struct):
    config: Process | None = None


_decode = msgspec.json.Decoder(_Config).decode


def parse_process(config: bytes) -> Process:
    """The process of an image's config; DataLoss where that does not parse."""
    try:
        return _decode(config).config or Process()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataLoss("image config", config[:80], f"does not parse: {error}") from None


def used_files(process: Process, listed: Iterable[bytes], view: View) -> Iterator[bytes]:
    """Each file once, after it was read. The words of a command line that name files count, too; `listed` are further
    paths."""
    search = [os.fsencode(part) for part in process.variable("PATH", _PATH).split(":") if part]
    libraries = [os.fsencode(part) for part in process.variable("LD_LIBRARY_PATH").split(":") if part]
    finder = _Finder(view, search, libraries)
    pending = [*finder.programs(process.words), *(path for path in map(view.find_file, listed) if path is not None)]
    seen = set[bytes]()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        content = view.read(path)
        yield path
        pending += finder.needed(path, content)


class _Finder:
    """Looks up what a name means inside of the image."""

    def __init__(self, view: View, search: Sequence[bytes], libraries: Sequence[bytes]) -> None:
        self._view, self._search, self._libraries = view, search, [*libraries, *_default_directories(view)]

    def programs(self, words: Sequence[str]) -> list[bytes]:
        """Files that words of a command line name; the first of them may be looked for in PATH."""
        found = [self._view.find_file(os.fsencode(word)) for word in words if "/" in word]
        if words and "/" not in words[0]:
            found.append(self._program(os.fsencode(words[0])))
        return [path for path in found if path is not None]

    def needed(self, path: bytes, content: bytes) -> list[bytes]:
        """The files that a file needs to run."""
        if content.startswith(b"#!"):
            words = content[2:].split(b"\n", 1)[0][:512].split()
            found = [self._view.find_file(words[0])] if words else []
            if len(words) > 1 and posixpath.basename(words[0]) == b"env":
                found += [self._program(word) for word in words[1:] if not word.startswith(b"-")][:1]
            return [one for one in found if one is not None]
        needs = parse_needs(content)
        return self._linked(path, needs) if needs else []

    def _program(self, name: bytes) -> bytes | None:
        found = (self._view.find_file(posixpath.join(directory, name)) for directory in self._search)
        return next((path for path in found if path is not None), None)

    def _linked(self, path: bytes, needs: Needs) -> list[bytes]:
        origin = b"/" + posixpath.dirname(path)
        own = [d.replace(b"$ORIGIN", origin).replace(b"${ORIGIN}", origin) for d in needs.directories]
        loader = self._view.find_file(needs.interpreter) if needs.interpreter else None
        found = [loader] if loader is not None else []
        for name in needs.libraries:
            found += self._library(name, [*own, *self._libraries])
        return found

    def _library(self, name: bytes, directories: Sequence[bytes]) -> list[bytes]:
        for directory in directories:
            if (path := self._view.find_file(posixpath.join(directory, name))) is not None:
                return [path]
        guesses = map(self._view.find_file, self._view.find_named(posixpath.basename(name))[:_MOST_GUESSES])
        return [path for path in guesses if path is not None]


def _default_directories(view: View) -> list[bytes]:
    """Where a loader looks, Debian's directories of one architecture among them."""
    found = list[bytes]()
    for directory in _LIBRARY_DIRECTORIES:
        below = [name for name in view.list_names(directory) if b"-linux-" in name]
        found += [directory, *(posixpath.join(directory, name) for name in below)]
    return found

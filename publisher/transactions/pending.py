"""What a transaction cannot store and an ingest must: one tar for each top directory, kept until it is published.

The tars are a journal. They are written before the transaction that publishes the directories around their entries,
so a run that is killed between the two publications leaves what the next one needs to complete the layers; without
it, it would take them for complete.
"""

import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Ingest = Callable[[Path, str], None]
"""Publishes a tar below a top directory of the repository."""


class Pending:
    """The tars in a directory of the publisher's state, for the repository mounted at `root`."""

    def __init__(self, directory: Path, root: Path) -> None:
        self._directory, self._root = directory, root

    def add(self, held_back: Iterable[tuple[bytes, bytes]]) -> bool:
        """Keeps entries, pairs of a staged path and where it belongs; whether there are any."""
        tops: dict[str, list[tuple[bytes, str]]] = {}
        for source, target in held_back:
            top, _, rest = os.path.relpath(os.fsdecode(target), self._root).partition("/")
            tops.setdefault(top, []).append((source, rest))
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for top, entries in tops.items():
            self._write(top, (_member(source, name) for source, name in sorted(entries)))
        return bool(tops)

    def complete(self, ingest: Ingest) -> bool:
        """Publishes what is missing of the kept entries, and forgets them; whether anything was."""
        changed = False
        for path in sorted(self._directory.glob("*.tar")):
            top = path.name.removesuffix(".tar")
            missing = [*self._missing(path, top)]
            if missing:
                self._write(top, missing)
                ingest(path, top)
                changed = True
            path.unlink()
        return changed

    def _missing(self, path: Path, top: str) -> Iterator[tarfile.TarInfo]:
        """Entries that are not there though the directory around them is: that was published, and they were not."""
        with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                there = self._root / top / member.name
                if there.parent.is_dir() and not os.path.lexists(there):
                    yield member

    def _write(self, top: str, members: Iterable[tarfile.TarInfo]) -> None:
        """In GNU's format, whose names are plain bytes: libarchive would turn the names of a pax header into those of
        its locale. None of the entries has content."""
        being_written = self._directory / f"{top}.new"
        with open(being_written, "wb") as file:
            with tarfile.open(
                fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
            ) as tar:
                for member in members:
                    tar.addfile(member)
            file.flush()
            os.fsync(file.fileno())
        being_written.rename(self._directory / f"{top}.tar")
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _member(source: bytes, name: str) -> tarfile.TarInfo:
    status, member = os.lstat(source), tarfile.TarInfo(name)
    member.mode, member.uid, member.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    member.mtime = int(status.st_mtime)
    if stat.S_ISLNK(status.st_mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.fsdecode(os.readlink(source))
    elif stat.S_ISCHR(status.st_mode):
        member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 0, 0
    return member

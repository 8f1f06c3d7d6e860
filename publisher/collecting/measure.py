"""What the removal of things gives back: bytes of files, those of hard links once."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path


class Ledger:
    """Measures one thing after the other. A file with several names counts when the last of them was seen, so one that
    keeps a name elsewhere gives nothing back."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], int] = {}

    def measure(self, paths: Iterable[Path]) -> int:
        """Bytes that go with these files and directories, if what was measured before goes too. What is not there
        counts nothing; OSError where it cannot be read."""
        return sum(self._freed(status) for path in paths for status in _files(path))

    def _freed(self, status: os.stat_result) -> int:
        if status.st_nlink == 1:
            return status.st_size
        key = (status.st_dev, status.st_ino)
        self._seen[key] = self._seen.get(key, 0) + 1
        return status.st_size if self._seen[key] == status.st_nlink else 0


def _files(path: Path) -> Iterator[os.stat_result]:
    """Of all regular files; no link is followed."""
    pending = [os.fsencode(path)]
    while pending:
        current = pending.pop()
        try:
            status = os.lstat(current)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield status
        elif stat.S_ISDIR(status.st_mode):
            pending += [os.path.join(current, name) for name in os.listdir(current)]

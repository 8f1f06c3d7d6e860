"""How much of a file system a publication may fill: a small blob can unpack to more than any disk holds."""

import os
import threading
from pathlib import Path

from cvmfsrepo.errors import ResourceExhausted

_STEP = 16 << 20
_ENTRIES = 1000
_FEWEST_INODES = 1000


class FreeSpace:
    """Refuses before the space that must stay free is touched: `reserve` bytes, or a twentieth of the file system but
    at most 1 GiB. Layers that are unpacked side by side share one."""

    def __init__(self, directory: Path, reserve: int | None = None) -> None:
        self._directory = directory
        status = os.statvfs(directory)
        size = status.f_blocks * status.f_frsize
        self.reserve = min(size // 20, 1 << 30) if reserve is None else reserve
        self._bytes = 0
        self._entries = 0
        self._counting = threading.Lock()

    def take(self, size: int) -> None:
        """Says that an entry or a piece of one with `size` bytes is about to be written."""
        with self._counting:
            self._bytes += size
            self._entries += 1
            if self._bytes >= _STEP or self._entries >= _ENTRIES:
                self._check(self._bytes)
                self._bytes = self._entries = 0

    def _check(self, wanted: int) -> None:
        status = os.statvfs(self._directory)
        free = status.f_bavail * status.f_frsize
        if free - wanted < self.reserve:
            raise ResourceExhausted(
                "repository", str(self._directory),
                f"has {free} bytes free, of which {self.reserve} are kept in reserve: the image does not fit",
                "free some space; if the image is small, it may be a decompression bomb",
            )  # fmt: skip
        if status.f_files and status.f_favail < _FEWEST_INODES:
            raise ResourceExhausted("repository", str(self._directory), "has no inodes left", "remove some files")

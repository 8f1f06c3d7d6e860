"""A disk for a measure."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unmounting import detach

_SIZE = 6 << 30
"""Bytes; a file with holes, so that only what is written counts."""


@contextmanager
def own_disk(directory: Path, name: str) -> Iterator[Path]:
    """An ext4 of its own, in a file: on one from which many files were removed a moment ago the kernel looks long for
    inodes that it may use again, and the other measures remove many."""
    image, disk = directory / f"{name}.disk", directory / name
    with image.open("wb") as file:
        file.truncate(_SIZE)
    disk.mkdir()
    for command in (
        ["mkfs.ext4", "-q", "-F", "-N", "400000", str(image)],
        ["mount", "-o", "loop", str(image), str(disk)],
    ):
        subprocess.run(command, check=True)
    try:
        yield disk
    finally:
        detach(disk)
        image.unlink()

"""Small files that are whole or not there, whatever happens to the machine meanwhile."""

import os
import tempfile
from pathlib import Path

UNFINISHED = ".new-"
"""What files begin with that a killed process left half written."""


def write_durably(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Puts the content in place of what is there, or where a link leads. When it returns, the file is on the disk, and
    so is its name."""
    path = path.resolve()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    settle(path.parent)


def settle(directory: Path) -> None:
    """Has the names in a directory on the disk: those that were made, and those that went."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

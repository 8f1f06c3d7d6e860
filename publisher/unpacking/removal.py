"""Removal of a whole directory without recursion and without following a link: an archive may nest deeper than
Python's stack reaches."""

import os
import posixpath
from pathlib import Path


def remove_tree(directory: Path | bytes) -> list[bytes]:
    """Removes a directory and all that is in it; returns what it held, relative to it."""
    base = os.fsencode(directory)
    directories, removed, pending = [b""], list[bytes](), [b""]
    while pending:
        current = pending.pop()
        with os.scandir(posixpath.join(base, current)) as names:
            for name in names:
                path = posixpath.join(current, name.name)
                removed.append(path)
                if name.is_dir(follow_symlinks=False):
                    pending.append(path)
                    directories.append(path)
                else:
                    os.unlink(name.path)
    for path in reversed(directories):
        os.rmdir(posixpath.join(base, path) if path else base)
    return removed

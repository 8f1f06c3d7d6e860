"""Extended attributes of a path itself, never of what a link points to. The one place that calls for them.

ENODATA (or a file system without them) is None or an empty mapping; every other failure raises: "not permitted to
look" must never be read as "not there".
"""

import errno
import os
from collections.abc import Mapping

import xattr

PathLike = str | bytes | os.PathLike[str]

_ABSENT = frozenset({errno.ENODATA, errno.EOPNOTSUPP})

OVERLAY_PREFIXES = ("trusted.overlay.", "user.overlay.")
"""What overlayfs keeps for itself: marks, never part of an image."""


def read(path: PathLike, name: str) -> bytes | None:
    """Value of one attribute, or None where the path has none of that name."""
    try:
        return bytes(xattr.getxattr(os.fsdecode(path), name, symlink=True))
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def read_all(path: PathLike) -> dict[str, bytes]:
    """All listed attributes but overlayfs's own. Names that are not UTF-8 carry surrogates."""
    try:
        # The library decodes names strictly and would fail on such a name; the standard library does not.
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _ABSENT:
            return {}
        raise
    values = {name: read(path, name) for name in names if not name.startswith(OVERLAY_PREFIXES)}
    return {name: value for name, value in sorted(values.items()) if value is not None}


def write(path: PathLike, name: str, value: bytes) -> None:
    xattr.setxattr(os.fsdecode(path), name, value, symlink=True)


def write_all(path: PathLike, values: Mapping[str, bytes]) -> None:
    for name, value in values.items():
        write(path, name, value)


def remove_all(path: PathLike) -> None:
    """Removes all listed attributes but overlayfs's own."""
    for name in read_all(path):
        os.removexattr(path, name, follow_symlinks=False)

"""Looks a path up in a stack of lower directories, as overlayfs would show it, without mounting anything."""

import os
import posixpath
import stat
from collections.abc import Sequence
from enum import Enum, auto

from cvmfsrepo import xattrs
from cvmfsrepo.compare import entry_at
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.shims import Found
from cvmfsrepo.whiteouts import OVERLAY_OPAQUE_NAMES, ancestors, is_overlay_whiteout

_CONTENT_LIMIT = 64 << 10
"""Bytes of a file that is named like a catalog marker; those that mark a catalog are empty."""


class _Step(Enum):
    """What one lower says of a path that it does not have itself."""

    LOOK_FURTHER = auto()
    ENDS_HERE = auto()


def find_below(lowers: Sequence[str], path: bytes) -> Found | None:
    """The entry that a merge of `lowers` (topmost first) shows at `path`, or None. OSError as it comes."""
    for lower in lowers:
        found = _look(os.fsencode(lower), path)
        if isinstance(found, Found):
            return found
        if found is _Step.ENDS_HERE:
            return None
    return None


def _look(lower: bytes, path: bytes) -> Found | _Step:
    step = _Step.LOOK_FURTHER
    for directory in ancestors(path)[1:]:
        try:
            status = os.lstat(posixpath.join(lower, directory))
        except FileNotFoundError:
            return step
        if not stat.S_ISDIR(status.st_mode):
            return _Step.ENDS_HERE
        if any(xattrs.read(posixpath.join(lower, directory), name) == b"y" for name in OVERLAY_OPAQUE_NAMES):
            step = _Step.ENDS_HERE
    try:
        # The root of a lower may be a link to a layer; a slash behind it means the directory itself.
        entry = entry_at(lower + b"/", path)
    except FileNotFoundError:
        return step
    if is_overlay_whiteout(entry.mode, os.makedev(*entry.device)):
        return _Step.ENDS_HERE
    return Found(entry, _content(posixpath.join(lower, path)) if stat.S_ISREG(entry.mode) else b"")


def _content(path: bytes) -> bytes:
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
        content = file.read(_CONTENT_LIMIT + 1)
    if len(content) > _CONTENT_LIMIT:
        raise DataLoss("file", path, f"is named like a catalog marker and has more than {_CONTENT_LIMIT} bytes")
    return content

"""A shim as files: the small tree that `shims.py` decides on, written to a disk.

Devices 0:0 need no privilege; a directory's owner needs CAP_CHOWN where it is not ours.
"""

import os
import posixpath
import stat
from pathlib import Path

from cvmfsrepo import xattrs
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.shims import Shim
from cvmfsrepo.tree import Entry


def write_shim(shim: Shim, directory: bytes | Path) -> None:
    """Makes the shim's tree in an empty directory, which becomes its root. A failure leaves the tree half made.

    Metadata comes last and from the bottom up, for making an entry changes its directory's time.
    """
    base = os.fsencode(directory)
    for entry in shim.directories:
        if entry.path:
            os.mkdir(posixpath.join(base, entry.path), 0o700)
    try:
        for path in shim.whiteouts:
            os.mknod(posixpath.join(base, path), stat.S_IFCHR | 0o600, os.makedev(0, 0))
    except FileExistsError as error:
        raise DataLoss("marker", error.filename, "is a directory in the same layer") from None
    for entry, content in shim.files:
        path = posixpath.join(base, entry.path)
        with open(path, "xb") as file:
            file.write(content)
        _set_metadata(path, entry)
    for entry in reversed(shim.directories):
        _set_metadata(posixpath.join(base, entry.path) if entry.path else base, entry)


def _set_metadata(path: bytes, entry: Entry) -> None:
    status = os.lstat(path)
    if (entry.uid, entry.gid) != (status.st_uid, status.st_gid):
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    os.chmod(path, stat.S_IMODE(entry.mode))
    # Overlayfs's own marks are no image's: one in a record would change what the merge shows.
    xattrs.write_all(path, {n: v for n, v in entry.xattrs.items() if not n.startswith(xattrs.OVERLAY_PREFIXES)})
    os.utime(path, ns=(entry.mtime, entry.mtime))

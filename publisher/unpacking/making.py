"""One name on a disk: its metadata, and what the file system says of it in words that help."""

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from cvmfsrepo import xattrs
from cvmfsrepo.errors import ContractError, FailedPrecondition, InvalidArgument, ResourceExhausted
from publisher.unpacking.contained import REMEDY


class Metadata(Protocol):
    """What a name gets: `mode` is the whole st_mode, `mtime` in nanoseconds."""

    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def mtime(self) -> int: ...
    @property
    def xattrs(self) -> Mapping[str, bytes]: ...


def describe(parent: int, name: bytes, wanted: Metadata) -> None:
    """Gives a name in the open directory `parent` its metadata, through no link. Owner first, for a change of owner
    clears the setuid bits and the file capabilities."""
    os.chown(name, wanted.uid, wanted.gid, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISLNK(wanted.mode):
        os.chmod(name, stat.S_IMODE(wanted.mode), dir_fd=parent)
    if wanted.xattrs:
        xattrs.write_all(os.fsdecode(b"/proc/self/fd/%d/%s" % (parent, name)), wanted.xattrs)
    os.utime(name, ns=(wanted.mtime, wanted.mtime), dir_fd=parent, follow_symlinks=False)


@contextmanager
def explained(thing: str, path: bytes) -> Iterator[None]:
    """What the file system says of one entry as the error that says what to do about it."""
    try:
        yield
    except OSError as error:
        raise _explanation(thing, os.fsdecode(path), error) from error


def _explanation(thing: str, name: str, error: OSError) -> ContractError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(thing, name, f"does not fit: {error.strerror}", "free some space")
    if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
        return InvalidArgument(thing, name, f"cannot be made: {error.strerror}", REMEDY)
    return FailedPrecondition(
        thing, name, f"cannot be made in this repository: {error.strerror}",
        "publish as root into a file system with owners, devices and extended attributes (ext4, xfs)",
    )  # fmt: skip

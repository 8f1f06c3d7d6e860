"""The daemon's unix socket: who may connect is who may open it. There is no other check, so it is never open wider.

Whoever may connect may make and remove every snapshot of the node: that is root's business, or a group's that the
configuration names.
"""

import contextlib
import errno
import grp
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from cvmfsrepo.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from snapshotter.log import event
from snapshotter.root import make_private

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def bound_socket(address: Path, group: str = "") -> Iterator[Path]:
    """Makes way for our socket and removes it at the end. A live server's is refused; a dead one's file is removed.
    A directory that is made for it is one that only root and `group` may enter."""
    number = group_id(group) if group else None
    try:
        is_ours = not address.parent.exists()
        make_private(address.parent)
        if number is not None:
            _let_in(number, address.parent, is_ours)
    except OSError as error:
        raise PermissionDenied("socket", str(address), f"its directory cannot be made ({error.strerror})") from None
    if _is_live(address):
        raise FailedPrecondition(
            "socket", str(address), "is in use by a running server", "stop it, or take another --address"
        )
    address.unlink(missing_ok=True)
    try:
        yield address
    finally:
        address.unlink(missing_ok=True)


def bind_private(address: Path, bind: Callable[[], object], group: str = "") -> None:
    """Has `bind` make the socket, 0600 from its first moment, and then opens it to `group` if one is given."""
    previous = os.umask(0o177)
    try:
        bind()
    finally:
        os.umask(previous)
    if not group:
        return
    try:
        os.chown(address, -1, group_id(group))
        address.chmod(0o660)
    except OSError as error:
        problem = f"cannot be given to group {group!r} ({error.strerror})"
        raise PermissionDenied("socket", str(address), problem, "run as root, or as a member of the group") from None


def group_id(name: str) -> int:
    """The number of a group, given by name or number."""
    try:
        return int(name) if name.isascii() and name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise InvalidArgument("socket-group", name, "is not a group of this node", "create it with groupadd") from None


def _let_in(group: int, directory: Path, is_ours: bool) -> None:
    if is_ours:
        os.chown(directory, -1, group)
        directory.chmod(0o710)
    status = directory.stat()
    if not status.st_mode & (0o011 if status.st_gid == group else 0o001):
        event(_log, logging.WARNING, "the socket's group cannot enter its directory", path=str(directory), group=group)


def _is_live(address: Path) -> bool:
    if os.path.lexists(address) and not address.is_socket():
        raise FailedPrecondition("socket", str(address), "is not a socket", "move it away, or take another --address")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(address))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                return False
            raise FailedPrecondition("socket", str(address), f"cannot be used ({error.strerror or error})") from None
    return True

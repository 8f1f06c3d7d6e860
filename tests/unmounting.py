"""Mounts taken away again, also stalled and dead ones: nothing here touches the file system behind a mount."""

import ctypes
import errno
import os
import re
import tempfile
from pathlib import Path

MNT_DETACH = 2
FUSE_CONTROL = Path("/sys/fs/fuse/connections")

_libc = ctypes.CDLL(None, use_errno=True)


def detach(target: Path) -> None:
    """Take away whatever is mounted there, at once, also if it is in use or dead."""
    while mounts_at(target):
        if _libc.umount2(os.fsencode(target), MNT_DETACH):
            raise os_error(f"unmount {str(target)!r}")


def mounts_at(target: Path) -> list[str]:
    """The lines of /proc/self/mounts for exactly this directory, oldest first."""
    lines = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    return [line for line in lines if _unquoted(line.split(" ")[1]) == _wanted(target)]


def connection_at(target: Path) -> int:
    """The number of the FUSE connection that is mounted there, topmost: the minor number of its device."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    fields = [line.split(" ") for line in lines]
    numbers = [one[2].partition(":")[2] for one in fields if _unquoted(one[4]) == _wanted(target)]
    if not numbers:
        raise LookupError(f"directory {str(target)!r}: nothing is mounted there")
    return int(numbers[-1])


def abort(connection: int) -> None:
    """The last resort: every call in this FUSE connection ends with an error now, whatever its server does. A
    connection that has ended already is left in peace."""
    with tempfile.TemporaryDirectory(prefix="fusectl-") as own:
        control = FUSE_CONTROL
        if not any(FUSE_CONTROL.iterdir()):
            control = Path(own)
            if _libc.mount(b"fusectl", os.fsencode(own), b"fusectl", ctypes.c_ulong(0), None):
                raise os_error("mount of fusectl")
        try:
            (control / str(connection) / "abort").write_text("1")
        except FileNotFoundError:
            pass
        finally:
            detach(Path(own))


def os_error(what: str) -> OSError:
    """The error of the libc call just made."""
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {errno.errorcode.get(number, number)} {os.strerror(number)}")


def _wanted(target: Path) -> str:
    return os.path.realpath(target.parent) + "/" + target.name


def _unquoted(field: str) -> str:
    """A field of /proc/mounts, where space, tab, newline and backslash are octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)

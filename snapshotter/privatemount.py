"""Mounts that nobody else sees: in a mount namespace of this process's own, which ends with it.

This is the one file that calls mount(2). A node needs none of it; a command that looks at what a node shows does.
"""

import ctypes
import functools
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cvmfsrepo.errors import FailedPrecondition, PermissionDenied
from snapshotter.snapshots import Mount

_NEW_MOUNTS, _NEW_DIRECTORY = 0x20000, 0x200
_RECURSIVE, _SLAVE, _REMOUNT, _BIND, _DETACH = 0x4000, 1 << 19, 0x20, 0x1000, 2
_FLAGS = {"ro": 1, "rw": 0, "nosuid": 2, "nodev": 4, "noexec": 8, "bind": _BIND, "rbind": _BIND | _RECURSIVE}

OPTION_BYTES = 4095
"""What mount(2) takes of options; it cuts off the rest without a word."""

_libc = ctypes.CDLL(None, use_errno=True)


def enter_private_mounts() -> None:
    """From here on what this thread mounts, and those that it starts, is seen by them alone; what is mounted elsewhere
    still comes in, as an automounter needs. PermissionDenied where that is not allowed."""
    if _libc.unshare(_NEW_MOUNTS):
        remedy = "run as root; in a container it takes CAP_SYS_ADMIN"
        raise PermissionDenied("mount namespace", "", f"cannot be made ({_last_error().strerror})", remedy)
    _mount("none", Path("/"), "", _RECURSIVE | _SLAVE, "", None)


@contextmanager
def mounted(mount: Mount, target: Path) -> Iterator[Path]:
    """Mounts as containerd would, lower directories made short where they do not fit; yields `target`. Read-only
    bind mounts take two calls."""
    flags = functools.reduce(lambda so_far, option: so_far | _FLAGS.get(option, 0), mount.options, 0)
    data = [option for option in mount.options if option not in _FLAGS]
    directory, data = _compacted(data) if len(os.fsencode(",".join(data))) > OPTION_BYTES else (None, data)
    _mount(mount.source, target, "" if flags & _BIND else mount.type, flags, ",".join(data), directory)
    try:
        if flags & _BIND and flags & _FLAGS["ro"]:
            _mount("none", target, "", flags | _REMOUNT, "", None)
        yield target
    finally:
        _libc.umount2(os.fsencode(target), _DETACH)


def _compacted(options: Sequence[str]) -> tuple[Path, list[str]]:
    """Lower directories relative to what they have in common."""
    lowerdir = next(option for option in options if option.startswith("lowerdir="))
    lowers = re.findall(r"(?:\\.|[^:\\])+", lowerdir.removeprefix("lowerdir="))
    common = os.path.commonpath(lowers)
    short = "lowerdir=" + ":".join(os.path.relpath(lower, common) for lower in lowers)
    return Path(re.sub(r"\\(.)", r"\1", common)), [short if option is lowerdir else option for option in options]


def _mount(source: str, target: Path, kind: str, flags: int, data: str, directory: Path | None) -> None:
    """mount(2), from `directory` if one is given: in a thread of its own, which alone changes directory."""
    text, errors = os.fsencode(data), list[OSError]()
    if len(text) > OPTION_BYTES:
        problem = f"would take {len(text)} bytes of options, and the kernel takes {OPTION_BYTES}"
        raise FailedPrecondition("mount", str(target), problem, "give a directory with a shorter name")

    def call() -> None:
        if directory is not None:
            _libc.unshare(_NEW_DIRECTORY)
            os.chdir(directory)
        named = os.fsencode(target.absolute())
        if _libc.mount(os.fsencode(source), named, kind.encode(), ctypes.c_ulong(flags), text):
            errors.append(_last_error())

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if errors:
        raise FailedPrecondition(
            "mount", f"{kind or source} on {target}", f"failed ({errors[0].strerror})", "the kernel's log may say more"
        )


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))

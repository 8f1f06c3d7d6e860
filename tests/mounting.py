"""Mounts for tests: the stand-in repository, kernel overlayfs, and whatever a snapshotter answers.

Each is a context manager, and what it mounted is gone when its block ends, however it ends.
"""

import ctypes
import functools
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines import debs
from tests.standins import PROJECT, Counts, Standin, fuse_environment, standin
from tests.unmounting import detach, mounts_at, os_error

__all__ = [
    "PROJECT", "Counts", "Standin", "detach", "escaped", "fuse_available", "fuse_environment", "mounted",
    "mounted_apart", "mounts_at", "needs_fuse", "needs_root", "overlay", "standin",
]  # fmt: skip

OPTION_BYTES = 4095
"""What mount(2) takes; one byte more is cut off without a word."""
CLONE_FS = 0x200
MS_REMOUNT = 0x20
FLAGS = {"ro": 1, "rw": 0, "nosuid": 2, "nodev": 4, "noexec": 8, "bind": 0x1000, "rbind": 0x5000}

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def overlay(
    lowers: Sequence[Path],
    target: Path,
    upper: Path | None = None,
    work: Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[Path]:
    """Kernel overlayfs of `lowers`, topmost first, on `target`; read-only without `upper`."""
    text = [f"lowerdir={':'.join(map(escaped, lowers))}"]
    text += [f"{name}={escaped(path)}" for name, path in (("upperdir", upper), ("workdir", work)) if path]
    with mounted("overlay", "overlay", target, [*text, *options]) as root:
        yield root


@contextmanager
def mounted(kind: str, source: str, target: Path, options: Sequence[str] = ()) -> Iterator[Path]:
    """One mount as containerd describes it, with its options as they would go to the kernel; yields `target`."""
    target.mkdir(parents=True, exist_ok=True)
    flags = functools.reduce(lambda so_far, option: so_far | FLAGS.get(option, 0), options, 0)
    data = [option for option in options if option not in FLAGS]
    directory, data = _compacted(data) if len(os.fsencode(",".join(data))) > OPTION_BYTES else (None, data)
    _mount(source, target, "none" if flags & FLAGS["bind"] else kind, flags, ",".join(data), directory)
    try:
        if flags & FLAGS["bind"] and flags & FLAGS["ro"]:
            _mount("none", target, "none", flags | MS_REMOUNT, "", None)  # the first call ignores ro
        yield target
    finally:
        if _libc.umount2(os.fsencode(target), 0):
            detach(target)  # busy, or its stand-in died


def escaped(path: Path) -> str:
    """A path inside overlayfs' options: the separators of lower directories and of options, and the escape."""
    return re.sub(r"([\\:,])", r"\\\1", os.fspath(path))


def fuse_available() -> str:
    """Why no stand-in can be mounted here, or nothing."""
    if os.geteuid() != 0:
        return "not root: the stand-in mounts with allow_other and reads trusted.* attributes"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened ({error.strerror}): load the fuse module or pass the device in"
    try:
        fuse_environment()
    except debs.DebsError as error:
        return f"no libfuse2: install it or set FUSE_LIBRARY_PATH ({error})"
    return ""


def needs_root() -> None:
    """Skip the test where it cannot mount."""
    if os.geteuid() != 0:
        pytest.skip("not root: cannot mount or make devices; run as root")


def needs_fuse() -> None:
    """Skip the test where no stand-in can be mounted."""
    if reason := fuse_available():
        pytest.skip(reason)


def _compacted(options: Sequence[str]) -> tuple[Path, list[str]]:
    """containerd's way around the option page: lower directories relative to what they have in common."""
    lowerdir = next(option for option in options if option.startswith("lowerdir="))
    lowers = re.findall(r"(?:\\.|[^:\\])+", lowerdir.removeprefix("lowerdir="))
    common = os.path.commonpath(lowers)
    short = "lowerdir=" + ":".join(os.path.relpath(lower, common) for lower in lowers)
    return Path(re.sub(r"\\(.)", r"\1", common)), [short if option is lowerdir else option for option in options]


def _mount(source: str, target: Path, kind: str, flags: int, data: str, directory: Path | None) -> None:
    """mount(2), from `directory` if one is given: in a thread of its own, which alone changes directory."""
    text = os.fsencode(data)
    if len(text) > OPTION_BYTES:
        raise ValueError(f"mount options of {len(text)} bytes: the kernel takes {OPTION_BYTES}; use shorter paths")
    failures: list[OSError] = []

    def call() -> None:
        if directory is not None:
            _libc.unshare(CLONE_FS)
            os.chdir(directory)
        arguments = (
            os.fsencode(source),
            os.fsencode(target.absolute()),
            kind.encode(),
            ctypes.c_ulong(flags),
            text,
        )
        if _libc.mount(*arguments):
            failures.append(os_error(f"mount {kind} on {str(target)!r} with {data!r}"))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@contextmanager
def mounted_apart(kind: str, source: str, target: Path, options: Sequence[str] = ()) -> Iterator[Path]:
    """A mount in a mount namespace of its own, which ends with the block: one in everybody's is copied by each
    namespace that is made meanwhile, a container's say, and stays there as long as that does."""
    target.mkdir(parents=True, exist_ok=True)
    script = 'mount -t "$1" -o "$2" "$3" "$4" && echo mounted && exec cat'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    holder = subprocess.Popen(
        [*command, kind, ",".join(options) or "defaults", source, str(target)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "mounted\n"
        yield target
        holder.stdin.close()

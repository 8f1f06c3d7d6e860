"""Mounts for tests: the stand-in repository, kernel overlayfs, and whatever a snapshotter answers.

Each is a context manager, and what it mounted is gone when its block ends, however it ends.
"""

import ctypes
import ctypes.util
import errno
import functools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engines import debs

PROJECT = Path(__file__).resolve().parents[1]
START_SECONDS = 30.0
STOP_SECONDS = 10.0
OPTION_BYTES = 4095
"""What mount(2) takes; one byte more is cut off without a word."""
CLONE_FS = 0x200
MNT_DETACH = 2
MS_REMOUNT = 0x20
FLAGS = {"ro": 1, "rw": 0, "nosuid": 2, "nodev": 4, "noexec": 8, "bind": 0x1000, "rbind": 0x5000}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Counts:
    """Operations since the start or the last reset: by name, and by path (as os.fsdecode gives it) and name."""

    operations: dict[str, int]
    paths: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Standin:
    """A running stand-in: `source` is what it serves, `mountpoint` where."""

    source: Path
    mountpoint: Path
    control: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def counters(self) -> Counts:
        said = self.ask({"do": "counters"})
        return Counts(said["operations"], said["paths"])

    def reset(self) -> None:
        """Count from nothing; a `release` or `releasedir` of something closed just before may still come in."""
        self.ask({"do": "reset"})

    def set_revision(self, revision: int) -> None:
        self.ask({"do": "revision", "value": revision})

    def ask(self, request: object) -> dict[str, Any]:
        """One request on the control socket; a refusal raises."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_SECONDS)
            connection.connect(str(self.control))
            with connection.makefile("rwb") as stream:
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                said: dict[str, Any] = json.loads(stream.readline())
        if "error" in said:
            raise ValueError(said["error"])
        return said

    def stop(self) -> None:
        """SIGTERM and wait; if that does not end it, detach and kill, and say so."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            detach(self.mountpoint)


@contextmanager
def standin(
    source: Path,
    mountpoint: Path,
    *,
    fqrn: str = "unpacked.example.org",
    revision: int = 1,
    claim: tuple[int, int] | None = None,
    whole_seconds: bool = False,
    kcache: float = 0.0,
) -> Iterator[Standin]:
    """Serve `source` on `mountpoint` (made if missing).

    The kernel remembers nothing unless `kcache` says so: a change in the source is seen at once and the counters
    count every access. A walk of 50,000 entries takes 10 s so and 5 s (again: 2 s) with 60, the real client's value.
    """
    mountpoint.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="standin-") as own:  # not below tmp_path: 108 bytes are all a socket has
        control = Path(own, "control")
        command = [sys.executable, "-m", "cvmfsrepo.standin", os.fspath(source), os.fspath(mountpoint)]
        command += ["--fqrn", fqrn, "--revision", str(revision), "--kcache", str(kcache)]
        command += ["--control", str(control), "--parent", str(os.getpid())]
        command += ["--claim", f"{claim[0]}:{claim[1]}"] if claim else []
        command += ["--whole-seconds"] if whole_seconds else []
        with Path(own, "stderr").open("w+b") as stderr:
            process = subprocess.Popen(
                command, env={**os.environ, **fuse_environment(), "PYTHONPATH": str(PROJECT)}, stderr=stderr
            )
            running = Standin(source, mountpoint, control, process)
            try:
                _wait_until_mounted(running, Path(own, "stderr"))
                yield running
            finally:
                running.stop()


def _wait_until_mounted(running: Standin, stderr: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not mounts_at(running.mountpoint):
        if running.process.poll() is not None or time.monotonic() > deadline:
            raise OSError(f"stand-in of {str(running.source)!r}: did not start: {stderr.read_text().strip()}")
        time.sleep(0.01)


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


def detach(target: Path) -> None:
    """Take away whatever is mounted there, at once, also if it is in use or dead."""
    while mounts_at(target):
        if _libc.umount2(os.fsencode(target), MNT_DETACH):
            raise _os_error(f"unmount {str(target)!r}")


def mounts_at(target: Path) -> list[str]:
    """The lines of /proc/self/mounts for exactly this directory, oldest first."""
    wanted = os.path.realpath(target.parent) + "/" + target.name
    lines = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    return [line for line in lines if _unquoted(line.split(" ")[1]) == wanted]


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


@functools.cache
def fuse_environment() -> dict[str, str]:
    """What a process that imports fusepy needs in its environment; fetches libfuse2 where the host has none."""
    if "FUSE_LIBRARY_PATH" in os.environ or ctypes.util.find_library("fuse"):
        return {}
    return {"FUSE_LIBRARY_PATH": str(debs.fuse_library())}


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
            failures.append(_os_error(f"mount {kind} on {str(target)!r} with {data!r}"))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _os_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {errno.errorcode.get(number, number)} {os.strerror(number)}")


def _unquoted(field: str) -> str:
    """A field of /proc/mounts, where space, tab, newline and backslash are octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)

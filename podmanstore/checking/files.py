"""Reads a store's files and directories as any user of the machine would have to.

What stands in a store is not trusted: a file is read to a limit, a pipe is not waited for, and a link, which may lead
into a repository that hangs, is followed only where the caller says so.
"""

import os
import stat
from pathlib import Path

from podmanstore.checking.defects import Findings, Kind, named

FILE_LIMIT = 256 << 20
"""Bytes of a file beyond which it is not read."""

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def read(path: str | Path, follow: bool = False) -> tuple[bytes, int]:
    """Content and mode of a regular file; OSError as it comes, ELOOP for a link that is not to be followed."""
    descriptor = os.open(path, _FLAGS if follow else _FLAGS | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, f"is not a regular file ({stat.filemode(status.st_mode)})", str(path))
        if status.st_size > FILE_LIMIT:
            raise OSError(0, f"has {status.st_size} bytes, more than {FILE_LIMIT}", str(path))
        return _whole(descriptor, status.st_size), status.st_mode
    finally:
        os.close(descriptor)


def _whole(descriptor: int, size: int) -> bytes:
    content = os.read(descriptor, size + 1)
    while len(content) <= FILE_LIMIT and (more := os.read(descriptor, 1 << 20)):
        content += more
    return content


def read_noting(path: str | Path, findings: Findings, follow: bool = True) -> bytes | None:
    """The content, None where there is none to be had; what another user could not read is noted."""
    try:
        content, mode = read(path, follow)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        findings.add(Kind.UNREADABLE, named("file", path), f"cannot be read: {error.strerror}")
        return None
    note_mode(path, mode, findings)
    return content


def note_mode(path: str | Path, mode: int, findings: Findings) -> None:
    """A file is read, and a directory read and entered, by rootless users."""
    needed, thing = (0o005, "directory") if stat.S_ISDIR(mode) else (0o004, "file")
    if mode & needed != needed:
        problem = f"is {stat.filemode(mode)}: other users cannot read it, and their podman fails"
        findings.add(Kind.UNREADABLE, named(thing, path), problem)


def listed(path: str | Path, findings: Findings) -> dict[str, os.DirEntry[str]] | None:
    """What a directory holds by name; None where there is no such directory."""
    try:
        note_mode(path, os.stat(path).st_mode, findings)
        with os.scandir(path) as entries:
            return {entry.name: entry for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        findings.add(Kind.UNREADABLE, named("directory", path), f"cannot be listed: {error.strerror}")
        return None


def link_text(path: str) -> str:
    """Where a symbolic link leads; empty for anything else."""
    try:
        return os.readlink(path)
    except OSError:
        return ""

"""A publication into a plain directory: all of an image or nothing of it becomes visible.

One publisher at a time holds the lock. Everything is made below `.cvmfs-publisher/staging` on the same file system and
shown by renames, the manifest last: who finds a manifest finds its layers. What a killed run left in the staging area
is removed by the next one. Errors of the body always propagate.
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cvmfsrepo.errors import ContractError, FailedPrecondition, PermissionDenied, ResourceExhausted, Unavailable
from cvmfsrepo.layout import Layout
from publisher.unpacking.removal import remove_tree

_LIBC = ctypes.CDLL(None, use_errno=True)


class Transaction:
    """What is to be shown, in order; nothing of it is seen before `show`. `changed` says whether anything was."""

    def __init__(self, layout: Layout, durable: bool) -> None:
        self._layout, self._durable = layout, durable
        self._staging = layout.publisher_state / "staging"
        self._count = 0
        self._pending: list[tuple[Path, Path]] = []
        self.changed = False

    def stage(self) -> Path:
        """A new path in the staging area, for the caller to make."""
        self._staging.mkdir(mode=0o700, exist_ok=True)
        self._count += 1
        return self._staging / str(self._count)

    def add(self, staged: Path, final: Path) -> None:
        """Has a staged file, link or directory shown at `final`, in place of what is there. A directory must be one
        that nobody is served from."""
        self._pending.append((staged, final))

    def add_file(self, content: bytes, final: Path) -> None:
        """Has a small file shown, unless it is there already with the same bytes."""
        if _content(final) != content:
            staged = self.stage()
            write_file(staged, content)
            self.add(staged, final)

    def add_link(self, text: str, final: Path) -> None:
        """Has a relative link shown. One that leads somewhere already is left as it is."""
        if not final.exists():
            staged = self.stage()
            staged.symlink_to(text)
            self.add(staged, final)

    def show(self) -> None:
        """Shows everything by renames, in the order of adding; the last one only when all others are on the disk."""
        for part in (self._pending[:-1], self._pending[-1:]):
            if part:
                self._settle()
            for staged, final in part:
                make_directories(final.parent, self._layout.root)
                if final.is_dir() and not final.is_symlink():
                    final.rename(self.stage())
                staged.rename(final)
        if self._pending:
            self._settle()
            self.changed = True
        self._pending.clear()

    def clear(self) -> None:
        """Removes what is in the staging area."""
        if self._staging.is_dir():
            remove_tree(self._staging)

    def _settle(self) -> None:
        """Waits until everything written is on the disk: a rename must never outlive the content it shows. One call
        for all files of an image is far cheaper than an fsync each, and unlike sync() it reports failed writes."""
        if not self._durable:
            return
        directory = os.open(self._layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _LIBC.syncfs(directory) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(self._layout.root))
        finally:
            os.close(directory)


@contextmanager
def begin(layout: Layout, durable: bool = True) -> Iterator[Transaction]:
    """The transaction that holds the repository's publisher lock, with an empty staging area.

    `durable=False` leaves out waiting for the disk, for repositories that are thrown away. Unavailable where another
    publisher holds the lock; FailedPrecondition, PermissionDenied or ResourceExhausted where the directory cannot be
    written.
    """
    try:
        with _locked(layout):
            transaction = Transaction(layout, durable)
            transaction.clear()
            try:
                yield transaction
            finally:
                transaction.clear()
    except OSError as error:
        raise _refusal(layout, error) from error


def make_directories(directory: Path, root: Path) -> None:
    """Makes the directories from `root` to `directory` that are missing, readable by all whatever the umask."""
    for part in (directory, *directory.parents):
        if part == root or part.is_dir():
            break
    for name in reversed([p for p in (directory, *directory.parents) if part in p.parents]):
        name.mkdir(mode=0o755)
        name.chmod(0o755)


def write_file(path: Path, content: bytes) -> None:
    """Writes a new file that all may read whatever the umask."""
    path.write_bytes(content)
    path.chmod(0o644)


@contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    if not layout.root.is_dir():
        raise FailedPrecondition("repository", str(layout.root), "is not a directory", "make it first")
    layout.publisher_state.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(layout.publisher_state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            problem = f"is being published to by another publisher, process {holder}"
            raise Unavailable("repository", str(layout.root), problem, "wait until it has ended") from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _refusal(layout: Layout, error: OSError) -> ContractError:
    problem = f"cannot be written: {error.strerror}" + (f": {error.filename}" if error.filename else "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted("repository", str(layout.root), problem, "free some space")
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied("repository", str(layout.root), problem, "run as root")
    if error.errno == errno.EROFS:
        remedy = "a mounted CVMFS repository is read-only: give the directory that it is published from"
        return FailedPrecondition("repository", str(layout.root), problem, remedy)
    return Unavailable("repository", str(layout.root), problem, "look at the disk and at the kernel's log")

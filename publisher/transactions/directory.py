"""A publication into a plain directory, which may be one that is exported by NFS.

Everything is made below `.cvmfs-publisher/staging` on the same file system and shown by renames. What a killed run
left in the staging area is removed by the next one.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.errors import ContractError, FailedPrecondition, PermissionDenied, ResourceExhausted, Unavailable
from cvmfsrepo.layout import Layout
from publisher.transactions.collected import Collected, make_directories
from publisher.transactions.contract import Finish, Transaction
from publisher.transactions.lock import Stopped, held, never

_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class DirectoryTarget:
    """A directory as a repository. `durable=False` leaves out waiting for the disk, for what is thrown away; `finish`
    is made after each change, and by the next publication where a run was killed before it."""

    layout: Layout
    durable: bool = True
    finish: Finish | None = None

    @classmethod
    def at(cls, root: Path, durable: bool = True) -> "DirectoryTarget":
        return cls(Layout(root), durable)

    @contextmanager
    def begin(self, wait: float = 0, stopped: Stopped = never) -> Iterator[Transaction]:
        """FailedPrecondition, PermissionDenied or ResourceExhausted where the directory cannot be written."""
        try:
            state = _state_of(self.layout)
            with held(state / "lock", str(self.layout.root), wait, stopped):
                transaction = DirectoryTransaction(self.layout, self.durable, self.finish)
                transaction.clear()
                try:
                    yield transaction
                finally:
                    with suppress(OSError):  # what stays is cleared by the next one
                        transaction.clear()
        except OSError as error:
            raise refusal(self.layout, error) from error


class DirectoryTransaction(Collected):
    """Nothing of it is seen before `show`."""

    def __init__(self, layout: Layout, durable: bool, finish: Finish | None = None) -> None:
        super().__init__(layout, layout.publisher_state / "staging")
        self._durable, self._finish = durable, finish
        self._unfinished = layout.publisher_state / "unfinished"

    @property
    def copies(self) -> bool:
        return False

    def cut_catalog(self, directory: Path) -> None:
        """Nothing: a directory has no catalogs."""

    def show(self) -> None:
        """By renames; announcements only when all content is on the disk."""
        for make, final in self._made:
            self.announce_file(make(None), final)
        removed = self._removed()
        self.changed = bool(self._content or self._announcements or removed)
        if self._finish and self.changed:
            self._unfinished.touch()
        for part in (self._content, self._announcements):
            if part:
                self._settle()
            for staged, final in part:
                self._place(staged, final)
        for final in removed:
            final.rename(self.stage())
        if self.changed:
            self._settle()
        self._make_finish()

    def _make_finish(self) -> None:
        if self._finish and (self._unfinished.exists() or self._finish.is_due(self.layout)):
            self.changed |= self._finish.make(self.layout, is_changing=False)
            self._unfinished.unlink(missing_ok=True)

    def _place(self, staged: Path, final: Path) -> None:
        make_directories(final.parent, self.layout.root)
        if final.is_dir() and not final.is_symlink():
            final.rename(self.stage())
        staged.rename(final)

    def _settle(self) -> None:
        """Waits until everything written is on the disk: a rename must never outlive the content it shows. One call
        for all files of an image is far cheaper than an fsync each, and unlike sync() it reports failed writes."""
        if not self._durable:
            return
        directory = os.open(self.layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _LIBC.syncfs(directory) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(self.layout.root))
        finally:
            os.close(directory)


def _state_of(layout: Layout) -> Path:
    if not layout.root.is_dir():
        raise FailedPrecondition("repository", str(layout.root), "is not a directory", "make it first")
    layout.publisher_state.mkdir(mode=0o700, exist_ok=True)
    return layout.publisher_state


def refusal(layout: Layout, error: OSError) -> ContractError:
    """A failure of the disk in the project's words."""
    problem = f"cannot be written: {error.strerror}" + (f": {error.filename}" if error.filename else "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted("repository", str(layout.root), problem, "free some space")
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied("repository", str(layout.root), problem, "run as root")
    if error.errno == errno.EROFS:
        remedy = "a mounted CVMFS repository is read-only: give the directory that it is published from"
        return FailedPrecondition("repository", str(layout.root), problem, remedy)
    return Unavailable("repository", str(layout.root), problem, "look at the disk and at the kernel's log")

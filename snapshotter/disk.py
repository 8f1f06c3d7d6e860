"""The directories behind the records: staged, placed, linked, measured and removed.

    <root>/snapshots/<id>/fs      upper directory of a local snapshot, or a link to a repository's layer
    <root>/snapshots/<id>/work    overlayfs's work directory of an active snapshot
    <root>/snapshots/<id>/h, w    links to the shims above and below a repository's layer
    <root>/snapshots/new-*        being staged

A repository's layer is a link and never a mount: nothing to restore after a restart, nothing to unmount, and removing
it removes a link. The names are short because containerd hands overlayfs all lowers in one 4 KiB page.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from snapshotter.metastore import Record, Remote
from snapshotter.snapshots import Usage

_STAGING = "new-"


@dataclass(frozen=True, slots=True)
class Ownership:
    """Mode (permission bits), owner and group of a root directory."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0


class Staged:
    """A snapshot's directory that is not yet under its number."""

    def __init__(self, path: Path, snapshots: Path) -> None:
        self._path, self._snapshots = path, snapshots

    def place(self, number: int) -> None:
        """Gives the directory its number. What stood there belongs to no record: a crash left it."""
        target = self._snapshots / str(number)
        try:
            os.rename(self._path, target)
        except OSError:
            if not target.exists():
                raise
            remove_tree(target)
            os.rename(self._path, target)


class Disk:
    """The snapshot directories below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.snapshots = root / "snapshots"

    def directory(self, number: int) -> str:
        return f"{self.snapshots}/{number}"

    def lowers(self, record: Record) -> list[str]:
        """Lower directories of a committed snapshot, topmost first."""
        directory = self.directory(record.id)
        if record.remote is None:
            return [f"{directory}/fs"]
        white = [f"{directory}/w"] if record.remote.white else []
        return [f"{directory}/h", f"{directory}/fs", *white]

    @contextlib.contextmanager
    def staged_local(self, writable: bool, ownership: Ownership) -> Iterator[Staged]:
        """Stages a local snapshot; whatever was not placed is removed at the end."""
        with self._staged() as path:
            upper = path / "fs"
            upper.mkdir()
            if (ownership.uid, ownership.gid) != (os.geteuid(), os.getegid()):
                os.chown(upper, ownership.uid, ownership.gid)
            upper.chmod(ownership.mode)
            if writable:
                (path / "work").mkdir(0o711)
            yield Staged(path, self.snapshots)

    @contextlib.contextmanager
    def staged_remote(self, layer: Path, remote: Remote) -> Iterator[Staged]:
        """Stages a snapshot that shows a repository's layer."""
        with self._staged() as path:
            (path / "fs").symlink_to(layer)
            (path / "h").symlink_to(f"../../shims/{remote.hide}")
            if remote.white:
                (path / "w").symlink_to(f"../../shims/{remote.white}")
            yield Staged(path, self.snapshots)

    def ownership(self, chain: list[Record]) -> Ownership:
        """Mode and owner that a new snapshot's root takes: those of its parent's. Answered without the repository,
        for the shim above a layer has the metadata of the layer's root."""
        if not chain:
            return Ownership()
        status = os.stat(self.lowers(chain[0])[0])
        return Ownership(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)

    def usage(self, number: int) -> Usage:
        """What a local snapshot's upper directory takes now."""
        return disk_usage(Path(self.directory(number), "fs"))

    def remove(self, number: int) -> None:
        remove_tree(Path(self.directory(number)))

    def orphans(self, known: Iterable[int]) -> list[Path]:
        """Directories with a number that no record has."""
        needed = {str(number) for number in known}
        names = os.listdir(self.snapshots)
        return [self.snapshots / name for name in names if name.isdigit() and name not in needed]

    def abandoned(self) -> list[Path]:
        """Staged directories. Only at the start are all of them a dead process's."""
        return [self.snapshots / name for name in os.listdir(self.snapshots) if name.startswith(_STAGING)]

    @contextlib.contextmanager
    def _staged(self) -> Iterator[Path]:
        path = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.snapshots))
        try:
            yield path
        except BaseException:
            remove_tree(path)
            raise


def remove_tree(path: Path) -> None:
    """Removes a directory of ours and what is below it; links are removed, not followed. Gone already is fine."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        if path.exists():
            remove_tree(path)


def disk_usage(path: Path) -> Usage:
    """Bytes allocated and inodes used below a directory, itself included; a hard-linked file counts once."""
    size, seen, pending = 0, set[tuple[int, int]](), [os.fsencode(path)]
    status = os.lstat(path)
    seen.add((status.st_dev, status.st_ino))
    size += status.st_blocks * 512
    while pending:
        try:
            with os.scandir(pending.pop()) as names:
                for name in names:
                    status = name.stat(follow_symlinks=False)
                    if (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        size += status.st_blocks * 512
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(name.path)
        except FileNotFoundError:  # a running container removes as we count
            continue
    return Usage(size, len(seen))

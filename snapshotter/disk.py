"""The directories behind the records: staged, placed, linked, measured and removed.

    <root>/snapshots/<id>/fs      upper directory of a local snapshot, or a link to a repository's layer
    <root>/snapshots/<id>/work    overlayfs's work directory of an active snapshot
    <root>/snapshots/<id>/h, w    links to the shims above and below a repository's layer
    <root>/snapshots/<id>/kept    says that a restored database does not know the snapshot, and it is kept
    <root>/snapshots/new-*, old-* being staged, being removed

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

from cvmfsrepo.errors import DataLoss
from snapshotter.metastore import Record, Remote
from snapshotter.snapshots import Usage

_STAGING, _ASIDE, _KEPT = "new-", "old-", "kept"
_MOST_DIGITS = 15
"""Of a directory's number: what has more was never ours."""

_WHY_KEPT = b"""This snapshot is newer than the database that was restored, which does not know it.
It may be removed when no container uses it: /proc/*/mountinfo does not name it.
"""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Mode (permission bits), owner and group of a root directory."""

    mode: int
    uid: int
    gid: int


LOST_REMEDY = "remove the images that use it from containerd and pull them again"


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
            if not target.exists() or (target / _KEPT).exists():
                raise
            remove_tree(target)
            os.rename(self._path, target)


class Disk:
    """The snapshot directories below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.snapshots, self.shims = root / "snapshots", root / "shims"

    def directory(self, number: int) -> str:
        return f"{self.snapshots}/{number}"

    def lowers(self, chain: Iterable[Record]) -> list[str]:
        """Lower directories of a chain of committed snapshots, topmost first.

        A directory that stands higher already is left out: it could only add what is there, and overlayfs refuses the
        same directory twice (ELOOP). Images do repeat layers, and layers share shims.
        """
        places: dict[object, str] = {}
        for record in chain:
            for what, path in self._places(record):
                places.setdefault(what, path)
        return list(places.values())

    def _places(self, record: Record) -> list[tuple[object, str]]:
        """A snapshot's lower directories, topmost first, each behind what it shows."""
        directory, remote = self.directory(record.id), record.remote
        if remote is None:
            return [(record.id, f"{directory}/fs")]
        layer = ((remote.repository, remote.layer), f"{directory}/fs")
        white = [(remote.white, f"{directory}/w")] if remote.white else []
        return [(remote.hide, f"{directory}/h"), layer, *white]

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
            (path / "h").symlink_to(shim_link(remote.hide))
            if remote.white:
                (path / "w").symlink_to(shim_link(remote.white))
            yield Staged(path, self.snapshots)

    def ownership(self, chain: list[Record]) -> Ownership:
        """Mode and owner that a new snapshot's root takes: those of its parent's. Answered without the repository,
        for the shim above a layer has the metadata of the layer's root."""
        if not chain:
            return Ownership(0o755, os.geteuid(), os.getegid())
        lower = self.lowers(chain[:1])[0]
        try:
            status = os.stat(lower)
        except (FileNotFoundError, NotADirectoryError):
            raise DataLoss("snapshot", chain[0].info.name, f"has lost {lower}", LOST_REMEDY) from None
        return Ownership(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)

    def usage(self, number: int) -> Usage:
        """What a local snapshot's upper directory takes now."""
        return disk_usage(Path(self.directory(number), "fs"))

    def remove(self, number: int) -> None:
        remove_tree(Path(self.directory(number)))

    def set_aside(self, known: Iterable[int], last: int | None = None) -> list[Path]:
        """Gives directories whose number no record has a name that no snapshot can get, for a number that a failed
        transaction gave back is given again. The caller removes what is answered, outside the transaction.

        `last` is the highest number given away. Somebody else put there what is more than one above it: it may be the
        only copy of something, so it stays, and the next start reports it (`backup.keep_newer`). A start has kept such
        directories already and needs no `last`."""
        for number in self.numbers().difference(known):
            directory = self.snapshots / str(number)
            if not self.is_kept(directory.name) and (last is None or number <= last + 1):
                directory.rename(self.snapshots / f"{_ASIDE}{number}")
        return list(self.snapshots.glob(f"{_ASIDE}*"))

    def numbers(self) -> set[int]:
        """Numbers of the directories that are there."""
        return {number for name in os.listdir(self.snapshots) if (number := _number(name)) is not None}

    def keep(self, number: int) -> None:
        """Keeps a directory that no record has, over restarts, until a person removes it."""
        directory = self.snapshots / str(number)
        if directory.is_dir():
            (directory / _KEPT).write_bytes(_WHY_KEPT)
            persist(directory)

    def is_kept(self, name: str) -> bool:
        return (self.snapshots / name / _KEPT).exists()

    def kept_shims(self, known: Iterable[int]) -> set[str]:
        """Keys of the shims that kept snapshots stand on, which no record has."""
        kept = [self.snapshots / str(number) for number in self.numbers().difference(known)]
        links = [directory / name for directory in kept for name in ("h", "w")]
        return {os.path.basename(os.readlink(link)) for link in links if link.is_symlink()}

    def abandoned(self) -> list[Path]:
        """Staged directories, and those set aside. Only at the start are all of them a dead process's."""
        names = os.listdir(self.snapshots)
        return [self.snapshots / name for name in names if is_staging(name)]

    @contextlib.contextmanager
    def _staged(self) -> Iterator[Path]:
        path = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.snapshots))
        try:
            yield path
        except BaseException:
            remove_tree(path)
            raise


def is_staging(name: str) -> bool:
    """Whether a directory below `snapshots` is being made or removed."""
    return name.startswith((_STAGING, _ASIDE))


def shim_link(key: str) -> str:
    """What a snapshot's link to a shim says."""
    return f"../../shims/{key}"


def persist(directory: Path) -> None:
    """Brings what was made in a directory to the disk: a record that is committed later needs it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _number(name: str) -> int | None:
    """The number that is a directory's whole name, written as we write it."""
    if len(name) > _MOST_DIGITS or not (name.isascii() and name.isdigit()) or name.startswith("0"):
        return None
    return int(name)


def remove_tree(path: Path) -> None:
    """Removes a directory of ours and what is below it; links are removed, not followed. Gone already is fine."""
    try:
        shutil.rmtree(path)
    except NotADirectoryError:  # made by hand
        path.unlink()
    except FileNotFoundError:
        if path.exists():
            remove_tree(path)


def disk_usage(path: Path) -> Usage:
    """Bytes allocated and inodes used below a directory, itself included; a hard-linked file counts once. What a
    running container removes as we count is passed over."""
    sizes, pending = {_inode(status := os.lstat(path)): status.st_blocks * 512}, [os.fsencode(path)]
    while pending:
        for name in _entries(pending.pop()):
            try:
                status = name.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            sizes[_inode(status)] = status.st_blocks * 512
            if stat.S_ISDIR(status.st_mode):
                pending.append(name.path)
    return Usage(sum(sizes.values()), len(sizes))


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _entries(directory: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(directory) as names:
            return list(names)
    except (FileNotFoundError, NotADirectoryError):
        return []

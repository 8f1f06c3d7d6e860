"""Shims and outlines on the node's disk: written once, found again by what they hold, kept across restarts.

    <root>/shims/<key>      a shim's directory
    <root>/layers/<hex>.v1  a layer's outline, by the layer's digest

Devices 0:0 need no privilege; a directory's owner needs CAP_CHOWN where it is not ours.
"""

import os
import posixpath
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from cvmfsrepo import xattrs
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.outline import Outline
from cvmfsrepo.shims import Shim
from cvmfsrepo.tree import Entry
from snapshotter.disk import remove_tree

_STAGING = "new-"
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Outline).decode


class ShimStore:
    """Shims and outlines below `root`."""

    def __init__(self, root: Path) -> None:
        self.shims, self.layers = root / "shims", root / "layers"

    def ensure(self, shim: Shim) -> str:
        """Writes a shim unless it is there; answers its key."""
        key = shim.key.hex
        target = self.shims / key
        if target.is_dir():
            return key
        staged = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.shims))
        try:
            _write(shim, os.fsencode(staged))
            os.rename(staged, target)
            _persist(self.shims)
        except BaseException as error:
            remove_tree(staged)
            if not (isinstance(error, OSError) and target.is_dir()):  # another call wrote it meanwhile
                raise
        return key

    def find_outline(self, layer: Digest) -> Outline | None:
        """The outline that was kept for a layer; one that does not parse counts as none and is made again."""
        try:
            return _decode((self.layers / f"{layer.hex}.v1").read_bytes())
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def keep_outline(self, layer: Digest, outline: Outline) -> None:
        descriptor, staged = tempfile.mkstemp(prefix=_STAGING, dir=self.layers)
        with open(descriptor, "wb") as file:
            file.write(_encode(outline))
        os.rename(staged, self.layers / f"{layer.hex}.v1")

    def keep_losses(self, layer: Digest, losses: Iterable[str]) -> None:
        """Keeps what publication lost of a layer, for the commands that show it."""
        (self.layers / f"{layer.hex}.losses").write_bytes(msgspec.json.encode(list(losses)))

    def find_losses(self, layer: Digest) -> list[str] | None:
        """What publication lost of a layer; None where that is not known."""
        try:
            return msgspec.json.decode((self.layers / f"{layer.hex}.losses").read_bytes(), type=list[str])
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def abandoned(self) -> list[Path]:
        """What a dead process was staging; only at the start is it surely dead."""
        return [path for place in (self.shims, self.layers) for path in place.glob(f"{_STAGING}*")]

    def unused(self, needed: Iterable[str]) -> list[Path]:
        """Shims whose key is not needed."""
        keys = set(needed)
        return [path for path in self.shims.iterdir() if path.name not in keys and not path.name.startswith(_STAGING)]


def _persist(directory: Path) -> None:
    """Brings what was made in a directory to the disk: a record that is committed later needs its shims."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(shim: Shim, base: bytes) -> None:
    """Makes the tree; metadata last and from the bottom up, for making an entry changes its directory's time."""
    for entry in shim.directories:
        if entry.path:
            os.mkdir(posixpath.join(base, entry.path), 0o700)
    try:
        for path in shim.whiteouts:
            os.mknod(posixpath.join(base, path), stat.S_IFCHR | 0o600, os.makedev(0, 0))
    except FileExistsError as error:
        raise DataLoss("marker", error.filename, "is a directory in the same layer") from None
    for entry, content in shim.files:
        path = posixpath.join(base, entry.path)
        with open(path, "xb") as file:
            file.write(content)
        _set_metadata(path, entry)
    for entry in reversed(shim.directories):
        _set_metadata(posixpath.join(base, entry.path) if entry.path else base, entry)


def _set_metadata(path: bytes, entry: Entry) -> None:
    status = os.lstat(path)
    if (entry.uid, entry.gid) != (status.st_uid, status.st_gid):
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    os.chmod(path, stat.S_IMODE(entry.mode))
    xattrs.write_all(path, entry.xattrs)
    os.utime(path, ns=(entry.mtime, entry.mtime))

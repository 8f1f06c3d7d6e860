"""Shims and outlines on the node's disk: written once, found again by what they hold, kept across restarts.

    <root>/shims/<key>      a shim's directory
    <root>/layers/<hex>.v1  a layer's outline, by the layer's digest

What a shim's directory holds is `cvmfsrepo/shimtree.py`'s business.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.outline import Outline
from cvmfsrepo.shims import Shim
from cvmfsrepo.shimtree import write_shim
from snapshotter.disk import persist, remove_tree

INODES_LIMIT = 100_000
"""What one shim may take of the disk's inodes."""

_STAGING = "new-"
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Outline).decode
_decode_losses = msgspec.json.Decoder(list[str]).decode


class ShimStore:
    """Shims and outlines below `root`."""

    def __init__(self, root: Path) -> None:
        self.shims, self.layers = root / "shims", root / "layers"

    def ensure(self, shim: Shim) -> str:
        """Writes a shim unless it is there; answers its key."""
        return self.ensure_all(shim)[0]

    def ensure_all(self, *shims: Shim) -> list[str]:
        """Writes those shims that are not there, and waits until they are on the disk; answers their keys."""
        keys = [shim.key.hex for shim in shims]
        missing = [(key, shim) for key, shim in zip(keys, shims, strict=True) if not (self.shims / key).is_dir()]
        for key, shim in missing:
            self._make(key, shim)
        if missing:
            persist(self.shims)
        return keys

    def _make(self, key: str, shim: Shim) -> None:
        target = self.shims / key
        if (inodes := len(shim.directories) + len(shim.whiteouts) + len(shim.files)) > INODES_LIMIT:
            raise DataLoss("shim", key, f"would take {inodes} inodes, and {INODES_LIMIT} are the limit")
        staged = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.shims))
        try:
            write_shim(shim, staged)
            os.rename(staged, target)
        except BaseException as error:
            remove_tree(staged)
            if not (isinstance(error, OSError) and target.is_dir()):  # another call wrote it meanwhile
                raise

    def find_outline(self, layer: Digest) -> Outline | None:
        """The outline that was kept for a layer; one that does not parse counts as none and is made again."""
        try:
            return _decode((self.layers / f"{layer.hex}.v1").read_bytes())
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def keep_outline(self, layer: Digest, outline: Outline) -> None:
        descriptor, staged = tempfile.mkstemp(prefix=_STAGING, dir=self.layers)
        try:
            with open(descriptor, "wb") as file:
                file.write(_encode(outline))
            os.rename(staged, self.layers / f"{layer.hex}.v1")
        except BaseException:
            os.unlink(staged)
            raise

    def keep_losses(self, layer: Digest, losses: Iterable[str]) -> None:
        """Keeps what publication lost of a layer, for the commands that show it."""
        (self.layers / f"{layer.hex}.losses").write_bytes(msgspec.json.encode(list(losses)))

    def find_losses(self, layer: Digest) -> list[str] | None:
        """What publication lost of a layer; None where that is not known."""
        try:
            return _decode_losses((self.layers / f"{layer.hex}.losses").read_bytes())
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def abandoned(self) -> list[Path]:
        """What a dead process was staging; only at the start is it surely dead."""
        return [path for place in (self.shims, self.layers) for path in place.glob(f"{_STAGING}*")]

    def unused(self, needed: Iterable[str]) -> list[Path]:
        """Shims whose key is not needed."""
        keys = set(needed)
        return [path for path in self.shims.iterdir() if path.name not in keys and not path.name.startswith(_STAGING)]

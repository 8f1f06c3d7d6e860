"""What a tree of our making was made from, in a small file of its own outside of the tree.

The tree itself shows nothing of it, so it can be compared with a pull's. A tree without a mark is somebody else's:
DUCC's lose setuid and sticky bits, and so nothing is ever made from one.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument
from cvmfsrepo.layout import Layout

_VERSION = 1
_LIMIT = 1 << 20
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Document(msgspec.Struct):
    version: int
    layers: tuple[str, ...]
    diff_ids: tuple[str, ...]
    entries: tuple[_Count, ...]
    apptainer: _Count = 0


_decode = msgspec.json.Decoder(_Document).decode


@dataclass(frozen=True, slots=True)
class Mark:
    """The layers of a tree, base first, with their diff ids and numbers of entries; `apptainer` is the version of the
    files in it that make it a container, 0 for a chain."""

    layers: tuple[Digest, ...]
    diff_ids: tuple[Digest, ...]
    entries: tuple[int, ...]
    apptainer: int = 0

    def encode(self) -> bytes:
        """The same mark always gives the same bytes."""
        layers, diff_ids = (tuple(map(str, digests)) for digests in (self.layers, self.diff_ids))
        return msgspec.json.encode(_Document(_VERSION, layers, diff_ids, self.entries, self.apptainer))

    @classmethod
    def parse(cls, content: bytes, thing: str) -> "Mark | None":
        """None for a version that this program does not know; DataLoss for what is no mark."""
        try:
            document = _decode(content)
            layers, diff_ids = (tuple(map(Digest.parse, d)) for d in (document.layers, document.diff_ids))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidArgument) as error:
            raise DataLoss("tree mark", thing, f"does not parse: {error}", "remove it") from None
        if not len(layers) == len(diff_ids) == len(document.entries):
            raise DataLoss("tree mark", thing, "has not as many diff ids and entries as layers", "remove it")
        known = document.version == _VERSION
        return cls(layers, diff_ids, document.entries, document.apptainer) if known else None


@dataclass(frozen=True, slots=True)
class Known:
    """A tree that is there: `config` is the image's for a flat tree, and None for a chain."""

    final: Path
    mark: Mark
    config: Digest | None = None


def walk_known(layout: Layout) -> Iterator[Known]:
    """The trees of our making, sorted: chains first. A mark whose tree is gone, or that is damaged, is passed over:
    then nothing is made from that tree."""
    for chain in _digests(layout.tree_marks / "chains"):
        if layout.chain(chain).is_dir() and (mark := _read(layout.chain_mark(chain))):
            yield Known(layout.chain(chain), mark)
    for config in _digests(layout.tree_marks / "flat"):
        if layout.flat(config).is_dir() and (mark := _read(layout.flat_mark(config))):
            yield Known(layout.flat(config), mark, config)


def _digests(directory: Path) -> Iterator[Digest]:
    for folder in _listed(directory):
        for name in _listed(directory / folder):
            with contextlib.suppress(InvalidArgument):
                yield Digest(name)


def _listed(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: Path) -> Mark | None:
    try:
        with path.open("rb") as file:
            return Mark.parse(file.read(_LIMIT), str(path))
    except (DataLoss, FileNotFoundError, IsADirectoryError):
        return None

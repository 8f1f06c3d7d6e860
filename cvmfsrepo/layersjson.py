"""DUCC's own word about a layer, `.metadata/layers.json` beside it: its diff id and the size of its tar. Nobody has
verified it."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from cvmfsrepo.contained import opened_file
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.layout import Layout

_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class LayersJson:
    """`tar_size` in bytes; None where the file does not tell."""

    diff_id: Digest | None
    tar_size: int | None


class _Entry(msgspec.Struct):
    diff_digest: str = msgspec.field(name="diff-digest", default="")
    diff_size: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] | None = msgspec.field(
        name="diff-size", default=None
    )


_decode = msgspec.json.Decoder(tuple[_Entry, ...]).decode


def find_layers_json(layout: Layout, digest: Digest) -> LayersJson | None:
    """What it says of a layer, None where there is none. DataLoss or InvalidArgument where it is damaged; OSError where
    the repository does not answer."""
    path = layout.layers_json(digest)
    try:
        with opened_file(layout.root, path) as file:
            content = file.read(_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(content) > _LIMIT:
        raise DataLoss("file", str(path), f"is larger than {_LIMIT} bytes")
    return parse_layers_json(content, str(path))


def parse_layers_json(content: bytes, path: str) -> LayersJson:
    """DataLoss or InvalidArgument, naming the file, where it does not tell of one layer."""
    try:
        entries = _decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataLoss("file", path, f"does not parse: {error}") from None
    if len(entries) != 1:
        raise DataLoss("file", path, f"tells of {len(entries)} layers")
    (entry,) = entries
    diff_id = Digest.parse(entry.diff_digest, f"diff id in {path}") if entry.diff_digest else None
    return LayersJson(diff_id, entry.diff_size)

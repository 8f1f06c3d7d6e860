"""All images and layers of a repository in one file, `.metadata/index.v1`: a node reads it instead of walking.

One zstd frame with a msgpack map, the fields of `Contents` (`zstd -dc index.v1 | msgpack2json -B` shows it). Digests
are 32 bytes. The file is written with each publication, and `revision` is the one that first shows it: in a repository
whose mounted revision is another, somebody else has published since, and the file is not the whole truth. A plain
directory has no revisions, and there the file proves nothing.

A reader refuses a version it does not know. Fields may be added at the end without a new version.
"""

import io
from typing import Annotated

import msgspec
import zstandard

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss

FORMAT = "cvmfs-image-index"
VERSION = 1
FILE_LIMIT = 64 << 20
"""Bytes of the file, and of what it may unpack to times four: a thousand images of twenty layers take some 200 KB."""
_UNPACKED_LIMIT = 4 * FILE_LIMIT
_LEVEL = 9

_Raw = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class ListedLayer(msgspec.Struct, frozen=True, array_like=True):
    """A layer: `size` are the bytes of its compressed blob, `tar_size` of its tar and `markers` its deletions and
    opaque directories, None where they are not known; `diff_id` likewise."""

    raw_digest: _Raw
    raw_diff_id: _Raw | None = None
    size: _Count | None = None
    tar_size: _Count | None = None
    markers: _Count | None = None

    @property
    def digest(self) -> Digest:
        return Digest(self.raw_digest.hex())

    @property
    def diff_id(self) -> Digest | None:
        return Digest(self.raw_diff_id.hex()) if self.raw_diff_id else None


class ListedImage(msgspec.Struct, frozen=True, array_like=True):
    """An image under its name, `layers` as numbers in `Contents.layers`, base first. `platform` is os/architecture, ""
    where it is not known; `manifest` the digest of the original manifest, where it is kept. `revision` and `published`
    (nanoseconds since 1970) tell when what stands under the name first came; None and 0 where nobody wrote it down."""

    reference: str
    raw_config: _Raw
    raw_manifest: _Raw | None
    platform: str
    layers: tuple[_Count, ...]
    revision: _Count | None = None
    published: _Count = 0

    @property
    def config(self) -> Digest:
        return Digest(self.raw_config.hex())

    @property
    def manifest(self) -> Digest | None:
        return Digest(self.raw_manifest.hex()) if self.raw_manifest else None


class Contents(msgspec.Struct, frozen=True):
    """Images sorted by reference; every layer once, in the order of their first use."""

    format: str
    version: int
    revision: _Count | None
    images: tuple[ListedImage, ...] = ()
    layers: tuple[ListedLayer, ...] = ()

    def encode(self) -> bytes:
        """The same contents always give the same bytes."""
        return zstandard.ZstdCompressor(level=_LEVEL).compress(msgspec.msgpack.encode(self))

    def layers_of(self, image: ListedImage) -> tuple[ListedLayer, ...]:
        return tuple(self.layers[number] for number in image.layers)


_decode = msgspec.msgpack.Decoder(Contents).decode


def decode_contents(content: bytes, thing: str) -> Contents:
    """DataLoss where the file is damaged, of another version, or tells of layers that it does not list."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)) as frame:
            unpacked = frame.read(_UNPACKED_LIMIT + 1)
        if len(unpacked) > _UNPACKED_LIMIT:
            raise DataLoss("index", thing, f"unpacks to more than {_UNPACKED_LIMIT} bytes")
        contents = _decode(unpacked)
    except (zstandard.ZstdError, msgspec.MsgspecError, RecursionError) as error:
        raise DataLoss("index", thing, f"is damaged: {error}", "publish anything: it is written anew") from None
    if (contents.format, contents.version) != (FORMAT, VERSION):
        raise DataLoss("index", thing, f"is {contents.format!r} of version {contents.version}, which is not known here")
    if any(number >= len(contents.layers) for image in contents.images for number in image.layers):
        raise DataLoss("index", thing, "tells of layers that it does not list")
    return contents

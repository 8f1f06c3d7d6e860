"""The two indices of a store, exactly as containers/storage reads and writes them.

`overlay-layers/layers.json` and `overlay-images/images.json` are arrays of these records, with the keys in
containers/storage's order and empty fields left out. `metadata` is a text that it keeps for whoever made the layer:
ours says what the layer's entry holds, so that a build sees which entries it has to make again without reading them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from cvmfsrepo.errors import DataLoss, FailedPrecondition

OVERLAY, LAYERS, IMAGES = "overlay", "overlay-layers", "overlay-images"
LAYERS_JSON, IMAGES_JSON = f"{LAYERS}/layers.json", f"{IMAGES}/images.json"
LAYERS_LOCK, IMAGES_LOCK = f"{LAYERS}/layers.lock", f"{IMAGES}/images.lock"

PODMANS_OWN = "storage.lock"
"""What a storage has that podman writes to."""

OURS = "cvmfs-podmanstore:"
"""What `metadata` begins with."""

UNKNOWN_TIME = "0001-01-01T00:00:00Z"
"""Go's zero time, which containers/storage takes for a time that nobody knows."""


class LayerRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A layer: `id`, `parent` hex digits, digests with their algorithm, sizes in bytes, `compression` its number."""

    id: str
    parent: str = ""
    metadata: str = ""
    created: str
    compressed_digest: str = msgspec.field(default="", name="compressed-diff-digest")
    compressed_size: int = msgspec.field(default=0, name="compressed-size")
    diff_digest: str = msgspec.field(default="", name="diff-digest")
    diff_size: int = msgspec.field(default=0, name="diff-size")
    compression: int = 0


class ImageRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An image: `digest` is its manifest's, `layer` the id of the topmost one; what it has of documents is in files
    that `ids.big_data_name` names."""

    id: str
    digest: str = ""
    names: tuple[str, ...] = ()
    layer: str = ""
    big_data_names: tuple[str, ...] = msgspec.field(default=(), name="big-data-names")
    big_data_sizes: dict[str, int] = msgspec.field(default_factory=dict, name="big-data-sizes")
    big_data_digests: dict[str, str] = msgspec.field(default_factory=dict, name="big-data-digests")
    created: str


Index = Sequence[LayerRecord] | Sequence[ImageRecord]
_Record = TypeVar("_Record", LayerRecord, ImageRecord)


def encode_index(records: Index) -> bytes:
    return msgspec.json.encode(records)


def read_layers(store: Path) -> tuple[LayerRecord, ...]:
    """What a store lists; nothing where there is no store yet. It is refused where somebody else made it."""
    if (store / PODMANS_OWN).exists():
        raise FailedPrecondition("store", str(store), "is podman's own storage", "name another directory")
    records = _read(store / LAYERS_JSON, _decode_layers)
    for record in records:
        if not record.metadata.startswith(OURS):
            problem = f"lists layer {record.id!r}, which this command did not make"
            raise FailedPrecondition("store", str(store), problem, "name another directory")
    return records


def read_images(store: Path) -> tuple[ImageRecord, ...]:
    """The images that a store lists; nothing where there is no store yet."""
    return _read(store / IMAGES_JSON, _decode_images)


_decode_layers = msgspec.json.Decoder(tuple[LayerRecord, ...]).decode
_decode_images = msgspec.json.Decoder(tuple[ImageRecord, ...]).decode


def _read(path: Path, parse: Callable[[bytes], tuple[_Record, ...]]) -> tuple[_Record, ...]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    try:
        return parse(content) if content else ()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        remedy = "remove it and build again; layers that no repository holds any more leave the store so"
        raise DataLoss("index", str(path), f"does not parse: {error}", remedy) from None

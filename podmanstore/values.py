"""What a store is made of: layers that the repository holds, and the images that stand on them.

The store's shape, which `plan.py` computes from these (ids are containers/image's, see `ids.py`):

    overlay/<F>/diff -> <layerfs>            F: a held layer by itself, without parent; found by its digests
    overlay/<N>/diff/                        N: a layer on its parent; its `diff` is the shim above the layer ...
    overlay/<N>/diff -> <layerfs>            ... or, where nothing in the layer needs to be hidden, the layer itself
    overlay/<W>/diff/                        W: a shim below a layer (deletions that the kernel does not see)
    overlay/<id>/link, lower, lower-layers   what stands below, topmost first: F, W, then the parent's
    overlay/l/<link> -> ../<id>/diff

So a mounted N is `hide : layer : white : hide of the parent : ...`, as on a containerd node, and none of it depends on
anything but documented files of containers/storage.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.shims import Shim


class Mount(StrEnum):
    """By which file system the users of a store mount their containers. The two read raw deletion markers
    differently, so a store that serves both leaves out what only one of them would show right."""

    KERNEL = "kernel"
    FUSE = "fuse-overlayfs"
    BOTH = "both"


class HeldLayer(msgspec.Struct, frozen=True):
    """A layer that the repository holds, and what must stand around it.

    `layer` and `diff_id` are hex digits; `target` the absolute path of its `layerfs` as the store's users see it;
    `size` the bytes of the blob, `tar_size` those of the tar (None where nobody recorded it); `compression`
    containers/storage's number (0 none, 1 bzip2, 2 gzip, 3 xz, 4 zstd); `tar_split` the absolute path of its tar-split
    file, empty where there is none. `own_catalogs` are the image's own files that are named like a catalog marker.
    """

    layer: str
    diff_id: str
    target: str
    size: int
    tar_size: int | None = None
    compression: int = 2
    hide: Shim | None = None
    white: Shim | None = None
    tar_split: str = ""
    own_catalogs: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class HeldImage:
    """An image whose every layer is held. `names` are full references, normalised and each with a tag or a digest;
    `manifest` is what its digest promises where `is_original`, and made from DUCC's copy otherwise; `indexes` are the
    original bytes of image indexes that led to it; `created` is RFC 3339; `id` is the digest of the config."""

    names: tuple[str, ...]
    manifest: bytes
    is_original: bool
    config: bytes
    layers: tuple[HeldLayer, ...]
    created: str
    indexes: tuple[bytes, ...] = ()
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", Digest.of(self.config).hex)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An image that the store does not list: `reason` says why, and what to do where something can be done."""

    name: str
    reason: str

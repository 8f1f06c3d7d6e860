"""What an image needs in a repository, and what of it is there: nothing is written here."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, FailedPrecondition, InvalidArgument
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Descriptor, Manifest, Reference, parse_config, parse_manifest
from cvmfsrepo.repository import Missing, Repository
from publisher import ducc
from publisher.publishing.form import Form, Order
from publisher.source import Source

_REBUILD = "the image is inconsistent: build it again"


@dataclass(frozen=True, slots=True)
class WantedLayer:
    """One layer of the image, and what its config promises of it."""

    blob: Descriptor
    diff_id: Digest

    @property
    def digest(self) -> Digest:
        return self.blob.digest


@dataclass(frozen=True, slots=True)
class WantedImage:
    """An image, its layers each once, base first, and which of them are `missing`, `present`, or `left`: there, but
    without a record of ours. `foreign` ones are not among them: no registry may hand them out. `origins` are the
    configs of the images that are known to use each layer."""

    order: Order
    reference: Reference
    manifest: Manifest
    layers: tuple[WantedLayer, ...]
    missing: tuple[WantedLayer, ...]
    present: tuple[WantedLayer, ...]
    left: tuple[WantedLayer, ...]
    foreign: tuple[Digest, ...]
    origins: Mapping[Digest, Sequence[str]]

    @property
    def source(self) -> Source:
        return self.order.source

    @classmethod
    def of(cls, order: Order, layout: Layout, form: Form) -> Self:
        """Looks at the repository. InvalidArgument for an image that can never be published; DataLoss and
        FailedPrecondition where what is there does not fit it."""
        reference, manifest = order.reference, parse_manifest(order.source.manifest)
        layers = tuple(_layers(manifest, order.source.config))
        there = [layer for layer in layers if _is_present(layout, layer)]
        left = [layer for layer in there if form.record and not layout.tree_record(layer.digest).exists()]
        return cls(
            order=order,
            reference=reference,
            manifest=manifest,
            layers=layers,
            missing=tuple(layer for layer in layers if layer not in there),
            present=tuple(layer for layer in there if layer not in left),
            left=tuple(left),
            foreign=tuple(dict.fromkeys(blob.digest for blob in manifest.layers if is_foreign(blob))),
            origins={layer.digest: ducc.read_origins(layout.origin_json(layer.digest)) for layer in layers},
        )


def _layers(manifest: Manifest, config: bytes) -> Iterator[WantedLayer]:
    """The layers of an image, each once, with the diff ids that the config gives them; foreign ones are left out."""
    diff_ids = parse_config(config).rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        problem = f"names {len(diff_ids)} diff ids for {len(manifest.layers)} layers"
        raise InvalidArgument("image config", str(manifest.config.digest), problem, _REBUILD)
    seen: dict[Digest, Digest] = {}
    for blob, diff_id in zip(manifest.layers, diff_ids, strict=True):
        if "+encrypted" in blob.mediatype:
            raise InvalidArgument("layer", str(blob.digest), "is encrypted", "publish the image before its encryption")
        if is_foreign(blob):
            continue
        if blob.digest not in seen:
            seen[blob.digest] = diff_id
            yield WantedLayer(blob, diff_id)
        elif seen[blob.digest] != diff_id:
            problem = f"stands twice in the image, with the diff ids {seen[blob.digest]} and {diff_id}"
            raise InvalidArgument("layer", str(blob.digest), problem, _REBUILD)


def is_foreign(blob: Descriptor) -> bool:
    """Whether a layer is one that registries do not hold, and whose licence may forbid copies: a node gets it from
    where its descriptor says."""
    return "nondistributable" in blob.mediatype or "foreign" in blob.mediatype


def _is_present(layout: Layout, layer: WantedLayer) -> bool:
    """Whether a layer needs no unpacking. A record that is damaged or tells of another tar is an error: an interrupted
    run leaves none, so somebody has to look."""
    repository = Repository(str(layout.root), layout)
    if not os.path.lexists(layout.layerfs(layer.digest)):
        return False
    found = repository.find_layer(layer.digest)
    if isinstance(found, Missing):
        remedy = "look at the disk; if the directory is of no use, remove it"
        raise FailedPrecondition("layer", str(layer.digest), f"is there and cannot be read: {found.detail}", remedy)
    head = repository.find_head(layer.digest)
    if head is not None and head.diff_id != layer.diff_id.hex:
        problem = f"is published with the diff id sha256:{head.diff_id}, and the image's config says {layer.diff_id}"
        raise DataLoss("layer", str(layer.digest), problem, _REBUILD)
    return True

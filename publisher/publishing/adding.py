"""What the images of a publication bring into the repository, beside their flat trees, and what leads readers there."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import diff_id_target
from cvmfsrepo.repository import Pointer
from publisher import ducc
from publisher.publishing.form import Form
from publisher.publishing.listing import contents_with, keeping_first, listed_of, read_listed
from publisher.publishing.wanted import WantedImage, WantedLayer
from publisher.source import Source
from publisher.transactions.collected import write_file
from publisher.transactions.contract import Transaction


def add(
    transaction: Transaction, images: Sequence[WantedImage], directories: Mapping[Digest, Path], form: Form
) -> None:
    """Everything that the images bring, and then what leads to them."""
    layout = transaction.layout
    new = {layer.digest: None for image in images for layer in image.missing}
    for digest, origins in _origins(images).items():
        if digest in new:
            write_file(directories[digest] / ".metadata" / "origin.json", ducc.origin_json(origins))
        else:
            transaction.add_file(ducc.origin_json(origins), layout.origin_json(digest))
    for digest in new:
        transaction.add(directories[digest], layout.layer(digest))
        if not form.as_ingested:
            transaction.cut_catalog(layout.layer(digest))  # not in layerfs: there it would be a file of every container
            transaction.cut_catalog(layout.metadata)
    for digest in {layer.digest: None for image in images for layer in image.left if layer.digest in directories}:
        _add_beside(transaction, digest, directories[digest] / ".metadata")
    for image in images:
        if form.record:
            left = [layer for layer in image.left if layer.digest not in directories]
            _add_links(transaction, [layer for layer in image.layers if layer not in left])
            _add_documents(transaction, image.source)
            _announce_pointer(transaction, image)
        transaction.announce_file(ducc.manifest_json(image.source.manifest), layout.manifest_json(image.reference))
    if form.record and images:
        _announce_index(transaction, images, directories)


def _origins(images: Iterable[WantedImage]) -> dict[Digest, list[str]]:
    """For each layer the images that use it, these among them."""
    origins = dict[Digest, list[str]]()
    for image in images:
        for layer in image.layers:
            known = origins.setdefault(layer.digest, list(image.origins[layer.digest]))
            if str(image.manifest.config.digest) not in known:
                known.append(str(image.manifest.config.digest))
    return origins


def _add_beside(transaction: Transaction, layer: Digest, staged: Path) -> None:
    """What a layer that was taken over gets: the tar-split first, for the record says that it is ours."""
    layout = transaction.layout
    for final in (layout.tar_split(layer), layout.tree_record(layer)):
        if (path := staged / final.name).exists():
            transaction.add(path, final)


def _add_links(transaction: Transaction, layers: list[WantedLayer]) -> None:
    for layer in layers:
        transaction.add_link(diff_id_target(layer.digest), transaction.layout.diff_id_link(layer.diff_id))


def _add_documents(transaction: Transaction, source: Source) -> None:
    """What the image was published from, byte for byte."""
    for document in (source.config, source.manifest, *source.indexes):
        transaction.add_file(document, transaction.layout.blob(Digest.of(document)))


def _announce_pointer(transaction: Transaction, image: WantedImage) -> None:
    pointer = Pointer(Digest.of(image.source.manifest), tuple(map(Digest.of, image.source.indexes)))
    transaction.announce_file(pointer.encode(), transaction.layout.image_pointer(image.reference))


def _announce_index(transaction: Transaction, images: Iterable[WantedImage], staged: Mapping[Digest, Path]) -> None:
    """The list of all images, for nodes."""
    layout, now = transaction.layout, time.time_ns()
    listed = read_listed(layout)
    for image in images:
        new = listed_of(image, layout, staged)
        listed[new.reference] = keeping_first(new, listed.get(new.reference))
    transaction.announce_made(lambda revision: contents_with(listed.values(), revision, now).encode(), layout.index)

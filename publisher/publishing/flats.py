"""The flat trees of a publication's images, from layers that are published and from those that are only staged yet."""

from collections.abc import Mapping
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, FailedPrecondition
from cvmfsrepo.repository import Repository
from cvmfsrepo.tree import Record, decode
from publisher.flat.flat import FlatImage, FlatReport, Flats
from publisher.flat.write import Sharing
from publisher.publishing.form import Terms
from publisher.publishing.wanted import WantedImage
from publisher.transactions.contract import Transaction
from publisher.unpacking.space import FreeSpace


def add_flats(
    transaction: Transaction, images: Mapping[int, WantedImage], staged: Mapping[Digest, Path], space: FreeSpace,
    terms: Terms,
) -> dict[int, FlatReport | ContractError]:  # fmt: skip
    """What became of the tree of each image, or why it cannot be made: then the image is published without. Nothing
    where no trees are wanted."""
    if not terms.flat:
        return {}
    layout, published = transaction.layout, Repository(str(transaction.layout.root), transaction.layout)

    def record(layer: Digest) -> Record | None:
        if layer not in staged:
            return published.find_record(layer)
        path = staged[layer] / ".metadata" / layout.tree_record(layer).name
        return decode(path.read_bytes(), str(path))

    def layerfs(layer: Digest) -> Path:
        inside = staged.get(layer, Path()) / "layerfs"
        return inside if layer in staged and inside.is_dir() else layout.layerfs(layer)

    sharing = Sharing.LINK if terms.linked else Sharing.COPY
    flats = Flats(transaction, record, layerfs, space, sharing, transaction.copies)
    return {number: _attempt(flats, image) for number, image in images.items()}


def _attempt(flats: Flats, image: WantedImage) -> FlatReport | ContractError:
    if image.foreign:
        problem = f"cannot be made: layer {image.foreign[0]} is foreign, and not in the repository"
        return FailedPrecondition("flat tree of image", str(image.reference), problem, "publish it without flat tree")
    layers = tuple(blob.digest for blob in image.manifest.layers)
    try:
        return flats.add(FlatImage(image.reference, image.source.config, layers))
    except ContractError as error:
        return error

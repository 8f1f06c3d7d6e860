"""Is what a repository holds of an image the image? Its source is read again, and held against every published byte.

Nothing is written into the repository. What every publication into CVMFS loses stands apart from faults: hard links
become files of their own.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.compare import Difference, compare
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from cvmfsrepo.layout import CATALOG_MARKER, Layout
from cvmfsrepo.repository import Repository
from cvmfsrepo.tree import Entry
from publisher.publishing.form import OURS, Order
from publisher.publishing.takeover import notation_of
from publisher.publishing.wanted import WantedImage, WantedLayer
from publisher.unpacking.space import FreeSpace
from publisher.unpacking.unpack import unpack


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as the image has it: `where` is a layer or a document, `problem` says what. One that
    `is_known` is lost by CVMFS in every publication."""

    where: str
    problem: str
    is_known: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


def verify(
    order: Order, layout: Layout, scratch: Path | None = None, layer_done: Callable[[Digest], object] = lambda _: None
) -> Iterator[Finding]:
    """Everything that differs; nothing where all is right. `scratch` is where one layer at a time is unpacked (a
    temporary directory by default); its disk is left full to the reserve at most. Errors of the source are raised."""
    repository = Repository(str(layout.root), layout)
    try:
        image = WantedImage.of(order, layout, OURS)
    except ContractError as error:
        yield Finding(str(order.reference), str(error))
        return
    yield from _documents(image, repository)
    for layer in image.missing:
        yield Finding(f"layer {layer.digest}", "is not published")
    for layer in (*image.present, *image.left):
        if layer in image.left:
            yield Finding(f"layer {layer.digest}", "has no record: take it over")
        yield from _layer(image, layer, repository, scratch)
        layer_done(layer.digest)


def _documents(image: WantedImage, repository: Repository) -> Iterator[Finding]:
    """The published name leads to this manifest, and the originals are kept."""
    wanted = Digest.of(image.source.manifest)
    try:
        pointer = repository.find_pointer(image.reference)
        if pointer is None:
            yield Finding("image.v1", "is not there: the original manifest is not known")
        elif pointer.manifest != wanted:
            yield Finding("image.v1", f"names the manifest {pointer.manifest}, and the source has {wanted}")
        published = repository.get_image(image.reference).manifest
        if published.config.digest != image.manifest.config.digest:
            yield Finding("manifest.json", f"is of another image, with the config {published.config.digest}")
    except ContractError as error:
        yield Finding(str(image.reference), str(error))
    for document in (image.source.config, image.source.manifest, *image.source.indexes):
        try:
            repository.get_blob(Digest.of(document))
        except ContractError as error:
            yield Finding(f"blob {Digest.of(document)}", str(error))


def _layer(image: WantedImage, layer: WantedLayer, repository: Repository, scratch: Path | None) -> Iterator[Finding]:
    published, head = repository.layout.layerfs(layer.digest), repository.find_head(layer.digest)
    where, notation = f"layer {layer.digest}", head.notation if head is not None else notation_of(published)
    with tempfile.TemporaryDirectory(prefix="cvmfs-publisher-", dir=scratch) as directory:
        original = Path(directory, "layerfs")
        original.mkdir()
        with image.source.open_blob(layer.blob) as raw:
            unpack(raw, layer.blob, layer.diff_id, original, notation, FreeSpace(original))
        for difference in compare(original, published, ignore=_is_marker):
            yield Finding(where, str(difference), _is_known(difference))


def _is_marker(entry: Entry, field: str) -> bool:
    """Whether it is the file with which another publisher cuts a nested catalog."""
    return field == "extra" and entry.path == CATALOG_MARKER.encode()


def _is_known(difference: Difference) -> bool:
    return difference.field == "hard-links" and not difference.found

"""How images get into a repository: the story, top to bottom.

What is there already is not touched, so a second run changes nothing, and one that was interrupted is finished by
running it again. Everything new is unpacked and verified before any of it is shown.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from cvmfsrepo.layout import Layout, diff_id_target
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Pointer
from publisher import ducc
from publisher.progress import Listener, Silent
from publisher.publishing.form import OURS, PLAINLY, Form, Order, Refused, Report, Terms
from publisher.publishing.listing import contents_with, keeping_first, listed_of, read_listed
from publisher.publishing.staging import Stage, Staged, failure_of
from publisher.publishing.wanted import WantedImage, WantedLayer
from publisher.source import Source
from publisher.transactions.contract import Target, Transaction
from publisher.transactions.directory import DirectoryTarget, write_file
from publisher.unpacking import asingested
from publisher.unpacking.space import FreeSpace


def publish_images(
    target: Target, orders: Sequence[Order], terms: Terms = PLAINLY, listener: Listener | None = None
) -> tuple[Report | Refused, ...]:
    """Publishes images in one publication; the outcome of each, in the order of the orders. An image that is refused
    keeps no other from being published. Errors of the repository itself are raised, and then nothing was published."""
    started, listener, outcomes = time.monotonic(), listener or Silent(), dict[int, Report | Refused]()
    with target.begin(terms.wait) as transaction:
        images, space = dict[int, WantedImage](), FreeSpace(target.layout.root, terms.reserve)
        for number, order in enumerate(orders):
            try:
                images[number] = WantedImage.of(order, target.layout, terms.form)
            except ContractError as error:
                outcomes[number] = Refused(order, error)
        staged = Stage(transaction, terms, space, listener).layers(images.values())
        for number, image in images.items():
            if (failure := failure_of(image, staged)) is not None:
                outcomes[number] = Refused(image.order, failure)
        complete = {number: image for number, image in images.items() if number not in outcomes}
        _add(transaction, [*complete.values()], staged, terms.form)
        transaction.show()
        if terms.form.as_ingested:
            _mark_catalogs(target.layout, terms.form, complete.values())
        for number, image in complete.items():
            outcomes[number] = _report(image, time.monotonic() - started, transaction.changed)
    return tuple(outcomes[number] for number in range(len(orders)))


def publish_image(
    source: Source,
    repository: Path,
    form: Form = OURS,
    name: Reference | None = None,
    *,
    listener: Listener | None = None,
    reserve: int | None = None,
    durable: bool = True,
) -> Report:
    """Publishes one image into a directory. Every error leaves the repository as it was; those of the source, of
    `unpack` and of `DirectoryTarget.begin` are passed on."""
    terms = Terms(form, reserve)
    (outcome,) = publish_images(DirectoryTarget.at(repository, durable), [Order(source, name)], terms, listener)
    if isinstance(outcome, Refused):
        raise outcome.error
    return outcome


def _add(transaction: Transaction, images: Sequence[WantedImage], staged: Staged, form: Form) -> None:
    """Everything that the images bring, and then what leads to them."""
    layout = transaction.layout
    directories = {digest: found for digest, found in staged.items() if isinstance(found, Path)}
    for digest, origins in _origins(images).items():
        if digest in directories:
            write_file(directories[digest] / ".metadata" / "origin.json", ducc.origin_json(origins))
        else:
            transaction.add_file(ducc.origin_json(origins), layout.origin_json(digest))
    for digest in {layer.digest: None for image in images for layer in image.missing}:
        transaction.add(directories[digest], layout.layer(digest))
    for image in images:
        if form.record:
            _add_links(transaction, [layer for layer in image.layers if layer not in image.left])
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


def _mark_catalogs(layout: Layout, form: Form, images: Iterable[WantedImage]) -> None:
    """DUCC cuts nested catalogs above the layers, too."""
    above = {layout.layer(layer.digest).parent for image in images for layer in image.layers}
    for directory in (layout.layers, *above):
        asingested.write_catalog_marker(directory, form.owner, time.time_ns())


def _report(image: WantedImage, seconds: float, changed: bool) -> Report:
    return Report(
        reference=image.reference,
        manifest=Digest.of(image.source.manifest),
        published=tuple(layer.digest for layer in image.missing),
        present=tuple(layer.digest for layer in image.present),
        left=tuple(layer.digest for layer in image.left),
        read=sum(layer.blob.size for layer in image.missing),
        seconds=seconds,
        changed=changed,
    )

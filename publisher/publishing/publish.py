"""How images get into a repository: the story, top to bottom.

What is there already is not touched, so a second run changes nothing, and one that was interrupted is finished by
running it again. Everything new is unpacked and verified before any of it is shown.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from publisher.flat.flat import FlatReport
from publisher.progress import Listener, Silent
from publisher.publishing.adding import add
from publisher.publishing.flats import add_flats
from publisher.publishing.form import OURS, PLAINLY, Form, Order, Refused, Report, Terms
from publisher.publishing.staging import Stage, failure_of
from publisher.publishing.wanted import WantedImage, WantedLayer
from publisher.source import Source
from publisher.telling.events import Action, Event
from publisher.telling.teller import Teller
from publisher.transactions.contract import Target
from publisher.transactions.directory import DirectoryTarget
from publisher.unpacking import asingested
from publisher.unpacking.space import FreeSpace


def publish_images(
    target: Target, orders: Sequence[Order], terms: Terms = PLAINLY, listener: Listener | None = None
) -> tuple[Report | Refused, ...]:
    """Publishes images in one publication; the outcome of each, in the order of the orders. An image that is refused
    keeps no other from being published. Errors of the repository itself are raised, and then nothing was published."""
    started, listener, outcomes = time.monotonic(), listener or Silent(), dict[int, Report | Refused]()
    with target.begin(terms.wait, terms.stopped) as transaction:
        images, space = dict[int, WantedImage](), FreeSpace(transaction.staging, terms.reserve)
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
        directories = {digest: found for digest, found in staged.items() if isinstance(found, Path)}
        add(transaction, [*complete.values()], directories, terms.form)
        flats = add_flats(transaction, complete, directories, space, terms)
        transaction.show()
        if terms.form.as_ingested:
            _mark_catalogs(target.layout, terms.form, complete.values())
        for number, image in complete.items():
            taken = [layer for layer in image.left if layer.digest in directories]
            seconds = time.monotonic() - started
            outcomes[number] = _report(image, taken, seconds, transaction.changed, flats.get(number))
    for outcome in outcomes.values():
        _tell(terms.teller, outcome)
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


def _tell(teller: Teller, outcome: Report | Refused) -> None:
    """What readers see from now on, or why they do not."""
    if isinstance(outcome, Refused):
        name = str(outcome.order.name or outcome.order.source.reference or outcome.order.source.text)
        teller.tell(Event(action=Action.PUBLISH_LAYER, image=name, status="error", error=str(outcome.error)))
        return
    for layer in outcome.published:
        teller.tell(Event(action=Action.PUBLISH_LAYER, image=str(outcome.reference), layer=str(layer), status="ok"))
    if outcome.flat == "made" or outcome.problem:
        status = "error" if outcome.problem else "ok"
        image, problem = str(outcome.reference), outcome.problem
        teller.tell(Event(action=Action.PUBLISH_FLAT, image=image, status=status, error=problem))


def _mark_catalogs(layout: Layout, form: Form, images: Iterable[WantedImage]) -> None:
    """DUCC cuts nested catalogs above the layers, too."""
    above = {layout.layer(layer.digest).parent for image in images for layer in image.layers}
    for directory in (layout.layers, *above):
        asingested.write_catalog_marker(directory, form.owner, time.time_ns())


def _report(
    image: WantedImage, taken: Sequence[WantedLayer], seconds: float, changed: bool,
    flat: FlatReport | ContractError | None,
) -> Report:  # fmt: skip
    return Report(
        reference=image.reference,
        manifest=Digest.of(image.source.manifest),
        published=tuple(layer.digest for layer in image.missing),
        present=tuple(layer.digest for layer in image.present),
        left=tuple(layer.digest for layer in image.left if layer not in taken),
        taken=tuple(layer.digest for layer in taken),
        foreign=image.foreign,
        read=sum(layer.blob.size for layer in (*image.missing, *taken)),
        seconds=seconds,
        changed=changed,
        flat=flat.state.value if isinstance(flat, FlatReport) else "",
        error=flat if isinstance(flat, ContractError) else None,
    )

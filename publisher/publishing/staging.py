"""Missing layers -> their directories in the staging area, several at a time, each verified."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cvmfsrepo.access import Access
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, Unavailable
from cvmfsrepo.oci import Descriptor
from cvmfsrepo.tree import Notation, encode, make_record
from publisher import ducc
from publisher.progress import Listener
from publisher.publishing.form import Terms
from publisher.publishing.takeover import keep_record, notation_of, record_of
from publisher.publishing.wanted import WantedImage, WantedLayer
from publisher.telling.events import Action, Event
from publisher.transactions.collected import make_directories, write_file
from publisher.transactions.contract import Transaction
from publisher.unpacking import asingested
from publisher.unpacking.space import FreeSpace
from publisher.unpacking.unpack import Unpacked, unpack

_FOR_EVER = threading.TIMEOUT_MAX / 2
"""Seconds: a registry that hangs is told by its own deadlines."""

Staged = Mapping[Digest, Path | ContractError]
"""For each layer its directory, or why there is none."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where layers are unpacked, and how."""

    transaction: Transaction
    terms: Terms
    space: FreeSpace
    listener: Listener
    stopped: threading.Event = field(default_factory=threading.Event)

    def layers(self, images: Iterable[WantedImage]) -> Staged:
        """Unpacks what the images miss, each layer once, `terms.workers` at a time; with `terms.take_over` also reads
        what another publisher left, and of these stages the records alone."""
        work = dict[Digest, Callable[[], Path | ContractError]]()
        blobs = list[Descriptor]()
        for image in images:
            for layer in (*image.missing, *(image.left if self.terms.take_over else ())):
                if layer.digest not in work:
                    make = self._layer if layer in image.missing else self._record
                    work[layer.digest] = partial(self._attempt, image, layer, make)
                    blobs.append(layer.blob)
        self.listener.begin(len(work), sum(blob.size for blob in blobs))
        side_by_side = Access(workers=max(1, self.terms.workers))
        try:
            answers = side_by_side.call_all([*work.values()], time.monotonic() + _FOR_EVER)
            return {digest: answer() for digest, answer in zip(work, answers, strict=True)}
        except BaseException:
            self.stopped.set()
            raise

    def _attempt(
        self, image: WantedImage, layer: WantedLayer, make: Callable[[WantedImage, WantedLayer], Path]
    ) -> Path | ContractError:
        """The layer, and what is told of it."""
        begun = Event(action=Action.START_LAYER, image=str(image.reference), layer=str(layer.digest))
        started, teller = time.monotonic(), self.terms.teller
        teller.tell(begun)
        try:
            made: Path | ContractError = make(image, layer)
        except ContractError as error:
            made = error
        teller.tell(
            Event(
                action=Action.END_LAYER, id=begun.id, image=begun.image, layer=begun.layer, size=layer.blob.size,
                elapsed=time.monotonic() - started, status="error" if isinstance(made, ContractError) else "ok",
                error=str(made) if isinstance(made, ContractError) else "",
            )
        )  # fmt: skip
        return made

    def _advance(self, count: int) -> None:
        """Layers that nobody waits for any more end at their next bytes."""
        if self.stopped.is_set():
            raise Unavailable("publication", str(self.transaction.layout.root), "was given up", "run it again")
        self.listener.advance(count)

    def _layer(self, image: WantedImage, layer: WantedLayer) -> Path:
        """A layer's whole directory, with what DUCC and we keep beside it."""
        form, record_name = self.terms.form, self.transaction.layout.tree_record(layer.digest).name
        staged, unpacked = self._unpacked(image, layer, form.notation)
        layerfs, metadata = staged / "layerfs", staged / ".metadata"
        added = asingested.ingest(layerfs, unpacked.entries, form.owner, time.time_ns()) if form.as_ingested else ()
        if form.layers_json:
            write_file(metadata / "layers.json", ducc.layers_json(layer.digest, layer.diff_id, unpacked.tar_size))
        if form.record:
            record = make_record(layer.digest, layer.diff_id, form.notation, unpacked.entries, unpacked.markers, added)
            write_file(metadata / record_name, encode(record))
        return staged

    def _record(self, image: WantedImage, layer: WantedLayer) -> Path:
        """What is added to a layer that another publisher left."""
        layout, published = self.transaction.layout, self.transaction.layout.layerfs(layer.digest)
        notation = notation_of(published)
        staged, unpacked = self._unpacked(image, layer, notation)
        record = record_of(layer, notation, unpacked.entries, unpacked.markers, published)
        keep_record(staged, layout.tree_record(layer.digest).name, record)
        return staged

    def _unpacked(self, image: WantedImage, layer: WantedLayer, notation: Notation) -> tuple[Path, Unpacked]:
        staged, form, layout = self.transaction.stage(), self.terms.form, self.transaction.layout
        make_directories(staged / ".metadata", staged.parent)
        make_directories(staged / "layerfs", staged.parent)
        split = staged / ".metadata" / layout.tar_split(layer.digest).name
        with image.source.open_blob(layer.blob) as raw:
            unpacked = unpack(
                raw, layer.blob, layer.diff_id, staged / "layerfs", notation, self.space, self._advance,
                split if form.record and not form.as_ingested else None,
            )  # fmt: skip
        self.listener.layer_done()
        return staged, unpacked


def failure_of(image: WantedImage, staged: Staged) -> ContractError | None:
    """Why an image cannot be published, if it cannot."""
    return next(_failures(image, staged), None)


def _failures(image: WantedImage, staged: Staged) -> Iterator[ContractError]:
    for layer in (*image.missing, *image.left):
        found = staged.get(layer.digest)
        if isinstance(found, ContractError):
            yield found

"""Missing layers -> their directories in the staging area, several at a time, each verified."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cvmfsrepo.access import Access
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, Unavailable
from cvmfsrepo.tree import encode, make_record
from publisher import ducc
from publisher.progress import Listener
from publisher.publishing.form import Terms
from publisher.publishing.wanted import WantedImage, WantedLayer
from publisher.transactions.contract import Transaction
from publisher.transactions.directory import make_directories, write_file
from publisher.unpacking import asingested
from publisher.unpacking.space import FreeSpace
from publisher.unpacking.unpack import unpack

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
        """Unpacks what the images miss, each layer once, `terms.workers` at a time."""
        wanted = {layer.digest: (image, layer) for image in images for layer in image.missing}
        self.listener.begin(len(wanted), sum(layer.blob.size for _, layer in wanted.values()))
        side_by_side = Access(workers=max(1, self.terms.workers))
        try:
            attempts = [partial(self._attempt, image, layer) for image, layer in wanted.values()]
            answers = side_by_side.call_all(attempts, time.monotonic() + _FOR_EVER)
            return {digest: answer() for digest, answer in zip(wanted, answers, strict=True)}
        except BaseException:
            self.stopped.set()
            raise

    def _attempt(self, image: WantedImage, layer: WantedLayer) -> Path | ContractError:
        try:
            return self._layer(image, layer)
        except ContractError as error:
            return error

    def _advance(self, count: int) -> None:
        """Layers that nobody waits for any more end at their next bytes."""
        if self.stopped.is_set():
            raise Unavailable("publication", str(self.transaction.layout.root), "was given up", "run it again")
        self.listener.advance(count)

    def _layer(self, image: WantedImage, layer: WantedLayer) -> Path:
        """A layer's whole directory, with what DUCC and we keep beside it."""
        staged, form, layout = self.transaction.stage(), self.terms.form, self.transaction.layout
        layerfs, metadata = staged / "layerfs", staged / ".metadata"
        make_directories(metadata, staged.parent)
        make_directories(layerfs, staged.parent)
        with image.source.open_blob(layer.blob) as raw:
            unpacked = unpack(
                raw, layer.blob, layer.diff_id, layerfs, form.notation, self.space, self._advance,
                metadata / layout.tar_split(layer.digest).name if form.record and not form.as_ingested else None,
            )  # fmt: skip
        added = asingested.ingest(layerfs, unpacked.entries, form.owner, time.time_ns()) if form.as_ingested else ()
        if form.layers_json:
            write_file(metadata / "layers.json", ducc.layers_json(layer.digest, layer.diff_id, unpacked.tar_size))
        if form.record:
            record = make_record(layer.digest, layer.diff_id, form.notation, unpacked.entries, unpacked.markers, added)
            write_file(metadata / layout.tree_record(layer.digest).name, encode(record))
        self.listener.layer_done()
        return staged


def failure_of(image: WantedImage, staged: Staged) -> ContractError | None:
    """Why an image cannot be published, if it cannot."""
    return next(_failures(image, staged), None)


def _failures(image: WantedImage, staged: Staged) -> Iterator[ContractError]:
    for layer in image.missing:
        found = staged[layer.digest]
        if isinstance(found, ContractError):
            yield found

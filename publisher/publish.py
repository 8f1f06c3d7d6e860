"""How an image gets into a repository: the story, top to bottom.

What is there already is not touched, so a second run changes nothing, and one that was interrupted is finished by
running it again. Everything new is unpacked and verified before any of it is shown.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, FailedPrecondition, InvalidArgument
from cvmfsrepo.layout import Layout, diff_id_target
from cvmfsrepo.oci import Descriptor, Manifest, Reference, parse_config, parse_manifest
from cvmfsrepo.repository import Missing, Pointer, Repository
from cvmfsrepo.tree import Notation, encode, make_record
from publisher import ducc
from publisher.progress import Listener, Silent
from publisher.source import Source
from publisher.transactions.directory import Transaction, begin, make_directories, write_file
from publisher.unpacking import asingested
from publisher.unpacking.space import FreeSpace
from publisher.unpacking.unpack import unpack

_REBUILD = "the image is inconsistent: build it again"


@dataclass(frozen=True, slots=True)
class Form:
    """How the repository is written. The defaults are this project's; the others are for tests against what DUCC
    leaves: `as_ingested` takes from a raw layer what an ingest loses, without `record` there is nothing that
    DUCC does not write, without `layers_json` not even DUCC's own file."""

    notation: Notation = Notation.OVERLAY
    as_ingested: bool = False
    owner: tuple[int, int] = asingested.OWNER
    record: bool = True
    layers_json: bool = True

    def __post_init__(self) -> None:
        if self.as_ingested and self.notation is not Notation.OCI:
            raise InvalidArgument(
                "whiteouts", str(self.notation), "cannot be as ingested, for an ingest keeps the raw names",
                "use the notation oci",
            )  # fmt: skip


OURS = Form()


@dataclass(frozen=True, slots=True)
class Report:
    """What a publication did: digests of the layers that it `published`, that were `present`, and that are there
    without a record of ours and were `left` as they are; compressed `read` bytes, and `changed` if anything was."""

    reference: Reference
    manifest: Digest
    published: tuple[Digest, ...]
    present: tuple[Digest, ...]
    left: tuple[Digest, ...]
    read: int
    seconds: float
    changed: bool


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One layer of the image, and what its config promises of it."""

    blob: Descriptor
    diff_id: Digest

    @property
    def digest(self) -> Digest:
        return self.blob.digest


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
    """Publishes an image into a repository's directory under `name`, or else under the source's own reference.

    `reserve` bytes of the file system stay free; `durable=False` does not wait for the disk. Every error leaves the
    repository as it was; those of the source, of `unpack` and of `begin` are passed on.
    """
    started, listener = time.monotonic(), listener or Silent()
    reference = name or _own_name(source)
    layout, manifest = Layout(repository), parse_manifest(source.manifest)
    layers = list(_layers(manifest, source.config))
    with begin(layout, durable) as transaction:
        present = [layer for layer in layers if _is_present(layout, layer)]
        left = [layer.digest for layer in present if form.record and not layout.tree_record(layer.digest).exists()]
        missing = [layer for layer in layers if layer not in present]
        listener.begin(len(missing), sum(layer.blob.size for layer in missing))
        space = FreeSpace(repository, reserve)
        staged = [_stage(transaction, source, manifest, layer, layout, form, space, listener) for layer in missing]
        for layer, directory in zip(missing, staged, strict=True):
            transaction.add(directory, layout.layer(layer.digest))
        _add_origins(transaction, layout, present, manifest.config.digest)
        if form.record:
            _add_links(transaction, layout, [layer for layer in layers if layer.digest not in left])
            _add_documents(transaction, layout, source, reference)
        transaction.add_file(ducc.manifest_json(source.manifest), layout.manifest_json(reference))
        transaction.show()
        if form.as_ingested:
            _mark_catalogs(layout, form, layers)
    return Report(
        reference=reference,
        manifest=Digest.of(source.manifest),
        published=tuple(layer.digest for layer in missing),
        present=tuple(layer.digest for layer in present if layer.digest not in left),
        left=tuple(left),
        read=sum(layer.blob.size for layer in missing),
        seconds=time.monotonic() - started,
        changed=transaction.changed,
    )


def _own_name(source: Source) -> Reference:
    if source.reference is None:
        raise InvalidArgument(
            "source", source.text, "does not say under which name to publish its image",
            "give --name HOST/NAME:TAG, or copy the image with such a name as its REF",
        )  # fmt: skip
    return source.reference


def _layers(manifest: Manifest, config: bytes) -> Iterator[_Wanted]:
    """The layers of an image, each once, with the diff ids that the config gives them."""
    diff_ids = parse_config(config).rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        problem = f"names {len(diff_ids)} diff ids for {len(manifest.layers)} layers"
        raise InvalidArgument("image config", str(manifest.config.digest), problem, _REBUILD)
    seen: dict[Digest, Digest] = {}
    for blob, diff_id in zip(manifest.layers, diff_ids, strict=True):
        _check_kind(blob)
        if blob.digest not in seen:
            seen[blob.digest] = diff_id
            yield _Wanted(blob, diff_id)
        elif seen[blob.digest] != diff_id:
            problem = f"stands twice in the image, with the diff ids {seen[blob.digest]} and {diff_id}"
            raise InvalidArgument("layer", str(blob.digest), problem, _REBUILD)


def _check_kind(blob: Descriptor) -> None:
    """Refuses layers that no registry may hand out, and encrypted ones."""
    if "nondistributable" in blob.mediatype or "foreign" in blob.mediatype:
        problem = f"is a foreign layer ({blob.mediatype}): registries do not hold it, and its licence may forbid copies"
        raise InvalidArgument("layer", str(blob.digest), problem, "publish an image without foreign layers")
    if "+encrypted" in blob.mediatype:
        raise InvalidArgument("layer", str(blob.digest), "is encrypted", "publish the image before its encryption")


def _is_present(layout: Layout, layer: _Wanted) -> bool:
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


def _stage(
    transaction: Transaction, source: Source, manifest: Manifest, layer: _Wanted, layout: Layout, form: Form,
    space: FreeSpace, listener: Listener,
) -> Path:  # fmt: skip
    """A layer's whole directory in the staging area, with what DUCC and we keep beside it."""
    staged = transaction.stage()
    layerfs, metadata = staged / "layerfs", staged / ".metadata"
    make_directories(metadata, staged.parent)
    make_directories(layerfs, staged.parent)
    with source.open_blob(layer.blob) as raw:
        unpacked = unpack(
            raw, layer.blob, layer.diff_id, layerfs, form.notation, space, listener.advance,
            metadata / layout.tar_split(layer.digest).name if form.record and not form.as_ingested else None,
        )  # fmt: skip
    added = asingested.ingest(layerfs, unpacked.entries, form.owner, time.time_ns()) if form.as_ingested else ()
    if form.layers_json:
        write_file(metadata / "layers.json", ducc.layers_json(layer.digest, layer.diff_id, unpacked.tar_size))
    origins = ducc.read_origins(layout.origin_json(layer.digest))
    write_file(metadata / "origin.json", ducc.origin_json(_with(origins, manifest.config.digest)))
    if form.record:
        record = make_record(layer.digest, layer.diff_id, form.notation, unpacked.entries, unpacked.markers, added)
        write_file(metadata / layout.tree_record(layer.digest).name, encode(record))
    listener.layer_done()
    return staged


def _mark_catalogs(layout: Layout, form: Form, layers: list[_Wanted]) -> None:
    """DUCC cuts nested catalogs above the layers, too."""
    for directory in (layout.layers, *(layout.layer(layer.digest).parent for layer in layers)):
        asingested.write_catalog_marker(directory, form.owner, time.time_ns())


def _add_links(transaction: Transaction, layout: Layout, layers: list[_Wanted]) -> None:
    for layer in layers:
        transaction.add_link(diff_id_target(layer.digest), layout.diff_id_link(layer.diff_id))


def _add_documents(transaction: Transaction, layout: Layout, source: Source, reference: Reference) -> None:
    """What the image was published from, byte for byte, and then the pointer that leads there."""
    for document in (source.config, source.manifest, *source.indexes):
        transaction.add_file(document, layout.blob(Digest.of(document)))
    pointer = Pointer(Digest.of(source.manifest), tuple(map(Digest.of, source.indexes)))
    transaction.add_file(pointer.encode(), layout.image_pointer(reference))


def _add_origins(transaction: Transaction, layout: Layout, layers: list[_Wanted], config: Digest) -> None:
    """Says in the layers that were there that this image uses them, too."""
    for layer in layers:
        path = layout.origin_json(layer.digest)
        origins = ducc.read_origins(path)
        if str(config) not in origins:
            transaction.add_file(ducc.origin_json(_with(origins, config)), path)


def _with(origins: list[str], config: Digest) -> list[str]:
    return [*origins, *({str(config)} - set(origins))]

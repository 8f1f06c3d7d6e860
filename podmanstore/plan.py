"""Held images -> everything that a store holds, to the byte. Pure.

Layers that a store lists stay listed, for users' own images may stand on them; an image that is gone does not. Input
in any order gives the same plan: where two want the same name, the choice depends on what they are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import Internal
from podmanstore.ids import big_data_name, chain_ids, held_id, link_name
from podmanstore.records import ImageRecord, LayerRecord, encode_index
from podmanstore.stacks import Entry, Node, Stacks, Surrounded
from podmanstore.values import HeldImage, HeldLayer, LeftOut

STACK_LIMIT = 500
"""Directories that overlayfs stacks, and that podman 5 looks at."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a store holds. `layers` may list more than `entries` makes: those that were there and stay as they are.
    `documents` are each image's files by name, by its id; `left_out` says what is not served, and why."""

    entries: tuple[Entry, ...]
    layers: tuple[LayerRecord, ...]
    images: tuple[ImageRecord, ...]
    documents: Mapping[str, Mapping[str, bytes]]
    left_out: tuple[LeftOut, ...]

    @property
    def layers_json(self) -> bytes:
        return encode_index(self.layers)

    @property
    def images_json(self) -> bytes:
        return encode_index(self.images)


def plan(images: Iterable[HeldImage], listed: Iterable[LayerRecord] = (), layers_only: bool = False) -> Plan:
    """The store of these images, where `listed` are the layers that it lists already.

    An image that would show a wrong tree is left out with its layers. Several names of one config are one image; of
    two images with one name the newer has it. `layers_only` lists no images: pulls find layers without.
    """
    before = {record.id: record for record in listed}
    every = list(images)
    held = _chosen_layers(every)
    served, left_out = _served(every, held)
    stacks = Stacks()
    for digest in {layer.layer for image in served for layer in image.layers}:
        stacks.hold(held[digest])
    for node in _chosen_nodes(served, held, before):
        stacks.add(node)
    entries = tuple(stacks.entries())
    check_links({*before, *(entry.id for entry in entries)})
    names, nameless = _names(served)
    described = {} if layers_only else _described(served, names)
    return Plan(
        entries=entries,
        layers=_in_order({**before, **{record.id: record for record in stacks.records()}}),
        images=tuple(record for record, _ in described.values()),
        documents={identity: documents for identity, (_, documents) in described.items()},
        left_out=tuple(sorted({*left_out, *([] if layers_only else nameless)}, key=lambda out: (out.name, out.reason))),
    )


def _chosen_layers(images: Iterable[HeldImage]) -> dict[str, Surrounded]:
    """One held layer per digest, whoever holds it."""
    chosen: dict[str, HeldLayer] = {}
    for image in images:
        for layer in image.layers:
            known = chosen.setdefault(layer.layer, layer)
            if known is not layer and known != layer:
                chosen[layer.layer] = min(known, layer, key=_in_bytes)
    keys = _keys(chosen.values())
    return {
        digest: Surrounded(layer, keys.get(id(layer.hide), ""), keys.get(id(layer.white), ""))
        for digest, layer in chosen.items()
    }


def _keys(layers: Iterable[HeldLayer]) -> dict[int, str]:
    """The key of each shim, by its identity: to compute one is slow, and thousands of layers have the same."""
    shims = {id(shim): shim for layer in layers for shim in (layer.hide, layer.white) if shim is not None}
    return {identity: shim.key.hex for identity, shim in shims.items()}


def _in_bytes(layer: HeldLayer) -> bytes:
    return msgspec.msgpack.encode(layer, order="deterministic")


def _served(images: Iterable[HeldImage], held: Mapping[str, Surrounded]) -> tuple[list[HeldImage], list[LeftOut]]:
    """The images that are shown right, in an order that depends on nothing but them: of several manifests of a config
    an original one comes first."""
    served, left_out = [], []
    for image in images:
        if reason := _problem([held[layer.layer] for layer in image.layers]):
            left_out += [LeftOut(name, reason) for name in image.names]
        else:
            served.append(image)
    return sorted(served, key=lambda image: (image.id, not image.is_original, image.manifest, image.created)), left_out


def _problem(layers: Sequence[Surrounded]) -> str:
    """Why a stack of layers would show a wrong tree or none at all, or nothing."""
    own: set[bytes] = set()
    contents: set[str] = set()
    for held in layers:
        hidden = own.intersection(held.layer.hide.whiteouts) if own and held.layer.hide else None
        if hidden:
            path = min(hidden).decode(errors="backslashreplace")
            return f"layer sha256:{held.digest} hides the repository's {path!r}; a layer below has its own: rename it"
        own.update(held.layer.own_catalogs)
        contents.update(held.contents(""))
    if len(contents) > STACK_LIMIT:
        return f"is a stack of {len(contents)} directories, and overlayfs takes {STACK_LIMIT}; squash its layers"
    return ""


def _chosen_nodes(
    images: Iterable[HeldImage], held: Mapping[str, Surrounded], before: Mapping[str, LayerRecord]
) -> list[Node]:
    """One layer per id, parents first. Images that compress one layer differently give it the same id: the layer that
    is listed stays, else the smallest digest has it."""
    nodes: dict[str, Node] = {}
    for image in images:
        ids = chain_ids(layer.diff_id for layer in image.layers)
        for depth, (identity, layer) in enumerate(zip(ids, image.layers, strict=True)):
            known = nodes.get(identity)
            if known is None or _precedes(layer.layer, known.layer.digest, before.get(identity)):
                nodes[identity] = Node(identity, ids[depth - 1] if depth else "", depth, held[layer.layer])
    return sorted(nodes.values(), key=lambda node: (node.depth, node.id))


def _precedes(digest: str, other: str, listed: LayerRecord | None) -> bool:
    was = listed.compressed_digest.removeprefix("sha256:") if listed else ""
    return (digest != was, digest) < (other != was, other)


def check_links(ids: Iterable[str]) -> None:
    """Refuses two ids with one link name: 50 bits make that a thing of one store in a million."""
    owners: dict[str, str] = {}
    for identity in sorted(ids):
        if (other := owners.setdefault(link_name(identity), identity)) != identity:
            raise Internal("link name", link_name(identity), f"is that of layer {other} and of {identity}", "report it")


def _names(images: Iterable[HeldImage]) -> tuple[dict[str, list[str]], list[LeftOut]]:
    """The names of each image id, sorted. podman refuses a whole store with one name on two images."""
    claims: dict[str, list[HeldImage]] = {}
    for image in images:
        for name in image.names:
            claims.setdefault(name, []).append(image)
    names: dict[str, list[str]] = {image.id: [] for image in images}
    nameless = []
    for name, claiming in sorted(claims.items()):
        others = {image.id: image for image in claiming}
        newest = max(others.values(), key=_age) if len(others) > 1 else claiming[0]
        del others[newest.id]
        names[newest.id].append(name)
        reason = f"is also the name of image {newest.id[:12]}, which is newer and has it"
        nameless += [LeftOut(name, f"{reason}; this one is listed as {other}") for other in others]
    return names, nameless


def _described(
    images: Iterable[HeldImage], names: Mapping[str, Sequence[str]]
) -> dict[str, tuple[ImageRecord, dict[str, bytes]]]:
    groups: dict[str, list[HeldImage]] = {}
    for image in images:
        groups.setdefault(image.id, []).append(image)
    return {identity: _image(group, tuple(names[identity])) for identity, group in groups.items()}


def _image(group: Sequence[HeldImage], names: tuple[str, ...]) -> tuple[ImageRecord, dict[str, bytes]]:
    """An image's record and documents. It is found by the digest of each of its manifests and indexes."""
    first = group[0]
    originals = [image.manifest for image in group if image.is_original]
    documents = {"manifest": first.manifest, f"sha256:{first.id}": first.config}
    for manifest in (first.manifest, *originals, *(index for image in group for index in image.indexes)):
        documents[f"manifest-{Digest.of(manifest)}"] = manifest
    ids = chain_ids(layer.diff_id for layer in first.layers)
    record = ImageRecord(
        id=first.id,
        digest=str(Digest.of(first.manifest)),
        names=names,
        layer=ids[-1] if ids else "",
        big_data_names=tuple(sorted(documents)),
        big_data_sizes={key: len(content) for key, content in sorted(documents.items())},
        big_data_digests={key: str(Digest.of(content)) for key, content in sorted(documents.items())},
        created=first.created,
    )
    return record, {big_data_name(key): content for key, content in sorted(documents.items())}


def _age(image: HeldImage) -> tuple[datetime, str]:
    moment = datetime.fromisoformat(image.created)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC), image.id


def _in_order(records: Mapping[str, LayerRecord]) -> tuple[LayerRecord, ...]:
    """Layers by themselves first, for containers/storage takes the first one with the digest that it looks for: what
    is copied from there has the layer's own markers. Then the others, parents first."""
    depths: dict[str, int] = {}

    def place(record: LayerRecord) -> tuple[int, str]:
        alone = record.id == held_id(record.compressed_digest.removeprefix("sha256:"))
        return -1 if alone else _depth(record, records, depths), record.id

    return tuple(sorted(records.values(), key=place))


def _depth(record: LayerRecord, records: Mapping[str, LayerRecord], depths: dict[str, int]) -> int:
    """How many layers are below; `depths` are those that are known."""
    chain = [record]
    while chain[-1].id not in depths and chain[-1].parent in records and len(chain) <= len(records):
        chain.append(records[chain[-1].parent])
    for each in reversed(chain):
        depths.setdefault(each.id, depths.get(each.parent, -1) + 1)
    return depths[record.id]

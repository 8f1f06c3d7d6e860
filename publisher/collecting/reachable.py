"""What leads to each thing of a repository, or that nothing does. Pure.

A published name keeps its documents, layers, flat trees, and the chains of its lowest layers. A link in the visible
tree keeps the flat tree to which it leads. podman's store keeps the layers that it lists, also those of images that
have no name any more: DUCC only ever adds to a store, and a container of podman that runs writes no lease. A lease
keeps what it names, and the flat trees all of whose layers it names. A diff id link stays with its layer, a kept flat
tree keeps its config. A layer's list of origins keeps nothing: it is history.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from cvmfsrepo.digest import Digest
from publisher.collecting.survey import Kind, Name, Survey, Thing

PUBLISHED = "published"
LINKED = "a link leads to it"
STORED = "listed by podmanStore"
BUILDING = "DUCC is making it"
NEWER = "a newer version made it"

Leases = Mapping[Digest, str]
"""For each digest that is leased the node that uses it."""

Kept = Mapping[Thing, str]
"""Why each thing stays."""


def kept_things(survey: Survey, leases: Leases, with_store: bool = True) -> Kept:
    """What stays, and why; the first reason counts."""
    kept = dict[Thing, str]()

    def keep(kind: Kind, digests: Iterable[Digest], why: str) -> None:
        for digest in digests:
            kept.setdefault(Thing(kind, digest.hex), why)

    for name in survey.names:
        kept[Thing(Kind.NAME, name.name)] = PUBLISHED
        keep(Kind.LAYER, (layer for layers in name.layers for layer in layers), PUBLISHED)
        keep(Kind.FLAT, (*name.configs, *name.flats), PUBLISHED)
        keep(Kind.BLOB, (*name.configs, *name.documents), PUBLISHED)
        keep(Kind.CHAIN, _chains_below(name, survey), PUBLISHED)
    for kind in (Kind.FLAT, Kind.CHAIN, Kind.LAYER):
        keep(kind, survey.elsewhere, LINKED)
    keep(Kind.CHAIN, survey.building, BUILDING)
    if with_store:
        keep(Kind.LAYER, survey.stored, STORED)
    for marks, kind in ((survey.flat_marks, Kind.FLAT), (survey.chain_marks, Kind.CHAIN)):
        keep(kind, (digest for digest, layers in marks.items() if layers is None), NEWER)
    for kind, digest, node in _leased(survey, leases):
        keep(kind, (digest,), f"leased by {node}")
    for diff_id, layer in survey.links.items():
        if layer in survey.layers and (why := kept.get(Thing(Kind.LAYER, layer.hex))):
            keep(Kind.LINK, (diff_id,), why)
    for config in survey.flats:
        if why := kept.get(Thing(Kind.FLAT, config.hex)):
            keep(Kind.BLOB, (config,), why)
    return kept


def things_of(survey: Survey) -> Iterator[Thing]:
    """Everything of a known shape."""
    yield from (Thing(Kind.NAME, name.name) for name in (*survey.names, *survey.halves))
    yield from (Thing(Kind.LINK, diff_id.hex) for diff_id in survey.links)
    kinds = {Kind.FLAT: survey.flats, Kind.CHAIN: survey.chains, Kind.LAYER: survey.layers, Kind.BLOB: survey.blobs}
    for kind, digests in kinds.items():
        yield from (Thing(kind, digest.hex) for digest in sorted(digests))


def ducc_chains(layers: Iterable[Digest]) -> Iterator[tuple[Digest, ...]]:
    """DUCC's names of an image's chains, from the lowest: hashes of hashes of compressed digests. Its versions differ
    in whether a digest has its algorithm in front, so each chain has two."""
    texts = [(str(layer), layer.hex) for layer in layers]
    named = [_hashes(forms[0] for forms in texts), _hashes(forms[1] for forms in texts)]
    return zip(*named, strict=True)


def _hashes(texts: Iterable[str]) -> Iterator[Digest]:
    def hashed(text: str) -> str:
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    (*texts,) = texts
    chains = accumulate(texts[1:], lambda chain, text: hashed(f"{chain} {text}"), initial=hashed(texts[0]))
    return map(Digest.parse, chains)


def _oci_chains(diff_ids: Iterable[Digest | None]) -> Iterator[Digest]:
    chain: Digest | None = None
    for diff_id in diff_ids:
        if diff_id is None:
            return
        chain = diff_id if chain is None else Digest.of(f"{chain} {diff_id}".encode())
        yield chain


def _chains_below(name: Name, survey: Survey) -> Iterator[Digest]:
    """The chains whose layers are the lowest of an image's: by their marks, and by their names."""
    diff_ids = {layer: diff_id for diff_id, layer in survey.links.items()} | dict(survey.diff_ids)
    for layers in name.layers:
        yield from (digest for digest, mark in survey.chain_marks.items() if mark and mark == layers[: len(mark)])
        yield from (chain for forms in ducc_chains(layers) for chain in forms)
        yield from _oci_chains(map(diff_ids.get, layers))


def _leased(survey: Survey, leases: Leases) -> Iterator[tuple[Kind, Digest, str]]:
    """What leases name: a digest may be anything's."""
    if not leases:
        return
    diff_ids = dict(survey.diff_ids)
    linked = {layer: diff_id for diff_id, layer in survey.links.items()}
    nodes = dict[Digest, str]()
    for layer in survey.layers:
        known = (layer, diff_ids.get(layer), linked.get(layer))
        if node := next((leases[digest] for digest in known if digest and digest in leases), None):
            nodes[layer] = node
            yield Kind.LAYER, layer, node
    made_of = _layers_by_config(survey)
    for config in survey.flats:
        layers = survey.flat_marks.get(config) or made_of.get(config, ())
        if config in leases or (layers and all(layer in nodes for layer in layers)):
            yield Kind.FLAT, config, leases.get(config) or nodes[layers[0]]
    yield from ((Kind.CHAIN, digest, leases[digest]) for digest in survey.chains if digest in leases)
    yield from ((Kind.BLOB, digest, leases[digest]) for digest in survey.blobs if digest in leases)


def _layers_by_config(survey: Survey) -> Mapping[Digest, tuple[Digest, ...]]:
    """For DUCC's flat trees, which say nothing of their layers: the layers that say they came with the image."""
    made_of = dict[Digest, tuple[Digest, ...]]()
    for layer, configs in survey.origins.items():
        for config in configs:
            made_of[config] = (*made_of.get(config, ()), layer)
    return made_of

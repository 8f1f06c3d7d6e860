"""Reads a repository into a `Survey`: the one file here that looks at all of it.

Whatever cannot be read, or is of a known name and does not parse, is an error: nothing is collected by half a view.
"""

import re
from collections.abc import Iterator

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, FailedPrecondition
from cvmfsrepo.layersjson import parse_layers_json
from cvmfsrepo.layout import Layout, layer_of_target
from publisher import ducc
from publisher.collecting.listed import Listing, What, digest_in
from publisher.collecting.naming import STORES, Names
from publisher.collecting.survey import Layers, Survey
from publisher.flat.marks import Mark

_STORE_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DIFF = re.compile(r"diff[0-9]*", re.ASCII)


class _StoreLayer(msgspec.Struct):
    id: str


_decode_store = msgspec.json.Decoder(tuple[_StoreLayer, ...]).decode


def read_survey(layout: Layout, with_leases: bool) -> Survey:
    """All of the repository. `with_leases` reads also what is beside each layer: which diff id it has, and with which
    images it came. DataLoss, InvalidArgument and Unavailable name what is in the way."""
    listing = Listing(layout)
    if listing.names(layout.layers) and not layout.metadata.is_dir():
        remedy = "look at what became of it: without it everything would be taken for unused"
        raise FailedPrecondition("repository", str(layout.root), "has layers and no .metadata", remedy)
    names = Names(listing)
    names.read()
    layers = frozenset(listing.digests(layout.layers, What.DIRECTORY))
    trees = {kind: dict(_marks(listing, kind)) for kind in ("flat", "chains")}
    return Survey(
        names=tuple(names.found.values()),
        halves=tuple(half for name, half in names.halves.items() if name not in names.found),
        links=dict(_links(listing)),
        flats=frozenset(listing.digests(layout.root / ".flat", What.DIRECTORY)) | trees["flat"].keys(),
        chains=frozenset(listing.digests(layout.root / ".chains", What.DIRECTORY)) | trees["chains"].keys(),
        layers=layers,
        blobs=frozenset(_blobs(listing)),
        flat_marks=trees["flat"],
        chain_marks=trees["chains"],
        elsewhere=frozenset(names.elsewhere),
        stored=frozenset(_stored(listing)),
        building=frozenset(_building(listing)),
        origins=dict(_origins(listing, layers)) if with_leases else {},
        diff_ids=dict(_diff_ids(listing, layers)) if with_leases else {},
        unknown=tuple(sorted(set(listing.unknown))),
    )


def _links(listing: Listing) -> Iterator[tuple[Digest, Digest]]:
    layout = listing.layout
    for diff_id in listing.digests(layout.metadata / "diffid", What.LINK):
        target = listing.target(layout.diff_id_link(diff_id))
        layer = digest_in(target, ".layers") if target else None
        if layer is None:
            layer_of_target(target or "")  # says what is wrong with it
        else:
            yield diff_id, layer


def _blobs(listing: Listing) -> Iterator[Digest]:
    blobs = listing.layout.metadata / "blobs"
    for algorithm, _ in listing.names(blobs):
        if algorithm != "sha256":
            listing.pass_over(blobs / algorithm)
    yield from listing.digests(blobs / "sha256", What.FILE)


def _marks(listing: Listing, kind: str) -> Iterator[tuple[Digest, Layers]]:
    layout = listing.layout
    for digest in listing.digests(layout.tree_marks / kind, What.FILE):
        path = layout.flat_mark(digest) if kind == "flat" else layout.chain_mark(digest)
        mark = Mark.parse(listing.read(path) or b"", str(path))
        yield digest, mark.layers if mark else None


def _building(listing: Listing) -> Iterator[Digest]:
    """DUCC's markers of chains that it has begun and not ended."""
    dirty = listing.layout.root / ".dirty-chains"
    for name, _ in listing.names(dirty):
        text = name.removeprefix("sha256:")
        if _STORE_ID.fullmatch(text):
            yield Digest(text)
        else:
            listing.pass_over(dirty / name)


def _stored(listing: Listing) -> Iterator[Digest]:
    """The layers that podman's store lists, wherever their diff links lead."""
    for name in STORES:
        store = listing.layout.root / name
        index = store / "overlay-layers" / "layers.json"
        content = listing.read(index)
        try:
            entries = _decode_store(content) if content else ()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DataLoss("store index", str(index), f"does not parse: {error}", "build the store again") from None
        for entry in entries:
            if not _STORE_ID.fullmatch(entry.id):
                raise DataLoss(
                    "store index", str(index), f"lists {entry.id!r}, which is no layer's id", "build it again"
                )
            overlay = store / "overlay" / entry.id
            for part, what in listing.names(overlay):
                if what is What.LINK and _DIFF.fullmatch(part):
                    target = listing.target(overlay / part)
                    if target and (layer := digest_in(target, ".layers")):
                        yield layer


def _origins(listing: Listing, layers: frozenset[Digest]) -> Iterator[tuple[Digest, tuple[Digest, ...]]]:
    for layer in layers:
        path = listing.layout.origin_json(layer)
        if listing.read(path) is not None:
            yield layer, tuple(Digest.parse(text, f"origin in {path}") for text in ducc.read_origins(path))


def _diff_ids(listing: Listing, layers: frozenset[Digest]) -> Iterator[tuple[Digest, Digest]]:
    for layer in layers:
        path = listing.layout.layers_json(layer)
        content = listing.read(path)
        if content is not None and (diff_id := parse_layers_json(content, str(path)).diff_id):
            yield layer, diff_id

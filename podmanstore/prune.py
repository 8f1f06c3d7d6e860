"""The one removal of layers from a store, and what it breaks. Callers hold `lockfiles.building`.

podman's users keep the ids and links of a store's layers in their own images and containers, and nobody can know which.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.errors import FailedPrecondition
from podmanstore import disk
from podmanstore.apply import BUILDING, clear, note_placed, remove_entry, write_index
from podmanstore.records import (
    LAYERS_JSON,
    LAYERS_LOCK,
    OVERLAY,
    LayerRecord,
    encode_index,
    read_images,
    read_layers,
)


@dataclass(frozen=True, slots=True)
class Pruned:
    """Ids of the layers that leave the index, and the number of directories that nothing needs then."""

    layers: tuple[str, ...]
    directories: int

    def __str__(self) -> str:
        if not self.layers:
            return f"no layer is unused; {self.directories} directories of no layer"
        return (
            f"{len(self.layers)} layers, {self.directories} directories: users' own images and containers that stand "
            "on one of them stop working (podman 4 then lists no image at all) until a build brings the layer back"
        )


def prune(store: Path, wanted: Collection[str], dry_run: bool = False) -> Pruned:
    """Removes the layers that are not `wanted` (ids) and that no wanted one stands on. `dry_run` only says which.

    FailedPrecondition where a listed image needs another layer: build first, which takes it from the list.
    """
    with disk.explained(store):
        records = {record.id: record for record in read_layers(store)}
        kept = _needed(store, records, wanted)
        for image in read_images(store):
            if image.layer and image.layer not in kept:
                problem = f"lists image {image.id}, whose layer {image.layer} is not wanted"
                raise FailedPrecondition("store", str(store), problem, "build first, then prune")
        unused = sorted(set(disk.names(f"{store}/{OVERLAY}")) - kept - {"l"})
        pruned = Pruned(tuple(sorted(records.keys() - kept)), len(unused))
        if not dry_run and (pruned.layers or unused):
            _remove(store, [record for record in records.values() if record.id in kept], pruned.layers, unused)
        return pruned


def _needed(store: Path, records: dict[str, LayerRecord], wanted: Iterable[str]) -> set[str]:
    """What is wanted, the parents of that, and whatever entries that stands on."""
    needed: set[str] = set()
    pending = [identity for identity in wanted if identity in records]
    while pending:
        if (identity := pending.pop()) in needed:
            continue
        needed.add(identity)
        if parent := records[identity].parent if identity in records else "":
            pending.append(parent)
        pending += _lower(f"{store}/{OVERLAY}/{identity}/lower-layers")
    return needed


def _lower(path: str) -> list[str]:
    try:
        return Path(path).read_text().split(":")
    except FileNotFoundError:
        return []


def _remove(store: Path, kept: Iterable[LayerRecord], layers: Collection[str], directories: Collection[str]) -> None:
    """The index first, for what it lists must be there."""
    if not (store / BUILDING).is_dir():
        disk.make_directory(f"{store}/{BUILDING}")
    clear(store, keep_directory=True)
    note_placed(store, list(layers))
    write_index(store, LAYERS_JSON, LAYERS_LOCK, encode_index(list(kept)))
    for identity in {*layers, *directories}:
        remove_entry(store, identity)
    disk.remove_tree(store / BUILDING)

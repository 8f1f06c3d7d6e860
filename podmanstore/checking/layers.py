"""The records of layers.json against each other and against the rule by which containers/image names a layer.

A pull looks a layer up by that name. One that it does not find so is found by its digest at best, and then copied.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from podmanstore.checking.defects import Findings, Kind, said
from podmanstore.checking.indices import HEX_ID, Layer, is_digest


def check_layers(layers: Mapping[str, Layer], findings: Findings) -> None:
    """Every record by itself, and its parent."""
    for layer in layers.values():
        _check_digests(layer, findings)
        _check_sizes(layer, findings)
        _check_id(layer, findings)
    _check_parents(layers, findings)


def is_copy_source(layer: Layer) -> bool:
    """A layer by itself, which cvmfs-podmanstore lists only to be copied from and to stand below others."""
    name = hashlib.sha256(f"cvmfs-podmanstore layer {layer.compressed_digest}".encode()).hexdigest()
    return not layer.parent and layer.id == name


def chain_of(layer: Layer, layers: Mapping[str, Layer]) -> Iterator[Layer]:
    """A layer and what it stands on, as far as it is listed; a chain that leads back into itself ends there."""
    seen = set[str]()
    current: Layer | None = layer
    while current and current.id not in seen:
        seen.add(current.id)
        yield current
        current = layers.get(current.parent)


def chain_ids(diff_digests: Iterable[str]) -> list[str]:
    """What containers/image calls each layer of an image, base first."""
    ids: list[str] = []
    for digest in diff_digests:
        ids.append(_name_on(ids[-1] if ids else "", digest.removeprefix("sha256:")))
    return ids


def tar_split_path(store: Path, layer: Layer) -> str:
    """Where containers/storage looks for what rebuilds a layer's tar."""
    return f"{store}/overlay-layers/{layer.id}.tar-split.gz"


def _name_on(parent: str, component: str) -> str:
    return hashlib.sha256(f"{parent}+{component}".encode()).hexdigest() if parent else component


def _check_digests(layer: Layer, findings: Findings) -> None:
    for key, digest in (("diff-digest", layer.diff_digest), ("compressed-diff-digest", layer.compressed_digest)):
        if digest and not is_digest(digest):
            problem = f"its {key} is not sha256: and 64 hexadecimal digits: commands that use it fail"
            findings.add(Kind.DIGEST_MALFORMED, layer.where, problem)
    if not layer.diff_digest:
        problem = "has no diff-digest: the size of an image on it cannot be told, and `podman images` fails"
        findings.add(Kind.DIFF_DIGEST_MISSING, layer.where, problem)
    if not layer.compressed_digest:
        problem = "has no compressed-diff-digest: a pull does not know it and downloads the layer"
        findings.add(Kind.COMPRESSED_DIGEST_MISSING, layer.where, problem)


def _check_sizes(layer: Layer, findings: Findings) -> None:
    if layer.diff_size <= 0:
        problem = "has no diff-size: `podman save` to a Docker archive fails, and its size is shown too small"
        findings.add(Kind.SIZE_MISSING, layer.where, problem)
    if layer.compressed_digest and layer.compressed_size <= 0:
        problem = "has no compressed-size: a manifest made of a reused layer has a wrong size"
        findings.add(Kind.SIZE_MISSING, layer.where, problem)
    if layer.compressed_digest and layer.compressed_digest != layer.diff_digest and layer.compression == 0:
        problem = "has no compression, though its blob is not the tar: a reused layer is called uncompressed"
        findings.add(Kind.COMPRESSION_MISSING, layer.where, problem)


def _check_id(layer: Layer, findings: Findings) -> None:
    if not is_digest(layer.diff_digest) or is_copy_source(layer):
        return
    diff_id = layer.diff_digest.removeprefix("sha256:")
    names = [_name_on(layer.parent, diff_id)]
    if layer.toc_digest:
        component = "@TOC=" + layer.toc_digest.removeprefix("sha256:")
        names.append(hashlib.sha256(f"{layer.parent}+{component}".encode()).hexdigest())
    if layer.id in names:
        return
    if layer.id == diff_id and layer.parent:
        problem = (
            f"is named by its diff id, though it stands on {layer.parent[:12]}: an image that has it on another parent"
            " gets a wrong root file system, and a pull copies the layer"
        )
        findings.add(Kind.DIFF_ID_AS_LAYER_ID, layer.where, problem)
    else:
        findings.add(Kind.LAYER_ID, layer.where, f"a pull calls this layer {names[0][:12]}..., and copies it")


def _check_parents(layers: Mapping[str, Layer], findings: Findings) -> None:
    ending = {""}
    for layer in layers.values():
        path = dict[str, None]()
        while layer.id not in ending and layer.id not in path:
            path[layer.id] = None
            if layer.parent in layers:
                layer = layers[layer.parent]
            else:
                ending.add(layer.id)
                _note_missing_parent(layer, findings)
        if layer.id in ending:
            ending.update(path)
        else:
            findings.add(Kind.PARENT_CYCLE, layer.where, "its parents lead back to itself: podman does not end")


def _note_missing_parent(layer: Layer, findings: Findings) -> None:
    if layer.parent:
        kind = Kind.PARENT_MISSING if HEX_ID.fullmatch(layer.parent) else Kind.ID_MALFORMED
        findings.add(kind, layer.where, f"its parent {said(layer.parent)} is not listed: images on it are corrupt")

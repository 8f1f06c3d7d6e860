"""Label names, and which layer a Prepare asks for."""

from collections.abc import Mapping
from dataclasses import dataclass

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Missing

TARGET = "containerd.io/snapshot.ref"
"""Present on every Prepare of a pull: the name under which the caller wants the layer (its chain id)."""

IMAGE = "containerd.io/snapshot/cri.image-ref"
LAYER_DIGEST = "containerd.io/snapshot/cri.layer-digest"
IMAGE_LAYERS = "containerd.io/snapshot/cri.image-layers"
"""This layer and those above it, as many as fit a label."""

DIFF_ID = "containerd.io/snapshot/diff-id"

MAPPINGS = ("containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping")
"""The caller will show the layer with other owners."""

REMOTE = "containerd.io/snapshot/remote"
"""Set on committed snapshots that show a repository's layer; stargz's label, so that tools know it."""

MISS = "containerd.io/snapshot/cvmfs.miss"
"""Added by Stat and List to a snapshot whose layer was not served: why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The layer that a Prepare of a pull asks for, under the name `target`: by either digest, by the `chain` that it is
    the top of, or by none and a `problem`. `image` is the one it belongs to ("" where not said); `layers_to_top` counts
    it and those above it, 0 where not said."""

    target: str
    layer: Digest | None = None
    diff_id: Digest | None = None
    image: str = ""
    layers_to_top: int = 0
    problem: Missing | None = None
    chain: Digest | None = None


def wanted_layer(labels: Mapping[str, str]) -> Wanted | None:
    """What a Prepare's labels ask for; None where it is not part of a pull. The `problem` is that they do not say
    which layer, or not in a form that may be joined to a path."""
    target = labels.get(TARGET)
    if not target:
        return None
    image, above = labels.get(IMAGE, ""), [name for name in labels.get(IMAGE_LAYERS, "").split(",") if name]
    try:
        layer, diff_id = _digest(labels, LAYER_DIGEST), _digest(labels, DIFF_ID)
    except InvalidArgument as error:
        return Wanted(target, image=image, problem=Missing(Reason.BAD_LABEL, str(error)))
    chain = _chain(target)
    problem = None if layer or diff_id or chain else NO_LABEL
    problem = _MAPPED if is_mapped(labels) else problem
    return Wanted(target, layer, diff_id, image, len(above), problem, chain)


def is_mapped(labels: Mapping[str, str]) -> bool:
    """Whether the caller will show the snapshot with other owners: it is for a user namespace."""
    return any(labels.get(name) for name in MAPPINGS)


NO_LABEL = Missing(
    Reason.NO_LAYER_LABEL,
    f"the labels name no layer digest: set disable_snapshot_annotations = false in containerd's CRI"
    f" configuration, or pull with a client that sends {LAYER_DIGEST}",
)


_MAPPED = Missing(
    Reason.USERNS, "the labels ask for other owners (a user namespace), and a repository's layers cannot be mapped"
)


def _chain(target: str) -> Digest | None:
    """containerd's target is a chain id; that of another client may be any name."""
    try:
        return Digest.parse(target)
    except InvalidArgument:
        return None


def _digest(labels: Mapping[str, str], name: str) -> Digest | None:
    text = labels.get(name)
    return Digest.parse(text, f"label {name}") if text else None

"""A layer of a repository -> what a store must know of it."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cvmfsrepo.contained import holder_of
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument
from cvmfsrepo.layersjson import LayersJson, find_layers_json
from cvmfsrepo.oci import Descriptor
from cvmfsrepo.reasons import reason_of
from cvmfsrepo.repository import Missing, Repository, checked_outline
from cvmfsrepo.walk import WalkExpired
from podmanstore.places import Place
from podmanstore.surround import hide_above, problem_of, white_below
from podmanstore.values import HeldLayer, Mount


@dataclass(frozen=True, slots=True)
class Wanted:
    """A layer as an image tells of it; `digest` is that of the blob."""

    blob: Descriptor
    digest: Digest
    diff_id: Digest

    @property
    def name(self) -> str:
        """Its hex digits."""
        return self.digest.hex


@dataclass(frozen=True, slots=True)
class Refused:
    """A layer that is there and cannot be shown: `problem` says why. Looking again will not help."""

    problem: str


def hold(place: Place, mount: Mount, wanted: Wanted) -> HeldLayer | Missing | Refused:
    """Reads all that is to be known of a layer that was found. It gives up by itself when the place's time for walks is
    over. Missing where the repository fails in the middle."""
    until = time.monotonic() + 0.9 * place.walk_seconds
    try:
        return _hold(place, mount, wanted, until)
    except (DataLoss, WalkExpired) as error:
        return Refused(f"layer {wanted.digest}: {error}")
    except OSError as error:
        return Missing(reason_of(error), f"layer {wanted.digest}: {error}")


def _hold(place: Place, mount: Mount, wanted: Wanted, until: float) -> HeldLayer | Refused:
    repository, digest = place.repository, wanted.digest
    head = repository.find_head(digest)
    outline = checked_outline(head, digest) if head else repository.walk_outline(digest, until)
    shows = partial(_is_in_layer, repository, digest)
    if problem := problem_of(outline, mount, shows):
        return Refused(f"layer {digest} {problem}; build a store for one of them (--mount)")
    hide, white = hide_above(outline, mount, shows), white_below(outline, mount)
    if place.is_changing and (hide or white):
        return Refused(f"layer {digest} {_NEEDS_DEVICES}")
    said = _said_by_ducc(repository, digest)
    tar_split = repository.layout.tar_split(digest)
    return HeldLayer(
        layer=digest.hex,
        diff_id=head.diff_id if head else (said.diff_id or wanted.diff_id).hex,
        target=str(place.seen.layerfs(digest)),
        size=wanted.blob.size,
        tar_size=said.tar_size,
        compression=compression_of(wanted.blob.mediatype),
        hide=hide,
        white=white,
        tar_split=str(place.seen.tar_split(digest)) if _is_there(repository.layout.root, tar_split) else "",
        own_catalogs=head.own_catalogs if head else (),
    )


_NEEDS_DEVICES = (
    "needs devices beside it that hide what it deletes, and a publication into CVMFS cannot make them in a store; "
    "nodes can, in a store of their own: cvmfs-podmanstore build"
)

_COMPRESSIONS: Mapping[str, int] = {"tar": 0, "gzip": 2, "zstd": 4}


def compression_of(media_type: str) -> int:
    """containers/storage's number of a layer's compression; gzip, as nearly every layer is, where nothing tells."""
    kind = media_type.replace("+", ".").rpartition(".")[2]
    return _COMPRESSIONS.get(kind, _COMPRESSIONS["gzip"])


def _said_by_ducc(repository: Repository, digest: Digest) -> LayersJson:
    """What the layer's `layers.json` tells of its tar; nothing where it is damaged: it was never verified anyway."""
    try:
        return find_layers_json(repository.layout, digest) or _NOTHING
    except (DataLoss, InvalidArgument):
        return _NOTHING


_NOTHING = LayersJson(None, None)


def _is_in_layer(repository: Repository, digest: Digest, path: bytes) -> bool:
    return _is_there(repository.layout.root, repository.layout.layerfs(digest) / os.fsdecode(path))


def _is_there(root: Path, path: Path) -> bool:
    """Whether there is something at a path below a repository's root; no link is followed."""
    try:
        with holder_of(root, path) as (directory, name):
            os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True

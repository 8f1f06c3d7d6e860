"""Finds the layer that a Prepare asks for in the configured repositories, and what must stand around it.

All that touches a repository runs under its deadline; nothing here runs inside a transaction.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.access import Access, DeadlineExpired
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.outline import Outline, Source
from cvmfsrepo.reasons import Reason, reason_of
from cvmfsrepo.repository import Layer, Missing, Repository, deadline_in
from cvmfsrepo.shims import Shim, hide_shim, white_shim
from snapshotter.below import find_below
from snapshotter.labels import Wanted
from snapshotter.log import event
from snapshotter.losses import find_losses
from snapshotter.metastore import Remote
from snapshotter.shimstore import ShimStore

_log = logging.getLogger(__name__)

_WALK_SHARE = 0.9
"""Of the deadline: a walk that gives up by itself still can say so before nobody waits any more."""


@dataclass(frozen=True, slots=True)
class Served:
    """A configured repository and the guard through which it is touched."""

    repository: Repository
    access: Access


@dataclass(frozen=True, slots=True)
class FoundLayer:
    """A layer that can be shown: where it is, and what its snapshot's record will say."""

    layer: Layer
    remote: Remote


class RemoteLayers:
    """The configured repositories, in order of priority, and the node's shims."""

    def __init__(self, served: Sequence[Served], store: ShimStore) -> None:
        self._served = served
        self._store = store

    def find(self, wanted: Wanted, lowers: Sequence[str]) -> FoundLayer | Missing:
        """The first repository's layer that is there, with its shims written; `lowers` are those that it will
        stand on. Otherwise why not: a repository that does not answer outweighs one that has no such layer."""
        missing = Missing(Reason.ABSENT, "no repository is configured")
        for number, served in enumerate(self._served):
            found = self._guarded(served, wanted, lowers)
            if not isinstance(found, Missing):
                return found
            if number == 0 or missing.reason is Reason.ABSENT:
                missing = found
        return missing

    def _guarded(self, served: Served, wanted: Wanted, lowers: Sequence[str]) -> FoundLayer | Missing:
        name, until = served.repository.name, deadline_in(_WALK_SHARE * served.access.deadline)
        try:
            found = served.access.call(lambda: self._read(served.repository, wanted, lowers, until))
        except DeadlineExpired as error:
            return Missing(Reason.TIMEOUT, f"repository {name}: {error}")
        except TimeoutError as error:
            reason = reason_of(error) if error.errno else Reason.MARKERS_UNAVAILABLE  # the kernel's, or the walk's
            return Missing(reason, f"repository {name}: {error}")
        except OSError as error:
            return Missing(reason_of(error), f"repository {name}: {error}")
        except DataLoss as error:
            return Missing(Reason.MARKERS_UNAVAILABLE, f"repository {name}: {error}")
        if isinstance(found, Missing):
            return found
        try:
            return self._with_shims(served, found)
        except (OSError, DataLoss, UnicodeError) as error:  # a name too long, an attribute that this disk does not take
            layer = found.layer.digest
            return Missing(Reason.MARKERS_UNAVAILABLE, f"shims of layer {layer} cannot be written: {error}")

    def _read(self, repository: Repository, wanted: Wanted, lowers: Sequence[str], until: float) -> "_Read | Missing":
        """Everything that is asked of the repository, in one go."""
        layer = _find_layer(repository, wanted)
        if isinstance(layer, Missing):
            return layer
        kept = self._store.find_outline(layer.digest)
        outline = kept or repository.get_outline(layer.digest, until)
        hide = hide_shim(outline, lambda path: find_below(lowers, path))
        return _Read(layer, outline, kept is None, hide, repository.find_revision())

    def _with_shims(self, served: Served, read: "_Read") -> FoundLayer:
        white = white_shim(read.outline)
        hide_key = self._store.ensure(read.hide)
        white_key = self._store.ensure(white) if white else ""
        if read.is_new:
            self._store.keep_outline(read.layer.digest, read.outline)
            if read.outline.source is Source.RECORD:
                served.access.later(lambda: self._warn_of_losses(served, read))
        remote = Remote(served.repository.name, read.layer.digest.hex, hide_key, white_key, read.revision)
        return FoundLayer(Layer(read.layer.digest, Path(os.path.abspath(read.layer.path))), remote)

    def _warn_of_losses(self, served: Served, read: "_Read") -> None:
        losses = find_losses(read.layer.path, read.outline.witnesses)
        self._store.keep_losses(read.layer.digest, losses)
        if losses:
            event(
                _log, logging.WARNING, "layer differs from its record",
                layer=str(read.layer.digest), repository=served.repository.name, lost=[str(loss) for loss in losses],
                remedy="publish the layer with cvmfs-publisher",
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Read:
    """What one visit to the repository brought."""

    layer: Layer
    outline: Outline
    is_new: bool
    hide: Shim
    revision: int | None


def _find_layer(repository: Repository, wanted: Wanted) -> Layer | Missing:
    """By the layer digest; by the diff id where that is not published or not said."""
    found: Layer | Missing | None = None
    if wanted.layer is not None:
        found = repository.find_layer(wanted.layer)
        if isinstance(found, Layer) or found.reason is not Reason.ABSENT:
            return found
    digest = repository.find_by_diff_id(wanted.diff_id) if wanted.diff_id else None
    if digest is not None:
        return repository.find_layer(digest)
    return found or repository.why_missing(f"a layer with diff id {wanted.diff_id}")

"""Finds the layer that a Prepare asks for in the configured repositories, and what must stand around it.

All that touches a repository runs under its deadline; nothing here runs inside a transaction.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.outline import Outline, Source
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Layer, Missing, Repository, deadline_in
from cvmfsrepo.shims import Shim, hide_shim, white_shim
from cvmfsrepo.walk import WalkExpired
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
class FoundLayer:
    """A layer that can be shown: where it is, and what its snapshot's record will say."""

    layer: Layer
    remote: Remote


class RemoteLayers:
    """The configured repositories, in order of priority, and the node's shims."""

    def __init__(self, repositories: Sequence[GuardedRepository], store: ShimStore) -> None:
        self._repositories = repositories
        self._store = store

    def find(self, wanted: Wanted, lowers: Sequence[str]) -> FoundLayer | Missing:
        """The first repository's layer that is there, with its shims written; `lowers` are those that it will
        stand on. Otherwise why not: a repository that does not answer outweighs one that has no such layer."""
        missing = Missing(Reason.ABSENT, "no repository is configured")
        for number, repository in enumerate(self._repositories):
            found = self._find_in(repository, wanted, lowers)
            if not isinstance(found, Missing):
                return found
            if number == 0 or missing.reason is Reason.ABSENT:
                missing = found
        return missing

    def find_unreadable(self, layers: Iterable[Remote]) -> Missing | None:
        """Why one of several layers that snapshots stand on cannot be read now, or None."""
        every = list(layers)
        for name in dict.fromkeys(layer.repository for layer in every):
            digests = [Digest(layer.layer) for layer in every if layer.repository == name]
            repository = next((known for known in self._repositories if known.name == name), None)
            if repository is None:
                return Missing(Reason.UNMOUNTED, f"repository {name} is not configured any more")
            if missing := repository.find_unreadable(digests):
                return missing
        return None

    def _find_in(self, repository: GuardedRepository, wanted: Wanted, lowers: Sequence[str]) -> FoundLayer | Missing:
        until = deadline_in(_WALK_SHARE * repository.deadline)
        found = repository.call(lambda: self._read(repository.repository, wanted, lowers, until), wanted.layer)
        if isinstance(found, Missing):
            return found
        repository.saw(found.layer.digest)
        try:
            return self._with_shims(repository, found)
        except (OSError, DataLoss, UnicodeError) as error:  # a name too long, an attribute that this disk does not take
            layer = found.layer.digest
            return Missing(Reason.MARKERS_UNAVAILABLE, f"shims of layer {layer} cannot be written: {error}")

    def _read(self, repository: Repository, wanted: Wanted, lowers: Sequence[str], until: float) -> "_Read | Missing":
        """Everything that is asked of the repository, in one go."""
        layer = _find_layer(repository, wanted)
        if isinstance(layer, Missing):
            return layer
        kept = self._store.find_outline(layer.digest)
        try:
            outline = kept or repository.get_outline(layer.digest, until)
        except (DataLoss, WalkExpired) as error:
            return Missing(Reason.MARKERS_UNAVAILABLE, f"repository {repository.name}: {error}")
        hide = hide_shim(outline, lambda path: find_below(lowers, path))
        return _Read(layer, outline, kept is None, hide, repository.find_revision())

    def _with_shims(self, repository: GuardedRepository, read: "_Read") -> FoundLayer:
        white = white_shim(read.outline)
        hide_key = self._store.ensure(read.hide)
        white_key = self._store.ensure(white) if white else ""
        if read.is_new:
            self._store.keep_outline(read.layer.digest, read.outline)
            if read.outline.source is Source.RECORD:
                repository.later(lambda: self._warn_of_losses(repository, read))
        remote = Remote(repository.name, read.layer.digest.hex, hide_key, white_key, read.revision)
        return FoundLayer(Layer(read.layer.digest, Path(os.path.abspath(read.layer.path))), remote)

    def _warn_of_losses(self, repository: GuardedRepository, read: "_Read") -> None:
        losses = find_losses(read.layer.path, read.outline.witnesses)
        self._store.keep_losses(read.layer.digest, losses)
        if losses:
            event(
                _log, logging.WARNING, "layer differs from its record",
                layer=str(read.layer.digest), repository=repository.name, lost=[str(loss) for loss in losses],
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

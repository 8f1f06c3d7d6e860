"""Finds the layer that a Prepare asks for in the configured repositories, and what must stand around it.

All that touches a repository runs under its deadline; nothing here runs inside a transaction.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, ResourceExhausted
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.outline import Outline
from cvmfsrepo.reasons import Reason, reason_of
from cvmfsrepo.repository import Layer, Missing, Repository, deadline_in
from cvmfsrepo.shims import Shim, hide_shim, white_shim
from cvmfsrepo.walk import WalkExpired
from snapshotter.below import find_below
from snapshotter.faults import of_os
from snapshotter.index.store import Index
from snapshotter.labels import NO_LABEL, Wanted
from snapshotter.log import event
from snapshotter.losses import find_losses
from snapshotter.metastore import Remote
from snapshotter.shimstore import ShimStore
from snapshotter.walks import Walks

_log = logging.getLogger(__name__)

_WALK_SHARE = 0.9
"""Of the deadline, for which a Prepare waits for a walk: then it still can look what the layer stands on."""


_WEIGHTS = {Reason.ABSENT: 1, Reason.NO_LAYER_LABEL: 2}
"""Of reasons that say the least, where several repositories are asked."""

_MOST_HIDES = 10_000
"""Places of layers whose shim is remembered."""


@dataclass(frozen=True, slots=True)
class FoundLayer:
    """A layer that can be shown: where it is, and what its snapshot's record will say."""

    layer: Layer
    remote: Remote


class RemoteLayers:
    """The configured repositories, in order of priority, and the node's shims."""

    def __init__(self, repositories: Sequence[GuardedRepository], store: ShimStore, index: Index | None = None) -> None:
        self._repositories, self._index = repositories, index
        self._store, self._walks = store, Walks(store)
        self._hides = _Hides(store)

    def over(self, repositories: Sequence[GuardedRepository]) -> Self:
        """The same over other repositories; what was found out about layers is shared. Calls that run on this one go
        on with the ones that it has."""
        other = copy(self)
        other._repositories = repositories
        return other

    def find(self, wanted: Wanted, lowers: Sequence[str]) -> FoundLayer | Missing:
        """The first repository's layer that is there, with its shims written; `lowers` are those that it will
        stand on. Otherwise why not: a repository that does not answer outweighs one that has no such layer, and that
        one another which cannot even be asked, for the request names a chain alone and the index does not know it."""
        misses = list[Missing]()
        for repository in self._repositories:
            found = self._find_in(repository, wanted, lowers)
            if not isinstance(found, Missing):
                return found
            misses.append(replace(found, repository=repository.name))
        misses.sort(key=lambda missing: _WEIGHTS.get(missing.reason, 0))  # stable: in order of priority otherwise
        details = [missing.detail for missing in misses]
        if misses[0].reason is Reason.NO_LAYER_LABEL:
            details.insert(0, NO_LABEL.detail)
        return replace(misses[0], detail="; ".join(details))

    def find_unreadable(self, layers: Iterable[Remote]) -> Missing | None:
        """Why one of several layers that snapshots stand on cannot be read now, or None."""
        every = list(layers)
        for name in dict.fromkeys(layer.repository for layer in every):
            digests = [Digest(layer.layer) for layer in every if layer.repository == name]
            repository = next((known for known in self._repositories if known.name == name), None)
            if repository is None:
                return Missing(Reason.UNMOUNTED, f"layer {digests[0]}: repository {name} is not configured any more")
            if missing := repository.find_unreadable(digests):
                return missing
        return None

    def _find_in(self, repository: GuardedRepository, wanted: Wanted, lowers: Sequence[str]) -> FoundLayer | Missing:
        found = self._read_in(repository, wanted, lowers)
        if isinstance(found, Missing):
            return found
        repository.saw(found.layer.digest)
        try:
            return self._with_shims(repository, found)
        except (OSError, DataLoss, UnicodeError) as error:  # a name too long, an attribute that this disk does not take
            if isinstance(error, OSError) and isinstance(of_os(error), ResourceExhausted):
                raise  # a full disk is no reason to download
            layer = found.layer.digest
            return Missing(Reason.MARKERS_UNAVAILABLE, f"shims of layer {layer} cannot be written: {error}")

    def _read_in(self, repository: GuardedRepository, wanted: Wanted, lowers: Sequence[str]) -> "_Read | Missing":
        """Everything that is asked of a repository, under one deadline; the walk over a layer without a record, which
        others may wait for too, outside its few threads."""
        by_content = self._indexed(repository.name, wanted)
        if wanted.layer is None and wanted.diff_id is None and not by_content:
            return self._not_indexed(repository.name, wanted)
        about = wanted.layer or next(iter(by_content), None)
        until, end_of_walk = deadline_in(repository.deadline), deadline_in(_WALK_SHARE * repository.deadline)
        found: _Read | _Unwalked | Missing = repository.call(
            partial(self._read, repository, wanted, by_content, lowers), about, until
        )
        if not isinstance(found, _Unwalked):
            return found
        layer = found.layer
        try:
            outline = self._walks.outline(repository, layer.digest, end_of_walk)
        except (DataLoss, WalkExpired) as error:
            return _unavailable(repository, error)
        except OSError as error:
            return Missing(reason_of(error), f"repository {repository.name}: {error}")
        return repository.call(lambda: self._stand(repository, layer, outline, False, lowers), layer.digest, until)

    def _indexed(self, repository: str, wanted: Wanted) -> list[Digest]:
        """What the index knows of a repository's layers with the content that is asked for. It waits for nothing."""
        if self._index is None:
            return []
        found = self._index.find_layers_of_diff_id(wanted.diff_id) if wanted.diff_id else ()
        found += self._index.find_layer_of_chain(wanted.chain) if wanted.chain else ()
        return list(dict.fromkeys(layer for name, layer in found if name == repository and layer != wanted.layer))

    def _not_indexed(self, repository: str, wanted: Wanted) -> Missing:
        said = "there is no index" if self._index is None else f"its index {self._index.state(repository)}"
        return Missing(Reason.NO_LAYER_LABEL, f"repository {repository} has no chain {wanted.chain} known: {said}")

    def _read(
        self, guarded: GuardedRepository, wanted: Wanted, by_content: Sequence[Digest], lowers: Sequence[str]
    ) -> "_Read | _Unwalked | Missing":
        """The layer, and what it needs around it where that is known or recorded."""
        repository = guarded.repository
        layer = _find_layer(repository, wanted, by_content)
        if isinstance(layer, Missing):
            return layer
        kept = self._store.find_outline(layer.digest)
        try:
            outline = kept or repository.find_outline(layer.digest)
        except DataLoss as error:
            return _unavailable(guarded, error)
        return self._stand(guarded, layer, outline, kept is None, lowers) if outline else _Unwalked(layer)

    def _stand(
        self, guarded: GuardedRepository, layer: Layer, outline: Outline, is_new: bool, lowers: Sequence[str]
    ) -> "_Read | Missing":
        """The shim above the layer depends on what it stands on, which may be in the repository too."""
        place = "\0".join((layer.digest.hex, *map(_shown_by, lowers))).encode(errors="surrogateescape")
        place = hashlib.sha256(place).digest()
        try:
            hide = self._hides.get(place) or hide_shim(outline, lambda path: find_below(lowers, path))
        except DataLoss as error:
            return _unavailable(guarded, error)
        return _Read(layer, outline, is_new, place, hide, guarded.find_revision())

    def _with_shims(self, repository: GuardedRepository, read: "_Read") -> FoundLayer:
        white = white_shim(read.outline)
        new = [shim for shim in (read.hide, white) if isinstance(shim, Shim)]
        keys = self._store.ensure_all(*new)
        hide_key = read.hide if isinstance(read.hide, str) else keys[0]
        white_key = keys[-1] if white else ""
        self._hides.note(read.place, hide_key)
        if read.is_new:
            self._store.keep_outline(read.layer.digest, read.outline)
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


_Place = bytes
"""A hash of a layer and what it stands on."""


class _Hides:
    """Keys of the shims above layers, by place: to find out what stands below a layer costs the repository."""

    def __init__(self, store: ShimStore) -> None:
        self._store = store
        self._keys: dict[_Place, str] = {}

    def get(self, place: _Place) -> str | None:
        """The key of a shim that is still on the disk."""
        key = self._keys.get(place)
        return key if key and (self._store.shims / key).is_dir() else None

    def note(self, place: _Place, key: str) -> None:
        if len(self._keys) >= _MOST_HIDES:
            self._keys.clear()
        self._keys[place] = key


@dataclass(frozen=True, slots=True)
class _Read:
    """What one visit to the repository brought; `hide` is the shim, or the key of one that is there; `is_new` where
    the outline was read from a record."""

    layer: Layer
    outline: Outline
    is_new: bool
    place: _Place
    hide: Shim | str
    revision: int | None


@dataclass(frozen=True, slots=True)
class _Unwalked:
    """A layer that has no record, and whose outline is not known."""

    layer: Layer


def _unavailable(repository: GuardedRepository, error: Exception) -> Missing:
    return Missing(Reason.MARKERS_UNAVAILABLE, f"repository {repository.name}: {error}")


def _shown_by(lower: str) -> str:
    """What a lower directory of ours shows: another directory, by what its link says, or itself."""
    try:
        return os.readlink(lower)
    except OSError:
        return lower


def _find_layer(repository: Repository, wanted: Wanted, by_content: Sequence[Digest]) -> Layer | Missing:
    """By the layer digest; by the diff id and by what the index knows where that is not published or not said."""
    found: Layer | Missing | None = None
    if wanted.layer is not None:
        found = repository.find_layer(wanted.layer)
        if isinstance(found, Layer) or found.reason is not Reason.ABSENT:
            return found
    linked = repository.find_by_diff_id(wanted.diff_id) if wanted.diff_id else None
    for digest in dict.fromkeys([*([linked] if linked else []), *by_content]):
        found = repository.find_layer(digest)
        if isinstance(found, Layer) or found.reason is not Reason.ABSENT:
            return found
    return found or repository.why_missing(f"a layer with diff id {wanted.diff_id}")

"""What each repository says of each layer of an image, asked as a Prepare would ask: opened, an entry read, and what
must stand around it known. All of it under the repositories' deadlines.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cvmfsrepo.digest import Digest, chain_id
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.outline import Outline
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Missing, Repository, deadline_in
from cvmfsrepo.walk import WalkExpired
from snapshotter.readiness import Look, WantedLayer
from snapshotter.shimstore import ShimStore

_AT_ONE_TIME = 8
_WALK_SHARE = 0.9
"""Of the deadline, as in a Prepare."""

Chains = Mapping[tuple[str, Digest], Digest]
"""What an index knows: (repository, chain id) -> the layer on top of that chain."""


@dataclass(frozen=True, slots=True)
class AskedLayer:
    """A layer by its digest; `diff_id` and `chain` are known where the image's config is."""

    digest: Digest
    size: int
    diff_id: Digest | None = None
    chain: Digest | None = None

    @property
    def wanted(self) -> WantedLayer:
        return WantedLayer(str(self.digest), self.size)


@dataclass(frozen=True, slots=True)
class _Unwalked:
    """A layer that is there and has no record: only a walk tells what must stand around it."""

    layer: Digest
    served_as: str


def asked_layers(layers: Sequence[tuple[Digest, int]], diff_ids: Sequence[Digest]) -> list[AskedLayer]:
    """Layers by digest and size, base first, with what the diff ids tell, if there are any."""
    if not diff_ids:
        return [AskedLayer(digest, size) for digest, size in layers]
    return [
        AskedLayer(digest, size, diff_ids[place], chain_id(diff_ids[: place + 1]))
        for place, (digest, size) in enumerate(layers)
    ]


def look_at(
    repositories: Sequence[GuardedRepository], layers: Sequence[AskedLayer], kept: ShimStore, chains: Chains
) -> list[tuple[WantedLayer, tuple[Look, ...]]]:
    """Every layer with the answers of all repositories, in order. `kept` has outlines that the node has already. One
    deadline is waited for where everything hangs; layers without a record are walked over one after the other."""
    asked = dict.fromkeys(layers)
    pairs = [(repository, layer) for layer in asked for repository in repositories]
    with ThreadPoolExecutor(_AT_ONE_TIME) as threads:
        answers = list(threads.map(lambda pair: _ask(pair[0], pair[1], kept, chains), pairs))
    looks = dict[AskedLayer, list[Look]]()
    for (repository, layer), answer in zip(pairs, answers, strict=True):
        found = _walked(repository, answer, kept) if isinstance(answer, _Unwalked) else answer
        looks.setdefault(layer, []).append(found)
    return [(layer.wanted, tuple(looks.get(layer, ()))) for layer in layers]


def _ask(guarded: GuardedRepository, layer: AskedLayer, kept: ShimStore, chains: Chains) -> Look | _Unwalked:
    answer: Look | _Unwalked | Missing = guarded.call(
        lambda: _look(guarded.repository, layer, kept, chains), layer.digest
    )
    return Look(guarded.name, str(answer.reason), answer.detail) if isinstance(answer, Missing) else answer


def _look(repository: Repository, layer: AskedLayer, kept: ShimStore, chains: Chains) -> Look | _Unwalked | Missing:
    digest, served_as, found = layer.digest, "", repository.find_layer(layer.digest)
    known = chains.get((repository.name, layer.chain)) if layer.chain else None
    if isinstance(found, Missing) and found.reason is Reason.ABSENT and known and known != digest:
        digest, served_as, found = known, str(known), repository.find_layer(known)
    if isinstance(found, Missing):
        return _missing(repository, layer, found)
    try:
        outline = _kept(kept, digest) or repository.find_outline(digest)
    except DataLoss as error:
        return Missing(Reason.MARKERS_UNAVAILABLE, str(error))
    return _served(repository.name, outline, served_as) if outline else _Unwalked(digest, served_as)


def _missing(repository: Repository, layer: AskedLayer, missing: Missing) -> Look | Missing:
    """Absent by its name; the same content may be there by another, which only some clients ask for."""
    linked = None
    if missing.reason is Reason.ABSENT and layer.diff_id:
        linked = repository.find_by_diff_id(layer.diff_id)
    if linked is None:
        return missing
    detail = f"{missing.detail}; the same content is there as {linked}, for clients that name diff ids"
    return Look(repository.name, str(missing.reason), detail, served_as=str(linked))


def _walked(guarded: GuardedRepository, unwalked: _Unwalked, kept: ShimStore) -> Look:
    """A Prepare waits no longer for a walk either; but there it goes on for the next pull."""
    layer, until = unwalked.layer, deadline_in(_WALK_SHARE * guarded.deadline)

    def walk() -> Look | Missing:
        try:
            outline = guarded.repository.walk_outline(layer, until)
        except (DataLoss, WalkExpired) as error:
            return Missing(Reason.MARKERS_UNAVAILABLE, f"layer {layer} has no tree record: {error}")
        return _served(guarded.name, outline, unwalked.served_as)

    answer: Look | Missing = guarded.call(walk, layer)
    return Look(guarded.name, str(answer.reason), answer.detail) if isinstance(answer, Missing) else answer


def _served(repository: str, outline: Outline, served_as: str) -> Look:
    deletions = len({*outline.whiteouts, *outline.devices}) + len(outline.opaques)
    return Look(repository, markers=deletions, served_as=served_as)


def _kept(kept: ShimStore, layer: Digest) -> Outline | None:
    """What the node knows already; another user may not read it."""
    try:
        return kept.find_outline(layer)
    except OSError:
        return None

"""A build, top to bottom: look whether anything was published, read the repositories, plan, write."""

import contextlib
import gc
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cvmfsrepo.errors import FailedPrecondition
from podmanstore.apply import Changes, apply, is_half_done
from podmanstore.configs import Cache, Fetch
from podmanstore.gather import Gathered, Progress, Terms, gather, silent
from podmanstore.lockfiles import building
from podmanstore.places import Place
from podmanstore.plan import Plan, plan
from podmanstore.prune import Pruned, prune
from podmanstore.reading import Remembered
from podmanstore.records import IMAGES_JSON, LAYERS_JSON, read_images, read_layers
from podmanstore.state import STATE, State, find_state, keep_state
from podmanstore.values import LeftOut

CONFIGS = "configs"
"""Directory of a store with the documents that were fetched."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be built: `layers_only` lists no images, `fetch` brings what the repositories lack, `mend` trusts
    nothing that an earlier build left. `memory` is the file for what a build remembers, if not one of the store's."""

    places: tuple[Place, ...]
    store: Path
    terms: Terms
    layers_only: bool = False
    fetch: Fetch | None = None
    mend: bool = False
    memory: Path | None = None

    @property
    def state(self) -> Path:
        return self.memory or self.store / STATE

    @property
    def text(self) -> str:
        """All that decides what the store holds, but for what is in the repositories."""
        terms = self.terms
        return json.dumps(
            {
                "repositories": [[str(place.repository.layout.root), str(place.links_to)] for place in self.places],
                "mount": str(terms.mount),
                "platform": [terms.platform.os, terms.platform.architecture],
                "only": None if terms.only is None else sorted(map(str, terms.only)),
                "layers only": self.layers_only,
            }
        )


@dataclass(frozen=True, slots=True)
class Built:
    """What a build did: `images` and `layers` are what the store lists now, `is_new` where there was none before."""

    store: Path
    changes: Changes
    images: int
    layers: int
    left_out: tuple[LeftOut, ...]
    revisions: tuple[int | None, ...]
    is_new: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """The revisions and identities of the repositories when a build begins, in the order of the request."""

    revisions: tuple[int | None, ...]
    identities: tuple[tuple[str, str], ...]

    def is_another_than(self, state: State) -> bool:
        """Whether one of them is not that of a state: it has another name, or has gone back, or is not the same in the
        same revision."""
        if [name for name, _ in self.identities] != [name for name, _ in state.identities]:
            return True
        pairs = zip(self.revisions, self.identities, state.revisions, state.identities, strict=True)
        return any(
            now is not None and was is not None and (now < was or (now == was and identity != other))
            for now, identity, was, other in pairs
        )


def build(request: Request, progress: Progress = silent) -> Built:
    """Makes the store what the repositories have. Unavailable where one does not answer: then nothing was changed;
    otherwise as `apply`."""
    started = time.monotonic()
    with _uncollected():
        return _build(request, started, progress)


def _build(request: Request, started: float, progress: Progress) -> Built:
    seen = _seen(request)
    state = _last_state(request, seen)
    if state and (built := _unchanged(request, state, seen.revisions, started)):
        return built
    is_new = not (request.store / LAYERS_JSON).exists()
    with building(request.store):
        gathered = _gather(request, state, progress)
        if state and _is_as_left(request.store, state) and state.outcome == _outcome(gathered, request.text):
            state = msgspec.structs.replace(
                state, revisions=gathered.revisions, identities=seen.identities, images=dict(gathered.read)
            )
            keep_state(request.state, state)
            return _as_before(request.store, state, started)
        return _write(request, gathered, seen, is_new, started, progress)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for circles of objects: a build makes a million objects, no circles, and needs them to its
    end."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def build_and_prune(request: Request, dry_run: bool, progress: Progress = silent) -> tuple[Built, Pruned]:
    """Builds, and takes the layers out of the store that no image of the repositories needs; `dry_run` only says which.
    FailedPrecondition where a layer could not be read: its image would lose the others."""
    started, is_new = time.monotonic(), not (request.store / LAYERS_JSON).exists()
    with building(request.store):
        seen = _seen(request)
        gathered = _gather(request, _last_state(request, seen), progress)
        built = _write(request, gathered, seen, is_new, started, progress)
        if not gathered.complete:
            problem = "cannot be pruned while the repositories have layers that cannot be read"
            raise FailedPrecondition("store", str(request.store), problem, "look at what `build` leaves out")
        wanted = {record.id for record in plan(gathered.images).layers}
        return built, prune(request.store, wanted, dry_run)


def _seen(request: Request) -> _Seen:
    return _Seen(tuple(place.check() for place in request.places), tuple(place.identity() for place in request.places))


def _last_state(request: Request, seen: _Seen) -> State | None:
    """None where it is not to be believed: another repository at the same path may hold the same layers in another
    notation."""
    state = None if request.mend else find_state(request.state)
    if state and state.request == request.text and seen.is_another_than(state):
        return None
    return state


def _gather(request: Request, state: State | None, progress: Progress) -> Gathered:
    """What the repositories have. A state that is not the last one is as good: it knows less."""
    layers = state.layers if state and state.mount is request.terms.mount else {}
    known = Remembered(layers, state.images if state else {})
    return gather(request.places, known, request.terms, Cache(request.store / CONFIGS), request.fetch, progress)


def _write(
    request: Request, gathered: Gathered, seen: _Seen, is_new: bool, started: float, progress: Progress
) -> Built:
    """Plans the store and makes it so; it is ours meanwhile."""
    store = request.store
    listed = read_layers(store)
    planned = plan(gathered.images, listed, request.layers_only)
    progress("store written", 0, 1)
    changes = apply(store, planned, request.mend, listed)
    keep_state(
        request.state,
        State(
            mount=request.terms.mount,
            request=request.text,
            revisions=gathered.revisions,
            identities=seen.identities,
            layers=dict(gathered.layers),
            images=dict(gathered.read),
            left_out=_left_out(gathered, planned),
            outcome=_outcome(gathered, request.text),
            listed=_listed(store) or "",
        ),
    )
    progress("store written", 1, 1)
    return Built(
        store=store,
        changes=changes,
        images=len(planned.images),
        layers=len(planned.layers),
        left_out=_left_out(gathered, planned),
        revisions=gathered.revisions,
        is_new=is_new,
        seconds=time.monotonic() - started,
    )


def _unchanged(request: Request, state: State, revisions: tuple[int | None, ...], started: float) -> Built | None:
    """The outcome where the last build was asked the same of the same revisions, and left this store: nothing is read
    but the indices. A plain directory has no revision, and is looked into each time."""
    store = request.store
    if None in revisions or (state.request, state.revisions) != (request.text, revisions):
        return None
    if (request.fetch and state.left_out) or not _is_as_left(store, state):
        return None
    return _as_before(store, state, started)


def _is_as_left(store: Path, state: State) -> bool:
    """Whether a store is what the build of a state made it, as its indices tell. A build that died may have made it
    another one, or half of one, before it could keep its own state."""
    return not is_half_done(store) and _listed(store) == state.listed


def _as_before(store: Path, state: State, started: float) -> Built:
    return Built(
        store=store,
        changes=Changes(),
        images=len(read_images(store)),
        layers=len(read_layers(store)),
        left_out=state.left_out,
        revisions=state.revisions,
        is_new=False,
        seconds=time.monotonic() - started,
    )


def _outcome(gathered: Gathered, request: str) -> str:
    """Names what was asked and found: while this and what the store lists are the same, a plan would be."""
    found = hashlib.sha256(request.encode())
    for image in sorted(gathered.images, key=lambda image: (image.id, image.names)):
        documents = (image.config, image.manifest, *image.indexes)
        layers = "".join(layer.layer for layer in image.layers)
        found.update(repr((image.names, image.is_original, image.created, layers)).encode())
        found.update(b"".join(hashlib.sha256(document).digest() for document in documents))
    found.update(repr(gathered.left_out).encode())
    return found.hexdigest()


def _listed(store: Path) -> str | None:
    """Names what a store lists; None where it has no indices."""
    found = hashlib.sha256()
    try:
        for index in (LAYERS_JSON, IMAGES_JSON):
            found.update(hashlib.sha256((store / index).read_bytes()).digest())
    except FileNotFoundError:
        return None
    return found.hexdigest()


def _left_out(gathered: Gathered, planned: Plan) -> tuple[LeftOut, ...]:
    every = {*gathered.left_out, *planned.left_out}
    return tuple(sorted(every, key=lambda out: (out.name, out.reason)))

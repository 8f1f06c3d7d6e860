"""What a store can hold: the images of some repositories with their layers opened and known, or why not.

Only this, `reading`, `configs` and `held` read repositories. One that does not answer ends the build: nothing is to be
taken out of a store because a network was away for a while.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, partial

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.oci import Descriptor, ImageConfig, Platform, Reference, parse_config
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Layer, Missing
from podmanstore.configs import FETCH, Cache, Documents, Fetch
from podmanstore.held import Wanted, hold
from podmanstore.names import podman_name, podman_reference
from podmanstore.places import Place
from podmanstore.reading import KeptImage, Read, Remembered, key_of, read_image, with_fetched
from podmanstore.values import HeldImage, HeldLayer, LeftOut, Mount

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of a build: `only` these images (podman's references), where not None."""

    mount: Mount
    platform: Platform
    only: frozenset[Reference] | None = None


@dataclass(frozen=True, slots=True)
class Gathered:
    """`layers` are all that the images name and that can be held, by their hex digits. `revisions` has each place's
    revision, None where the repository has none, or where a layer could not be read that may be there the next time;
    then it is not `complete`. `read` is what the next build may be told of images."""

    images: tuple[HeldImage, ...]
    left_out: tuple[LeftOut, ...]
    layers: Mapping[str, HeldLayer]
    revisions: tuple[int | None, ...]
    complete: bool = True
    read: Mapping[str, KeptImage] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Draft:
    """An image whose documents are known."""

    reference: Reference
    documents: Documents
    layers: tuple[Wanted, ...]
    created: str


@dataclass(slots=True)
class _Layers:
    """Layers by their hex digits: held ones, and what is wrong with the others."""

    held: dict[str, HeldLayer]
    problems: dict[str, str] = field(default_factory=dict)
    again: bool = False
    """Whether one failed that may be there the next time."""


def gather(
    places: Sequence[Place], known: Remembered, terms: Terms, cache: Cache, fetch: Fetch | None = None,
    progress: Progress = silent,
) -> Gathered:  # fmt: skip
    """Reads the images of all places, in their order. Layers that are `known` are not looked at, and known images are
    not read while they are the same; a layer that several repositories hold is the first one's. `fetch` brings configs
    that no place has. Unavailable where a repository does not answer."""
    layers = _Layers({name: layer for name, layer in known.layers.items() if _is_of_one(places, layer)})
    images, left_out, revisions = list[HeldImage](), list[LeftOut](), list[int | None]()
    seen, read, complete = dict[str, HeldLayer](), dict[str, KeptImage](), True
    for place in places:
        revision, layers.again = place.check(), False
        found = _read_images(place, _images_of(known, place, revision), terms, cache, fetch, progress)
        read.update(_kept(place, found))
        drafts, out = _drafts(found, terms.platform)
        left_out += out
        _read_layers(place, terms.mount, drafts, layers, progress)
        for draft in drafts:
            if problem := _problem_of(draft, layers):
                left_out.append(LeftOut(podman_name(draft.reference), problem))
            else:
                images.append(_assemble(draft, layers))
            seen |= {wanted.name: layers.held[wanted.name] for wanted in draft.layers if wanted.name in layers.held}
        place.check()  # what went away in the middle looks like images that are gone
        revisions.append(None if layers.again else revision)
        complete = complete and not layers.again
    left_out += _unpublished(terms, [*(name for image in images for name in image.names), *(o.name for o in left_out)])
    return Gathered(tuple(images), tuple(left_out), seen, tuple(revisions), complete, read)


def _images_of(known: Remembered, place: Place, revision: int | None) -> Mapping[str, KeptImage] | None:
    """What is known of a place's images; None where stamps tell nothing."""
    return known.images if revision is None and place.has_own_times() else None


def _is_of_one(places: Sequence[Place], layer: HeldLayer) -> bool:
    return any(layer.target.startswith(f"{place.links_to}/") for place in places)


def _unpublished(terms: Terms, found: Iterable[str]) -> Iterator[LeftOut]:
    names = frozenset(found)
    for reference in sorted(map(str, terms.only or ())):
        if reference not in names:
            yield LeftOut(reference, "is not published in any of the repositories; look at its name and tag")


def _read_images(
    place: Place, known: Mapping[str, KeptImage] | None, terms: Terms, cache: Cache, fetch: Fetch | None,
    progress: Progress,
) -> list[Read | LeftOut]:  # fmt: skip
    references = place.ask(lambda: list(place.repository.walk_images()), place.walk_seconds)
    wanted = [r for r in references if terms.only is None or podman_reference(r) in terms.only]
    found = list[Read | LeftOut]()
    for read in place.ask_each(partial(read_image, place.repository, cache, known), wanted):
        found.append(read)
        progress("images read", len(found), len(wanted))
    if fetch is None:
        return found
    whole = list[Read | LeftOut]()
    for read in with_fetched(found, fetch, cache):
        whole.append(read)
        progress("configs fetched", len(whole), len(found))
    return whole


def _kept(place: Place, found: Iterable[Read | LeftOut]) -> Iterator[tuple[str, KeptImage]]:
    for each in found:
        if isinstance(each, Read) and each.kept:
            yield key_of(place.repository, each.image.reference), each.kept


def _drafts(found: Iterable[Read | LeftOut], platform: Platform) -> tuple[list[_Draft], list[LeftOut]]:
    drafts = [_draft(read, platform) if isinstance(read, Read) else read for read in found]
    return [d for d in drafts if isinstance(d, _Draft)], [d for d in drafts if isinstance(d, LeftOut)]


def _draft(read: Read, platform: Platform) -> _Draft | LeftOut:
    """An image that this node's podman could run, as far as its documents tell."""
    name, manifest = podman_name(read.image.reference), read.image.manifest
    if read.documents is None:
        where = f"config {manifest.config.digest} is neither in the repository nor fetched"
        return LeftOut(name, f"{where}, and podman needs it; {FETCH}")
    try:
        config = _parse(read.documents.config, f"config {manifest.config.digest} of image")
        diff_ids = config.rootfs.diff_id_texts
    except InvalidArgument as error:
        return LeftOut(name, str(error))
    if problem := _misfit(config, platform) or next(filter(None, map(_unservable, manifest.layers)), ""):
        return LeftOut(name, problem)
    if len(diff_ids) != len(manifest.layers):
        problem = f"its config names {len(diff_ids)} diff ids for {len(manifest.layers)} layers"
        return LeftOut(name, f"{problem}; build and publish it again")
    layers = tuple(map(_wanted, manifest.layers, diff_ids))
    return _Draft(read.image.reference, read.documents, layers, _created(config))


_decode_config = msgspec.json.Decoder(ImageConfig).decode


def _parse(content: bytes, thing: str) -> ImageConfig:
    """A config: as its specification spells it, which is quick, or as anybody does."""
    try:
        return _decode_config(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return parse_config(content, thing)


def _wanted(blob: Descriptor, diff_id: str) -> Wanted:
    return Wanted(blob, _digest(blob.digest_text), _digest(diff_id))


@lru_cache(1 << 16)
def _digest(text: str) -> Digest:
    """Images share layers: each is named many times."""
    return Digest.parse(text)


def _misfit(config: ImageConfig, platform: Platform) -> str:
    found = (config.os or platform.os, config.architecture or platform.architecture)
    if found == (platform.os, platform.architecture):
        return ""
    return f"is for {found[0]}/{found[1]}, and the store for {platform.os}/{platform.architecture} (--platform)"


def _unservable(blob: Descriptor) -> str:
    if "nondistributable" in blob.mediatype or "foreign" in blob.mediatype:
        return f"layer {blob.digest} is a foreign layer ({blob.mediatype}), which no repository holds"
    return f"layer {blob.digest} is encrypted ({blob.mediatype})" if "+encrypted" in blob.mediatype else ""


_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def _created(config: ImageConfig) -> str:
    """The time that the config tells, where it is one: podman would read nothing of a store with any other text."""
    text = config.created or ""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return NEVER
    return text if _RFC_3339.fullmatch(text) and not text.startswith("0000") else NEVER


NEVER = "1970-01-01T00:00:00Z"


def _read_layers(place: Place, mount: Mount, drafts: Iterable[_Draft], layers: _Layers, progress: Progress) -> None:
    """All layers of the drafts that are not held yet: found, which shows whether the repository answers, and read."""
    every = {wanted.name: wanted for draft in drafts for wanted in draft.layers}
    new = [wanted for name, wanted in sorted(every.items()) if name not in layers.held]
    layers.problems.clear()
    found = list[Wanted]()
    for wanted, answer in zip(new, place.ask_each(place.repository.find_layer, [w.digest for w in new]), strict=True):
        if isinstance(answer, Layer):
            found.append(wanted)
        else:
            _note(place, layers, wanted, answer)
    if layers.again and not found and layers.held.keys().isdisjoint(every):
        raise place.unavailable(next(iter(layers.problems.values())))
    answers = place.ask_each(partial(hold, place, mount), found, place.walk_seconds)
    for number, (wanted, held) in enumerate(zip(found, answers, strict=True), 1):
        if isinstance(held, HeldLayer):
            layers.held[held.layer] = held
        elif isinstance(held, Missing):
            _note(place, layers, wanted, held)
        else:
            layers.problems[wanted.name] = held.problem
        progress("layers read", number, len(found))


_OF_THE_REPOSITORY = frozenset({Reason.UNMOUNTED, Reason.STALE, Reason.TIMEOUT})
_FOR_EVER = frozenset({Reason.ABSENT, Reason.DENIED})


def _note(place: Place, layers: _Layers, wanted: Wanted, missing: Missing) -> None:
    """One layer that cannot be had. An error on one among others that are held is that layer's own trouble: a catalog
    that is lost must not keep all other images from being served."""
    if missing.reason in _OF_THE_REPOSITORY:
        raise place.unavailable(missing.detail)
    layers.problems[wanted.name] = missing.detail
    layers.again = layers.again or missing.reason not in _FOR_EVER


def _problem_of(draft: _Draft, layers: _Layers) -> str:
    """Why an image cannot stand on what is held, or ""."""
    for wanted in draft.layers:
        held = layers.held.get(wanted.name)
        if held is None:
            return layers.problems[wanted.name]
        if held.diff_id != wanted.diff_id.hex:
            said = f"unpacks to sha256:{held.diff_id}, and the image's config says {wanted.diff_id}"
            return f"layer {wanted.digest} {said}; build and publish it again"
    return ""


def _assemble(draft: _Draft, layers: _Layers) -> HeldImage:
    return HeldImage(
        names=(podman_name(draft.reference),),
        manifest=draft.documents.manifest,
        is_original=draft.documents.is_original,
        config=draft.documents.config,
        layers=tuple(layers.held[wanted.name] for wanted in draft.layers),
        created=draft.created,
        indexes=draft.documents.indexes,
    )

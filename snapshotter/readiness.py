"""Whether an image would run without a download: what repositories say of its layers -> a verdict. Pure.

containerd asks for the layers from the base upwards. The first one that is not served makes it fetch that layer and all
above it, those too that it finds served later: so one missing base layer costs the whole image, and a missing top
layer itself alone. A blob that stands twice in an image is fetched once.
"""

from collections.abc import Collection, Sequence

import msgspec

from cvmfsrepo.reasons import Reason


class Look(msgspec.Struct, frozen=True):
    """What one repository says of a layer: `reason` is "" where it is served, else one of `cvmfsrepo.reasons`, with a
    sentence in `detail`. `markers` are its deletions and opaque directories, None where not known; `served_as` another
    digest under which the same content is published."""

    repository: str
    reason: str = ""
    detail: str = ""
    markers: int | None = None
    served_as: str = ""

    @property
    def is_served(self) -> bool:
        return not self.reason


class WantedLayer(msgspec.Struct, frozen=True):
    """A layer of the image: its digest and the bytes of its compressed blob."""

    digest: str
    size: int


class LayerVerdict(msgspec.Struct, frozen=True):
    """One layer, numbered from 1 at the base. `served_by` is the repository that serves it, "" where none does;
    `is_downloaded` is also true for a layer that is served and stands above one that is not."""

    number: int
    digest: str
    size: int
    served_by: str
    is_downloaded: bool
    looks: tuple[Look, ...]


class EngineVerdict(msgspec.Struct, frozen=True):
    """Whether the engine asks this node for layers at all: `faults` keep it from it. `said` is a sentence, also where
    it was not checked."""

    said: str = "not checked"
    faults: tuple[str, ...] = ()


_UNCHECKED = EngineVerdict()


class Saving(msgspec.Struct, frozen=True):
    """The layer whose publication alone would save the most bytes of a download."""

    number: int
    digest: str
    bytes_saved: int


class Verdict(msgspec.Struct, frozen=True):
    """`ready` where nothing would be downloaded. `first_missing` is the number of the lowest layer that is not served;
    `refused` where the node's policy lets no download happen; `notes` are what else matters. An engine that does not
    ask downloads everything, whatever the layers say."""

    image: str
    origin: str
    platform: str
    ready: bool
    total_bytes: int
    download_bytes: int
    layers: tuple[LayerVerdict, ...]
    first_missing: int | None = None
    best: Saving | None = None
    refused: bool = False
    engine: EngineVerdict = _UNCHECKED
    notes: tuple[str, ...] = ()


def judge(
    layers: Sequence[tuple[WantedLayer, tuple[Look, ...]]], *, image: str = "", origin: str = "", platform: str = "",
    refused: bool = False, notes: Sequence[str] = (), engine: EngineVerdict = _UNCHECKED,
) -> Verdict:  # fmt: skip
    """The verdict on layers, base first, each with what the repositories say of it, in their order of priority.
    `refused`: the node's policy forbids that anything of it is downloaded."""
    wanted = [layer for layer, _ in layers]
    served = [next((look for look in looks if look.is_served), None) for _, looks in layers]
    missing = [place for place, look in enumerate(served) if look is None]
    first = missing[0] if missing else len(layers)
    verdicts = tuple(
        LayerVerdict(place + 1, layer.digest, layer.size, look.repository if look else "", place >= first, looks)
        for place, ((layer, looks), look) in enumerate(zip(layers, served, strict=True))
    )
    return Verdict(
        image=image,
        origin=origin,
        platform=platform,
        ready=not missing and not engine.faults,
        total_bytes=download_bytes(wanted, [0]),
        download_bytes=download_bytes(wanted, [0] if engine.faults else missing),
        layers=verdicts,
        first_missing=first + 1 if missing else None,
        best=_best(wanted, missing, [place for place in missing if _can_be_published(layers[place][1])]),
        refused=refused and bool(missing),
        engine=engine,
        notes=tuple(notes),
    )


def download_bytes(layers: Sequence[WantedLayer], missing: Collection[int]) -> int:
    """Compressed bytes that are fetched where the layers at these places (from 0) are not served."""
    fetched = layers[min(missing) :] if missing else ()
    return sum({layer.digest: layer.size for layer in fetched}.values())


def _can_be_published(looks: Sequence[Look]) -> bool:
    """A repository that does not answer may have the layer: publishing it once more helps nobody."""
    return any(look.reason in (Reason.ABSENT, Reason.MARKERS_UNAVAILABLE) for look in looks)


def _best(layers: Sequence[WantedLayer], missing: Sequence[int], publishable: Sequence[int]) -> Saving | None:
    """Publication of a layer serves it wherever it stands in the image."""
    whole, best = download_bytes(layers, missing), None
    for place in publishable:
        left = [other for other in missing if layers[other].digest != layers[place].digest]
        saved = whole - download_bytes(layers, left)
        if saved > (best.bytes_saved if best else 0):
            best = Saving(place + 1, layers[place].digest, saved)
    return best

"""What is wanted, and how it stands: state -> lines. Asks no registry."""

from collections.abc import Iterator
from typing import Literal

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Platform
from publisher.source import parse_platform
from publisher.wishes.run import is_published
from publisher.wishes.state import ImageState, StateDirectory

Word = Literal["present", "gone", "failed", "never tried", "stale"]


class Line(msgspec.Struct, frozen=True):
    """One image. `gone` was published and is not in the repository any more; `stale` is there and no longer wanted.
    `since` is when it was published or began to fail, in seconds since 1970."""

    name: str
    word: Word
    reason: str = ""
    since: float = 0


def walk_status(state: StateDirectory, layout: Layout) -> Iterator[Line]:
    """Wanted images in their order, then stale ones."""
    known, wanted = {image.reference: image for image in state.walk()}, state.wanted()
    names = wanted.references if wanted else ()
    for name in names:
        yield _line(known.get(name), name, layout)
    for name in sorted(set(known) - set(names)):
        if known[name].digest and _is_there(known[name], layout):
            yield Line(name, "stale", "is no longer wished for", known[name].published_at)


def _line(image: ImageState | None, name: str, layout: Layout) -> Line:
    if image is None:
        return Line(name, "never tried")
    if image.reason:
        return Line(name, "failed", image.reason, image.failed_since)
    if not _is_there(image, layout):
        return Line(name, "gone", "is not in the repository as it was published", image.published_at)
    return Line(name, "present", "", image.published_at)


def _is_there(image: ImageState, layout: Layout) -> bool:
    platforms: list[Platform] = [parse_platform(part.platform) for part in image.parts]
    return is_published(layout, image, Digest.parse(image.digest), platforms)

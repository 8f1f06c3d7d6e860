"""One pass over a wish list: what is unchanged costs one request, the rest is published, and each image has an outcome.

A second pass writes nothing into the repository. An image that is no longer wished for stays: only `remove` and
`collect` take things away.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, NotFound, Unavailable
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Platform, Reference, parse_config
from cvmfsrepo.repository import Pointer
from publisher.progress import Listener
from publisher.publishing.form import PLAINLY, Order, Refused, Report, Terms
from publisher.publishing.publish import publish_images
from publisher.transactions.contract import Target
from publisher.wishes.expand import AT_A_TIME, Registry, expand
from publisher.wishes.recipe import Recipe
from publisher.wishes.state import ImageState, Part, StateDirectory, Wanted

_FIRST_WAIT, _LONGEST_WAIT = 60.0, 6 * 3600.0
"""Seconds before `watch` tries a failed image again: doubled each time."""

Word = Literal["present", "published", "failed", "waiting", "stopped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image, or of a wish that could not be expanded. `waiting` is a failure that is not yet due
    for another attempt."""

    name: str
    word: Word
    reason: str = ""

    @property
    def is_complete(self) -> bool:
        return self.word in ("present", "published")


@dataclass(frozen=True, slots=True)
class Pass:
    """How a pass is made. `together` images share a publication; with `patient`, images that failed are left until
    they are due; `stopped` is asked between images."""

    target: Target
    registry: Registry
    state: StateDirectory
    terms: Terms = PLAINLY
    together: int = 1
    patient: bool = False
    listener: Listener | None = None
    stopped: Callable[[], bool] = field(default=lambda: False)

    def run(self, recipe: Recipe) -> tuple[Outcome, ...]:
        """The outcome of each wanted image. Unavailable where another pass uses the state directory."""
        with self.state.locked(self.terms.wait), self._with_patience():
            expansion = expand(recipe.wishes, self.registry)
            self._remember(recipe, expansion.references, bool(expansion.failures))
            outcomes = {reference: Outcome(str(reference), "stopped") for reference in expansion.references}
            changed = list[tuple[Reference, Digest]]()
            with ThreadPoolExecutor(AT_A_TIME) as side_by_side:
                looks = side_by_side.map(lambda one: self._look(one, recipe.options.platforms), outcomes)
                for reference, found in zip(outcomes, looks, strict=True):
                    if isinstance(found, Digest):
                        changed.append((reference, found))
                    else:
                        outcomes[reference] = found
            for place in range(0, len(changed), self.together):
                if self.stopped():
                    break
                group = changed[place : place + self.together]
                outcomes |= self._publish(group, recipe.options.platforms)
            failed = (Outcome(str(wish), "failed", str(error)) for wish, error in expansion.failures)
            return (*outcomes.values(), *failed)

    @contextmanager
    def _with_patience(self) -> Iterator[None]:
        """What registries asked for in one pass holds in the next."""
        self.registry.leave_alone(self.state.left_alone())
        try:
            yield
        finally:
            self.state.write_left_alone(self.registry.left_alone())

    def _remember(self, recipe: Recipe, references: Sequence[Reference], partly: bool) -> None:
        """Where a pattern could not be expanded, what it meant before is not taken for unwanted."""
        names = dict.fromkeys(map(str, references))
        if partly and (before := self.state.wanted()):
            names |= dict.fromkeys(before.references)
        self.state.write_wanted(Wanted(recipe.name, tuple(names)))

    def _look(self, reference: Reference, platforms: Sequence[Platform]) -> Outcome | Digest:
        """An outcome where nothing is to be done, else what is to be published."""
        if self.stopped():
            return Outcome(str(reference), "stopped")
        known = self.state.find(reference)
        if self.patient and known and known.reason and known.retry_at > time.time():
            return Outcome(str(reference), "waiting", known.reason)
        try:
            digest = self.registry.find_digest(reference)
            if known and not known.reason and is_published(self.target.layout, known, digest, platforms):
                return Outcome(str(reference), "present")
        except ContractError as error:
            return self._failed(reference, error)
        return digest

    def _publish(
        self, group: Sequence[tuple[Reference, Digest]], platforms: Sequence[Platform]
    ) -> dict[Reference, Outcome]:
        outcomes, orders = dict[Reference, Outcome](), dict[Reference, list[tuple[Platform, Order]]]()
        for reference, digest in group:
            try:
                orders[reference] = list(self._orders(reference, digest, platforms))
            except ContractError as error:
                outcomes[reference] = self._failed(reference, error)
        try:
            flat = [order for some in orders.values() for _, order in some]
            results = iter(publish_images(self.target, flat, self.terms, self.listener) if flat else ())
        except ContractError as error:
            return outcomes | {reference: self._failed(reference, error) for reference in orders}
        digests = dict(group)
        for reference, some in orders.items():
            mine = [(platform, next(results)) for platform, _ in some]
            outcomes[reference] = self._concluded(reference, digests[reference], mine)
        return outcomes

    def _orders(
        self, reference: Reference, digest: Digest, platforms: Sequence[Platform]
    ) -> Iterator[tuple[Platform, Order]]:
        """By the digest that was found, so that a tag that moves meanwhile changes nothing. Platforms after the first
        are named by their manifest's digest: no tag of the registry can be mistaken for them."""
        exact = Reference(reference.registry, reference.repository, None, digest)
        for number, platform in enumerate(platforms):
            source = self.registry.open(exact, platform)
            if not source.indexes:
                _check_platform(reference, source.config, platforms)
            manifest = Digest.of(source.manifest)
            name = Reference(reference.registry, reference.repository, None, manifest) if number else reference
            yield platform, Order(source, name)
            if not source.indexes:
                return

    def _concluded(
        self, reference: Reference, digest: Digest, results: Sequence[tuple[Platform, Report | Refused]]
    ) -> Outcome:
        for _, result in results:
            if isinstance(result, Refused):
                return self._failed(reference, result.error)
        parts = [
            Part(_text(platform), str(report.reference), str(report.manifest))
            for platform, report in results
            if isinstance(report, Report)
        ]
        changed = any(isinstance(report, Report) and report.changed for _, report in results)
        state = ImageState(
            reference=str(reference), digest=str(digest), parts=tuple(parts), published_at=round(time.time(), 3)
        )
        self.state.write(state)
        return Outcome(str(reference), "published" if changed else "present")

    def _failed(self, reference: Reference, error: ContractError) -> Outcome:
        """What was published before stays, and stays known."""
        known, now = self.state.find(reference) or ImageState(reference=str(reference)), time.time()
        attempts = known.attempts + 1 if known.reason else 1
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(attempts - 1, 20))
        wait = max(wait, getattr(error, "seconds", 0.0))
        self.state.write(
            ImageState(
                reference=known.reference, digest=known.digest, parts=known.parts, published_at=known.published_at,
                reason=str(error), failed_since=known.failed_since if known.reason else round(now, 3),
                attempts=attempts, retry_at=round(now + wait, 3),
            )
        )  # fmt: skip
        return Outcome(str(reference), "failed", str(error))


def is_published(layout: Layout, known: ImageState, digest: Digest, platforms: Sequence[Platform]) -> bool:
    """Whether the digest was published for these platforms and is still what the repository shows: a few small reads,
    no walk of layers."""
    wanted = [_text(platform) for platform in platforms]
    have = [part.platform for part in known.parts]
    if known.digest != str(digest) or have not in (wanted, wanted[:1]):
        return False
    if have != wanted and any(part.manifest != known.digest for part in known.parts):
        return False  # an index, and not all of its platforms: only an image without an index has one part
    return all(_shows(layout, part) for part in known.parts)


def _shows(layout: Layout, part: Part) -> bool:
    reference = Reference.parse(part.name)
    path: Path = layout.image_pointer(reference)
    try:
        pointer = Pointer.parse(path.read_bytes(), "image pointer")
    except (FileNotFoundError, NotADirectoryError, ContractError):
        return False
    except OSError as error:
        raise Unavailable("image", part.name, f"cannot be looked at: {error.strerror}", "look at the disk") from None
    return str(pointer.manifest) == part.manifest and layout.manifest_json(reference).is_file()


def _check_platform(reference: Reference, config: bytes, platforms: Sequence[Platform]) -> None:
    found = parse_config(config)
    if found.architecture and (found.os, found.architecture) not in [(p.os, p.architecture) for p in platforms]:
        problem = f"is for {found.os}/{found.architecture} only"
        raise NotFound("image", str(reference), problem, f"wanted is {', '.join(map(_text, platforms))}")


def _text(platform: Platform) -> str:
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)

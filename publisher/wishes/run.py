"""One pass over a wish list: what is unchanged costs one request, the rest is published, and each image has an outcome.

A second pass writes nothing into the repository. An image that is no longer wished for stays: only `remove` and
`collect` take things away.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, Unavailable
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Platform, Reference
from cvmfsrepo.repository import Pointer
from publisher.progress import Listener
from publisher.publishing.form import PLAINLY, Terms
from publisher.publishing.publish import publish_images
from publisher.telling.observer import UNOBSERVED, Observer
from publisher.transactions.contract import Target
from publisher.wishes.expand import AT_A_TIME, Registry, expand
from publisher.wishes.ordering import Made, NotShown, platform_text, publish_together
from publisher.wishes.recipe import Recipe
from publisher.wishes.state import ImageState, Part, StateDirectory, Wanted

_FIRST_WAIT, _LONGEST_WAIT = 60.0, 6 * 3600.0
"""Seconds before `watch` tries a failed image again: doubled each time."""

Word = Literal["present", "published", "failed", "waiting", "stopped", "expired"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image, or of a wish that could not be expanded. `waiting` is a failure that is not yet due
    for another attempt; `expired` is left alone until something else is pushed under its name."""

    name: str
    word: Word
    reason: str = ""

    @property
    def is_complete(self) -> bool:
        return self.word in ("present", "published", "expired")


@dataclass(frozen=True, slots=True)
class Pass:
    """How a pass is made. `together` images share a publication; with `patient`, images that failed are left until
    they are due; `terms.stopped` is asked between images, too; what changed is seen to have changed when the pass
    `started`."""

    target: Target
    registry: Registry
    state: StateDirectory
    terms: Terms = PLAINLY
    together: int = 1
    patient: bool = False
    listener: Listener | None = None
    observer: Observer = UNOBSERVED
    started: float = field(default_factory=time.time)

    def run(self, recipe: Recipe) -> tuple[Outcome, ...]:
        """The outcome of each wanted image. Unavailable where another pass uses the state directory."""
        with self.state.locked(self.terms.wait, self.terms.stopped), self._with_patience():
            expansion = expand(recipe.wishes, self.registry)
            wanted = self._remember(recipe, expansion.references, bool(expansion.failures))
            outcomes = {reference: Outcome(str(reference), "stopped") for reference in expansion.references}
            changed = list[tuple[Reference, Digest]]()
            with ThreadPoolExecutor(AT_A_TIME) as side_by_side:
                looks = side_by_side.map(lambda one: self._look(one, recipe.options.platforms, wanted), outcomes)
                for reference, found in zip(outcomes, looks, strict=True):
                    if isinstance(found, Digest):
                        changed.append((reference, found))
                    else:
                        outcomes[reference] = found
            changed.sort(key=lambda one: self._tried_at(one[0]))
            made, is_through = self._publish(changed, recipe.options.platforms)
            outcomes |= made
            unfinished = tuple(self._walk_unfinished()) if is_through else ()
            for _, error in expansion.failures:
                self.observer.failed(error)
            failed = (Outcome(str(wish), "failed", str(error)) for wish, error in expansion.failures)
            return (*outcomes.values(), *failed, *unfinished)

    def _publish(
        self, changed: Sequence[tuple[Reference, Digest]], platforms: Sequence[Platform]
    ) -> tuple[dict[Reference, Outcome], bool]:
        """What became of those that could be tried, and whether all were: not where it was stopped, or the repository
        cannot be published to."""
        outcomes = dict[Reference, Outcome]()
        for place in range(0, len(changed), self.together):
            if self.terms.stopped():
                return outcomes, False
            group = dict(changed[place : place + self.together])
            made = publish_together(self.target, self.registry, group, platforms, self.terms, self.listener)
            outcomes |= {one: self._concluded(one, group[one], made[one]) for one in made}
            if trouble := next((one for one in made.values() if isinstance(one, NotShown)), None):
                later = changed[place + self.together :]
                return outcomes | {one: Outcome(str(one), "stopped", str(trouble.error)) for one, _ in later}, False
        return outcomes, not self.terms.stopped()

    def _walk_unfinished(self) -> Iterator[Outcome]:
        """Makes what the repository is to hold besides images and does not, where no image's publication made it; an
        outcome, under the repository's name, where it cannot be made."""
        layout, finish = self.target.layout, self.target.finish
        if finish is None or not finish.is_due(layout):
            return
        try:
            publish_images(self.target, (), self.terms)
        except ContractError as error:
            self.observer.failed(error)
            yield Outcome(str(layout.root), "failed", str(error))

    def _tried_at(self, reference: Reference) -> float:
        """0 where nothing failed, and later for what failed later: an image with which no publication succeeds ends a
        pass, and must not keep the same others from being tried in each one."""
        known = self.state.find(reference)
        return known.retry_at if known and known.reason else 0.0

    @contextmanager
    def _with_patience(self) -> Iterator[None]:
        """What registries asked for in one pass holds in the next."""
        self.registry.leave_alone(self.state.left_alone())
        try:
            yield
        finally:
            self.state.write_left_alone(self.registry.left_alone())

    def _remember(self, recipe: Recipe, references: Sequence[Reference], partly: bool) -> Wanted:
        """Where a pattern could not be expanded, what it meant before is not taken for unwanted."""
        names = dict.fromkeys(map(str, references))
        if partly and (before := self.state.wanted()):
            names |= dict.fromkeys(before.references)
        wanted = Wanted(recipe.name, tuple(names), expire_days=recipe.options.expire_days)
        self.state.write_wanted(wanted)
        return wanted

    def _look(self, reference: Reference, platforms: Sequence[Platform], wanted: Wanted) -> Outcome | Digest:
        """An outcome where nothing is to be done, else what is to be published."""
        if self.terms.stopped():
            return Outcome(str(reference), "stopped")
        known = self.state.find(reference)
        if self.patient and known and known.reason and known.retry_at > time.time():
            return Outcome(str(reference), "waiting", known.reason)
        try:
            digest = self.registry.find_digest(reference)
            end = wanted.end_of(known) if known and known.digest == str(digest) else None
            if end is not None and end <= self.started:
                return Outcome(str(reference), "expired", wanted.why_expired)
            if self._is_present(known, digest, platforms):
                return Outcome(str(reference), "present")
        except ContractError as error:
            return self._failed(reference, error)
        return digest

    def _is_present(self, known: ImageState | None, digest: Digest, platforms: Sequence[Platform]) -> bool:
        if known is None or known.reason or (self.terms.flat and not known.flat):
            return False
        return is_published(self.target.layout, known, digest, platforms)

    def _concluded(self, reference: Reference, digest: Digest, made: Made) -> Outcome:
        if isinstance(made, NotShown):
            return self._failed(reference, made.error, to_blame=False)
        if isinstance(made, ContractError):
            return self._failed(reference, made)
        reports, before = [report for _, report in made], self.state.find(reference)
        self.observer.shown(reports, before.failed_since if before and before.reason else self.started)
        if error := next((one.error for one in reports if one.error), None):  # all is shown but its flat tree
            return self._failed(reference, error)
        parts = (Part(platform_text(platform), str(one.reference), str(one.manifest)) for platform, one in made)
        state = ImageState(
            reference=str(reference), digest=str(digest), parts=tuple(parts), flat=self.terms.flat,
            published_at=before.published_at if before and before.digest == str(digest) else round(time.time(), 3),
        )  # fmt: skip
        self.state.write(state)
        changed = any(report.changed for report in reports)
        return Outcome(str(reference), "published" if changed else "present")

    def _failed(self, reference: Reference, error: ContractError, to_blame: bool = True) -> Outcome:
        """What was published before stays, and stays known. One that is not `to_blame` is tried by the next pass."""
        self.observer.failed(error)
        known, now = self.state.find(reference) or ImageState(reference=str(reference)), time.time()
        attempts = (known.attempts if known.reason else 0) + to_blame
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(max(attempts - 1, 0), 20)) if to_blame else 0.0
        wait = max(wait, getattr(error, "seconds", 0.0))
        self.state.write(
            msgspec.structs.replace(
                known, reason=str(error), failed_since=known.failed_since if known.reason else round(now, 3),
                attempts=attempts, retry_at=round(now + wait, 3),
            )
        )  # fmt: skip
        return Outcome(str(reference), "failed", str(error))


def is_published(layout: Layout, known: ImageState, digest: Digest, platforms: Sequence[Platform]) -> bool:
    """Whether the digest was published for these platforms and is still what the repository shows: a few small reads,
    no walk of layers."""
    wanted = [platform_text(platform) for platform in platforms]
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

"""Works through the queue: one publication after another, oldest first, until it is told to stop."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, InvalidArgument, Unavailable
from cvmfsrepo.oci import Platform, Reference
from publisher.listening.queue import Job, Queue
from publisher.listening.webhooks import Allowed
from publisher.progress import Listener
from publisher.publishing.form import PLAINLY, Report, Terms
from publisher.telling.observer import UNOBSERVED, Observer
from publisher.transactions.contract import Target
from publisher.wishes.expand import Registry
from publisher.wishes.ordering import Made, NotShown, publish_together

_LOOK = 600.0
"""Seconds between two looks at a queue in which nothing happens."""
_AGAIN = 30.0
"""The same where it cannot be written."""


Published = tuple[Report, ...] | ContractError | NotShown
"""The reports of an image's platforms, or why it is not as it should be."""


@dataclass(frozen=True, slots=True)
class ImagePublisher:
    """How images are published: as their tags stand in the registry now, for these platforms, in one publication. Each
    asks its `registries` anew, with the logins of that time; one that asked to be left alone is left alone by all."""

    target: Target
    registries: Callable[[], AbstractContextManager[Registry]]
    platforms: Sequence[Platform]
    terms: Terms = PLAINLY
    listener: Listener | None = None
    _left_alone: dict[str, float] = field(default_factory=dict)

    def publish(self, references: Iterable[Reference]) -> dict[Reference, Published]:
        """What became of each. An image whose flat tree alone could not be made is shown, and is an error."""
        found, group = dict[Reference, Published](), dict[Reference, Digest]()
        with self.registries() as registry:
            registry.leave_alone(self._left_alone)
            for reference in references:
                try:
                    group[reference] = registry.find_digest(reference)
                except ContractError as error:
                    found[reference] = error
            made = publish_together(self.target, registry, group, self.platforms, self.terms, self.listener)
            self._left_alone.clear()
            self._left_alone.update(registry.left_alone())
        return found | {reference: _judged(one) for reference, one in made.items()}


def _judged(made: Made) -> Published:
    if isinstance(made, ContractError | NotShown):
        return made
    reports = tuple(report for _, report in made)
    return next((report.error for report in reports if report.error), None) or reports


@dataclass(frozen=True, slots=True)
class Worker:
    """`publish` does at most `together` images; `tell` says a line. What is not `allowed` any more, and what can never
    be published, is given up."""

    queue: Queue
    allowed: Allowed
    publish: Callable[[Iterable[Reference]], Mapping[Reference, Published]]
    tell: Callable[[str], None]
    observer: Observer = UNOBSERVED
    stop: threading.Event = field(default_factory=threading.Event)
    together: int = 1

    def for_ever(self) -> None:
        """Until `stop`, which ends it between two publications. A queue that cannot be written is told and tried again:
        what is posted meanwhile is refused with the reason."""
        while not self.stop.is_set():
            try:
                if not self.work_off():
                    self.queue.wait(_LOOK)
            except OSError as error:  # those of registries and of the repository are told in our words
                problem = f"cannot be written: {error.strerror or error}"
                failure = Unavailable("queue", str(self.queue.root), problem, "look at the disk")
                self.observer.failed(failure)
                self.tell(str(failure))
                self.queue.pause(_AGAIN)

    def work_off(self) -> int:
        """What is due now, or until `stop`; how many images were tried."""
        tried = 0
        while not self.stop.is_set() and (jobs := self.queue.take(self.together)):
            self._work(jobs)
            tried += len(jobs)
        return tried

    def _work(self, jobs: Sequence[Job]) -> None:
        wanted = {job: Reference.parse(job.reference) for job in jobs}
        found = self.publish(one for one in wanted.values() if self.allowed.wants(one))
        for job, reference in wanted.items():
            one = found[reference] if reference in found else _not_allowed(job)
            if isinstance(one, NotShown):
                self._failed(job, one.error, to_blame=False)
            elif isinstance(one, ContractError):
                self._failed(job, one)
            else:
                self._done(job, one)

    def _done(self, job: Job, reports: Sequence[Report]) -> None:
        self.queue.done(job)
        self.observer.shown(reports, job.pushed_at)
        self.observer.succeeded()
        changed = any(report.changed for report in reports)
        self.tell(f"{'published' if changed else 'unchanged'} {job.reference}")

    def _failed(self, job: Job, error: ContractError, to_blame: bool = True) -> None:
        self.observer.failed(error)
        if to_blame:
            now = self.queue.failed(job, error, hopeless=isinstance(error, InvalidArgument))
        else:
            now = self.queue.put_off(job, error)
        self.tell(f"{'given up' if now.given_up else 'failed'} {job.reference}: {error}")


def _not_allowed(job: Job) -> InvalidArgument:
    problem = "waits to be published and is not allowed any more"
    return InvalidArgument("image", job.reference, problem, "allow it with --allow")

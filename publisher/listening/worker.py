"""Works through the queue: one image after another, oldest first, until it is told to stop."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cvmfsrepo.errors import ContractError, InvalidArgument
from cvmfsrepo.oci import Platform, Reference
from publisher.listening.queue import Job, Queue
from publisher.listening.webhooks import Allowed
from publisher.progress import Listener
from publisher.publishing.form import PLAINLY, Refused, Report, Terms
from publisher.publishing.publish import publish_images
from publisher.telling.observer import UNOBSERVED, Observer
from publisher.transactions.contract import Target
from publisher.wishes.expand import Registry
from publisher.wishes.ordering import walk_orders

_LOOK = 600.0
"""Seconds between two looks at a queue in which nothing happens."""


@dataclass(frozen=True, slots=True)
class ImagePublisher:
    """How an image is published: as its tag stands in the registry now, for these platforms, in one publication."""

    target: Target
    registry: Registry
    platforms: Sequence[Platform]
    terms: Terms = PLAINLY
    listener: Listener | None = None

    def publish(self, reference: Reference) -> tuple[Report, ...]:
        """A report for each platform. Errors of the registry and of the repository are passed on; one that keeps the
        flat tree alone from being made is raised too, when the layers are shown."""
        digest = self.registry.find_digest(reference)
        orders = [order for _, order in walk_orders(self.registry, reference, digest, self.platforms)]
        outcomes = publish_images(self.target, orders, self.terms, self.listener)
        for outcome in outcomes:
            if isinstance(outcome, Refused):
                raise outcome.error
            if outcome.error:
                raise outcome.error
        return tuple(outcome for outcome in outcomes if isinstance(outcome, Report))


@dataclass(frozen=True, slots=True)
class Worker:
    """`publish` does one image; `tell` says a line. What is not `allowed` any more, and what can never
    be published, is given up."""

    queue: Queue
    allowed: Allowed
    publish: Callable[[Reference], Sequence[Report]]
    tell: Callable[[str], None]
    observer: Observer = UNOBSERVED
    stop: threading.Event = field(default_factory=threading.Event)

    def for_ever(self) -> None:
        """Until `stop`, which ends it between two images."""
        while not self.stop.is_set():
            if not self.work_off():
                self.queue.wait(_LOOK)

    def work_off(self) -> int:
        """What is due now, or until `stop`; how many images were tried."""
        tried = 0
        while not self.stop.is_set() and (job := self.queue.take()):
            self._work(job)
            tried += 1
        return tried

    def _work(self, job: Job) -> None:
        try:
            reports = self.publish(self._checked(job))
        except ContractError as error:
            self.observer.failed(error)
            now = self.queue.failed(job, error, hopeless=isinstance(error, InvalidArgument))
            self.tell(f"{'given up' if now.given_up else 'failed'} {job.reference}: {error}")
            return
        self.queue.done(job)
        self.observer.shown(reports, job.pushed_at)
        self.observer.succeeded()
        changed = any(report.changed for report in reports)
        self.tell(f"{'published' if changed else 'unchanged'} {job.reference}")

    def _checked(self, job: Job) -> Reference:
        reference = Reference.parse(job.reference)
        if not self.allowed.wants(reference):
            problem = "waits to be published and is not allowed any more"
            raise InvalidArgument("image", job.reference, problem, "allow it with --allow")
        return reference

"""Prometheus metrics of the publisher: counted as it happens, served by what runs on, written to a file by what ends.
The only file of this package that knows prometheus_client.

Names, labels and meanings are a contract with dashboards and alerts, written down in docs/publisher.md; they are
changed like an API.
"""

import re
import time
from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.registry import Collector

from cvmfsrepo.errors import ContractError
from cvmfsrepo.web import Answer, Page
from publisher.collecting.plan import Fate
from publisher.durable import write_durably
from publisher.listening.queue import Job
from publisher.progress import Listener
from publisher.publishing.form import Report

PREFIX = "cvmfs_publisher_"
_PUBLICATION_SECONDS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 86400)
_LAST_SUCCESS = "last_success_timestamp_seconds"
_TEXT = "text/plain; charset=utf-8"

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics of one process. Safe to be used from many threads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            f"{PREFIX}publication_seconds", "From an image's push, or its change being seen, to its being shown.",
            registry=self._registry, buckets=_PUBLICATION_SECONDS,
        )  # fmt: skip
        self._images = self._counter("images_published", "Images that were shown or changed.")
        self._layers = self._counter("layers_published", "Layers that were shown.")
        self._bytes = self._counter("downloaded_bytes", "Compressed bytes of layers that were read.")
        self._failures = self._counter("failures", "What could not be done, by the kind of its error.", "reason")
        self._questions = self._counter("registry_questions", "Questions to registries, by kind.", "kind")
        self._webhooks = self._counter("webhooks", "Webhooks that were answered, by status.", "status")
        self._collected = self._counter("collected_things", "Things that were removed, by kind.", "kind")
        self._freed = self._counter("collected_bytes", "Bytes that removals gave back.")
        self._wishes = self._gauge("wishes", "Images of the last pass, by what became of them.", "outcome")
        self._success = self._gauge(_LAST_SUCCESS, "When all was as it should be, in seconds since 1970; 0 if never.")
        self._gauge("start_time_seconds", "When this process started, in seconds since 1970.").set(time.time())
        self._gauge("info", "1; the version is in the label.", "version").labels(_version()).set(1)

    def shown(self, reports: Sequence[Report], since: float) -> None:
        """An image is as it should be; only what changed is a publication."""
        if any(report.changed for report in reports):
            self._images.inc()
            self._layers.inc(sum(len(report.published) for report in reports))
            self._seconds.observe(max(0.0, time.time() - since))

    def failed(self, error: ContractError) -> None:
        self._failures.labels(_kind_of(error)).inc()

    def succeeded(self) -> None:
        """All that was asked for is there."""
        self._success.set(time.time())

    def passed(self, outcomes: Iterable[str]) -> None:
        """A pass over a recipe ended; what became of each image."""
        counts = Count(outcomes)
        self._wishes.clear()
        for outcome, count in counts.items():
            self._wishes.labels(outcome).set(count)

    def asked(self, kind: str) -> None:
        """A registry is asked something."""
        self._questions.labels(kind).inc()

    def answered(self, status: int) -> None:
        self._webhooks.labels(str(status)).inc()

    def collected(self, things: Iterable[Fate]) -> None:
        """What a collection removed."""
        for thing in things:
            self._collected.labels(thing.kind).inc()
            self._freed.inc(thing.bytes)

    def listening(self, inner: Listener) -> Listener:
        """Counts what is told of a publication, and passes it on."""
        return _Counting(inner, self._bytes.inc)

    def watch_queue(self, jobs: Callable[[], Sequence[Job]]) -> None:
        """From now on a scrape tells of this queue too."""
        self._registry.register(_QueueCollector(jobs))

    def pages(self) -> Mapping[str, Page]:
        """What is served: `/metrics`, and `/healthz`, which is answered by whoever lives."""

        def measured(accept: str) -> Answer:
            encode, content_type = choose_encoder(accept)
            return HTTPStatus.OK, content_type, encode(self._registry)

        return {"/metrics": measured, "/healthz": lambda accept: (HTTPStatus.OK, _TEXT, b"ok\n")}

    @contextmanager
    def written(self, path: Path | None) -> Iterator[None]:
        """Writes a file for node_exporter's textfile collector when the block ends, however it does; a run that failed
        keeps the time of the last one that did not. None: no file."""
        try:
            yield
        except ContractError as error:
            self.failed(error)
            raise
        finally:
            if path:
                self._write(path)

    def _write(self, path: Path) -> None:
        text = generate_latest(self._registry).decode()
        before = re.search(rf"^{PREFIX}{_LAST_SUCCESS} (\S+)$", _text_of(path), re.MULTILINE)
        if before:
            text = re.sub(rf"^({PREFIX}{_LAST_SUCCESS}) 0\.0$", rf"\g<1> {before[1]}", text, flags=re.MULTILINE)
        write_durably(path, text.encode())

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}{name}", documentation, labels, registry=self._registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}{name}", documentation, labels, registry=self._registry)


class _Counting:
    """A listener that counts bytes."""

    def __init__(self, inner: Listener, count: Callable[[float], None]) -> None:
        self._inner, self._count = inner, count

    def begin(self, layers: int, size: int) -> None:
        self._inner.begin(layers, size)

    def advance(self, count: int) -> None:
        self._count(count)
        self._inner.advance(count)

    def layer_done(self) -> None:
        self._inner.layer_done()


class _QueueCollector(Collector):
    """What is looked up at a scrape."""

    def __init__(self, jobs: Callable[[], Sequence[Job]]) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """The oldest is the one that was pushed first of those that will still be tried."""
        jobs, now = self._jobs(), time.time()
        count = GaugeMetricFamily(f"{PREFIX}queue_jobs", "Images in the queue, by state.", labels=("state",))
        states = Count(_state_of(job) for job in jobs)
        for state in ("waiting", "failing", "given up"):
            count.add_metric((state,), states[state])
        yield count
        ages = [now - job.received_at for job in jobs if not job.given_up]
        oldest = GaugeMetricFamily(f"{PREFIX}queue_oldest_seconds", "For how long the oldest image has been waiting.")
        oldest.add_metric((), max(0.0, *ages) if ages else 0.0)
        yield oldest


def _state_of(job: Job) -> str:
    if job.given_up:
        return "given up"
    return "failing" if job.reason else "waiting"


def _kind_of(error: ContractError) -> str:
    """The class's name in words: `not found`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _version() -> str:
    try:
        return version("cvmfs-snapshotter")
    except PackageNotFoundError:
        return "unknown"

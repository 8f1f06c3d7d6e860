"""Prometheus metrics: what is counted as it happens, and what is looked up at a scrape. The only file that knows
prometheus_client.

Nothing here waits for a repository: a scrape is answered at once, also while all of them hang. Names, labels and
meanings are a contract with dashboards and alerts, written down in docs/metrics.md; they are changed like an API.
"""

import os
import resource
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from cvmfsrepo.breaker import State
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from cvmfsrepo.guarded import GuardedRepository
from snapshotter.index.store import Index
from snapshotter.node import RunningNode
from snapshotter.outcomes import Outcomes
from snapshotter.snapshots import Kind

PREFIX = "cvmfs_snapshotter_"

_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PUBLICATION_SECONDS = (15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400)

_KINDS = {
    (Kind.ACTIVE, False): "active",
    (Kind.VIEW, False): "view",
    (Kind.COMMITTED, False): "local",
    (Kind.COMMITTED, True): "remote",
}

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics of one daemon. Safe to be used from many threads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._calls = Counter(
            f"{PREFIX}calls", "Calls of the snapshots service that ended, by verb and gRPC code.", ("verb", "code"),
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            f"{PREFIX}call_seconds", "How long calls of the snapshots service took.", ("verb",),
            registry=self._registry, buckets=_CALL_SECONDS,
        )  # fmt: skip
        self._publication = Histogram(
            f"{PREFIX}publication_seconds", "From an image's manifest.json being written to this node seeing it.",
            ("repository",), registry=self._registry, buckets=_PUBLICATION_SECONDS,
        )  # fmt: skip

    def called(self, verb: str, code: str, seconds: float) -> None:
        """A call of the snapshots service ended."""
        self._calls.labels(verb, code).inc()
        self._seconds.labels(verb).observe(seconds)

    def published(self, repository: str, seconds: float) -> None:
        """The index saw an image for the first time, so long after it was published."""
        self._publication.labels(repository).observe(max(0.0, seconds))

    def watch(self, node: Callable[[], RunningNode], refused: Callable[[], bool]) -> None:
        """From now on a scrape tells of this node too; `refused` is whether its configuration file was, at the last
        reload."""
        self._registry.register(_NodeCollector(node, refused))

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """The content type, which `accept` (of HTTP) may choose, and the text of a scrape."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)


class _NodeCollector(Collector):
    """What is looked up at a scrape."""

    def __init__(self, node: Callable[[], RunningNode], refused: Callable[[], bool]) -> None:
        self._node, self._refused = node, refused
        self._started = time.time()
        self._spared = _Spared()

    def collect(self) -> Iterator[Metric]:
        """A part that cannot be had is left out and counted: the others are needed all the more then."""
        node, problems = self._node(), 0
        parts: Sequence[Callable[[], Iterable[Metric]]] = (
            lambda: self._process(),
            lambda: _layers(node.verbs.outcomes),
            lambda: self._spared.bytes(node.verbs.outcomes, node.index),
            lambda: _repositories(node.repositories),
            lambda: _indices(node.index, node.repositories),
            lambda: _snapshots(node),
            lambda: _disk(node),
        )
        for part in parts:
            try:
                yield from list(part())
            except (ContractError, OSError):
                problems += 1
        yield _gauge("scrape_problems", "Parts of this scrape that could not be had.", problems)

    def _process(self) -> Iterator[Metric]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        yield _gauge("info", "1; the version is in the label.", 1, version=version("cvmfs-snapshotter"))
        yield _gauge("start_time_seconds", "When the daemon started, in seconds since 1970.", self._started)
        yield _counter("process_cpu_seconds", "Processor time used.", used.ru_utime + used.ru_stime)
        yield _gauge("process_resident_bytes", "Memory that the process has.", resident)
        yield _gauge("process_threads", "Threads; each call that hangs has one.", len(os.listdir("/proc/self/task")))
        yield _gauge("process_open_fds", "File descriptors that are open.", len(os.listdir("/proc/self/fd")))
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield _gauge("process_max_fds", "File descriptors that may be open.", limit)
        refused = "1 while the configuration file has what the last SIGHUP could not take."
        yield _gauge("config_refused", refused, self._refused())


class _Spared:
    """The bytes that hits spared. A layer's size, once known, is kept: the index may lose it, and a counter must not
    fall."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sizes: dict[Digest, int] = {}

    def bytes(self, outcomes: Outcomes, index: Index | None) -> Iterator[Metric]:
        """The sizes are those of compressed layers, as the repositories' manifests say them."""
        with self._lock:
            spared, unknown = 0, 0
            for layer, times in outcomes.layers.items():
                size = self._size(layer, index)
                spared, unknown = (spared, unknown + times) if size is None else (spared + size * times, unknown)
        yield _counter("not_downloaded_bytes", "Compressed bytes of layers that hits spared.", spared)
        yield _gauge("hits_of_unknown_size", "Hits that are not in not_downloaded_bytes.", unknown)

    def _size(self, layer: Digest, index: Index | None) -> int | None:
        if layer not in self._sizes and index and (known := index.find_layer(layer)) and known.size is not None:
            self._sizes[layer] = known.size
        return self._sizes.get(layer)


def _layers(outcomes: Outcomes) -> Iterator[Metric]:
    hits = CounterMetricFamily(f"{PREFIX}hits", "Layers of pulls served from a repository.", labels=("repository",))
    for repository, count in outcomes.hits.items():
        hits.add_metric((repository,), count)
    yield hits
    misses = CounterMetricFamily(
        f"{PREFIX}misses", "Layers of pulls that were not served, and why.", labels=("repository", "reason")
    )
    for (reason, repository), count in outcomes.misses_by_repository.items():
        misses.add_metric((repository, str(reason)), count)
    yield misses


def _repositories(repositories: Sequence[GuardedRepository]) -> Iterator[Metric]:
    labels = ("repository",)
    state = GaugeMetricFamily(
        f"{PREFIX}repository_state", "1 for the state that the repository is in.", labels=("repository", "state")
    )
    since = GaugeMetricFamily(f"{PREFIX}repository_state_seconds", "For how long it is in that state.", labels=labels)
    revision = GaugeMetricFamily(f"{PREFIX}repository_revision", "The CVMFS revision that is mounted.", labels=labels)
    hanging = GaugeMetricFamily(
        f"{PREFIX}repository_hanging_calls", "Calls that hang in it, with nobody waiting.", labels=labels
    )
    for repository in repositories:
        health = repository.health
        for each in State:
            state.add_metric((repository.name, str(each)), health.state is each)
        since.add_metric((repository.name,), time.monotonic() - health.since)
        hanging.add_metric((repository.name,), repository.hanging)
        if repository.seen_revision is not None:
            revision.add_metric((repository.name,), repository.seen_revision)
    yield from (state, since, revision, hanging)


def _indices(index: Index | None, repositories: Sequence[GuardedRepository]) -> Iterator[Metric]:
    documentation = {
        "images": "Images that the index knows.",
        "layers": "Layers that the index knows.",
        "malformed": "Entries that the index passes over.",
        "complete": "1 where all of the revision was read.",
        "updated_timestamp_seconds": "End of the last complete reading, in seconds since 1970; 0 before the first.",
        "revision": "The revision that the index was read at.",
    }
    families = {
        name: GaugeMetricFamily(f"{PREFIX}index_{name}", text, labels=("repository",))
        for name, text in documentation.items()
    }
    for repository in repositories if index else ():
        state = index.state(repository.name) if index else None
        if state is None:
            continue
        values = (state.images, state.layers, state.malformed, state.complete, state.updated / 1e9, state.revision)
        for family, value in zip(families.values(), values, strict=True):
            if value is not None:
                family.add_metric((repository.name,), value)
    yield from families.values()


def _snapshots(node: RunningNode) -> Iterator[Metric]:
    counts = dict.fromkeys(_KINDS.values(), 0)
    missed = 0
    for (kind, is_remote, is_missed), count in node.store.counts().items():
        counts[_KINDS[kind, is_remote]] += count
        missed += count if is_missed else 0
    family = GaugeMetricFamily(f"{PREFIX}snapshots", "Snapshots, by kind.", labels=("kind",))
    for name, count in counts.items():
        family.add_metric((name,), count)
    yield family
    yield _gauge("snapshots_missed", "Snapshots whose layer was wanted from a repository and not served.", missed)


def _disk(node: RunningNode) -> Iterator[Metric]:
    system = os.statvfs(node.disk.root)
    yield _gauge("root_free_bytes", "Free on the file system of the root.", system.f_bavail * system.f_frsize)
    yield _gauge("root_capacity_bytes", "Size of the file system of the root.", system.f_blocks * system.f_frsize)
    yield _gauge("root_free_inodes", "Free inodes on the file system of the root.", system.f_favail)
    yield _gauge("shims", "Shims on the disk.", len(os.listdir(node.disk.shims)))


def _gauge(name: str, documentation: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}{name}", documentation, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def _counter(name: str, documentation: str, value: float) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}{name}", documentation)
    family.add_metric((), value)
    return family

"""Every metric, of a real daemon: what happens is what is counted. The contract is docs/metrics.md."""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists, NotFound
from snapshotter import labels as label
from snapshotter.client import Client
from snapshotter.snapshots import Kind
from tests.mounting import standin
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.indexing import Published
from tests.snapshotter.layers import NAME, HandMade, pull
from tests.snapshotter.nodes import eventually
from tests.snapshotter.watching import Sample, ask, pages_of, parse_samples, scrape, value

pytestmark = pytest.mark.slow  # a daemon for each test

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/metrics.md"
IMAGE = "registry.example.org/base:1"


def documented() -> dict[str, set[str]]:
    """The table of docs/metrics.md: metric -> labels."""
    rows = re.findall(r"^\| `(cvmfs_snapshotter_\w+)` \| \w+ \| ?([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def exposed(samples: list[Sample]) -> dict[str, set[str]]:
    """The metrics of a scrape, histograms by their own name."""
    found = dict[str, set[str]]()
    for sample in samples:
        name = re.sub(r"_(bucket|sum|count)$", "", sample.name)
        found.setdefault(name, set()).update(sample.labels.keys() - {"le"})
    return found


@pytest.fixture
def published(tmp_path: Path) -> Published:
    """A repository with an image of two layers, of 1000 and 1001 bytes."""
    repository = Published(tmp_path / "repository")
    repository.publish(IMAGE, repository.described("one", "two"))
    return repository


@pytest.fixture
def daemon(tmp_path: Path, published: Published) -> Iterator[Daemon]:
    with served(tmp_path, published) as started:
        yield started


def served(tmp_path: Path, repository: HandMade) -> Daemon:
    return Daemon(
        tmp_path / "root", repository=NAME, absolute_mountpoint=repository.root, metrics_address="127.0.0.1:0",
        probe_interval=0.1, index_interval=0.2, deadline=2,
    )  # fmt: skip


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as connected:
        yield connected


def now(daemon: Daemon, name: str, **labels: str) -> float | None:
    """A metric's value."""
    return value(scrape(pages_of(daemon)), name, **labels)


def indexed(daemon: Daemon, images: int = 1) -> None:
    """Waits until the index is complete."""
    eventually(lambda: now(daemon, "index_complete") == 1 and now(daemon, "index_images") == images)


def hit(client: Client, word: str, target: str) -> None:
    with pytest.raises(AlreadyExists):
        client.prepare(f"extract {target}", "", pull(target, Digest.of(word.encode())))


def test_the_document_names_every_metric_and_no_other(daemon: Daemon, client: Client, published: Published) -> None:
    """Names and labels are those of the table, once each kind of thing has happened; but for the revision, which only
    a CVMFS mount has."""
    indexed(daemon)
    hit(client, "one", "a")
    client.prepare("missed", "", pull("b", Digest.of(b"none")))
    published.publish("registry.example.org/late:1", published.described("late"))
    eventually(lambda: now(daemon, "publication_seconds_count") == 1)
    expected = documented()
    assert {"cvmfs_snapshotter_repository_revision", "cvmfs_snapshotter_index_revision"} <= set(expected)
    del expected["cvmfs_snapshotter_repository_revision"], expected["cvmfs_snapshotter_index_revision"]
    assert exposed(scrape(pages_of(daemon))) == expected


def test_what_prometheus_asks_for(daemon: Daemon) -> None:
    """Each metric has its type and a sentence; OpenMetrics is spoken to who asks for it."""
    answer = ask(pages_of(daemon), "/metrics")
    assert answer.content_type.startswith("text/plain; version=")
    for name in documented():
        family = name.removesuffix("_total")
        assert re.search(rf"^# HELP {family}(_total)? \S", answer.text, re.MULTILINE), name
        assert re.search(rf"^# TYPE {family}(_total)? (counter|gauge|histogram)$", answer.text, re.MULTILINE), name
    modern = ask(pages_of(daemon), "/metrics", "application/openmetrics-text; version=1.0.0")
    assert modern.content_type.startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


def test_calls_by_verb_and_code(daemon: Daemon, client: Client) -> None:
    """Each call once, streams too, with the time it took; the daemon's questions to itself are none."""
    client.prepare("key", "", {})
    with pytest.raises(NotFound):
        client.stat("none")
    list(client.walk())
    samples = scrape(pages_of(daemon))
    codes = {
        (sample.labels["verb"], sample.labels["code"]): sample.value
        for sample in samples
        if sample.name == "cvmfs_snapshotter_calls_total"
    }
    assert codes == {("Prepare", "OK"): 1, ("Stat", "NOT_FOUND"): 1, ("List", "OK"): 1}
    assert value(samples, "call_seconds_count", verb="Prepare") == 1
    assert value(samples, "call_seconds_bucket", verb="Prepare", le="+Inf") == 1
    assert 0 < (value(samples, "call_seconds_sum", verb="Prepare") or 0) < 5


def test_hits_misses_and_what_was_not_downloaded(daemon: Daemon, client: Client, published: Published) -> None:
    """By repository and reason; bytes as the manifest has them, for as long as the process lives, also when the
    repository does not have the image any more."""
    published.add("unlisted")
    indexed(daemon)
    hit(client, "one", "a")
    hit(client, "one", "again")
    hit(client, "two", "b")
    hit(client, "unlisted", "c")
    client.prepare("missed", "", pull("d", Digest.of(b"none")))
    client.prepare("bad", "", {label.TARGET: "e", label.LAYER_DIGEST: "x"})
    samples = scrape(pages_of(daemon))
    assert value(samples, "hits_total", repository=NAME) == 4
    assert value(samples, "misses_total", repository=NAME, reason="absent") == 1
    assert value(samples, "misses_total", repository="", reason="bad-label") == 1
    assert value(samples, "not_downloaded_bytes_total") == 1000 + 1000 + 1001
    assert value(samples, "hits_of_unknown_size") == 1
    published.layout.manifest_json(published.publish(IMAGE, [])).unlink()
    eventually(lambda: now(daemon, "index_images") == 0)
    assert now(daemon, "not_downloaded_bytes_total") == 3001


def test_snapshots_by_kind(daemon: Daemon, client: Client) -> None:
    """What there is now, not what there was."""
    client.prepare("active", "", {})
    client.prepare("extract", "", {})
    client.commit("local", "extract", {})
    client.view("view", "local", {})
    hit(client, "one", "a")
    client.prepare("missed", "", pull("d", Digest.of(b"none")))
    samples = scrape(pages_of(daemon))
    kinds = {kind: value(samples, "snapshots", kind=kind) for kind in ("active", "view", "local", "remote")}
    assert kinds == {"active": 2, "view": 1, "local": 1, "remote": 1}
    assert value(samples, "snapshots_missed") == 1
    assert (value(samples, "shims") or 0) >= 1
    assert len([info for info in client.walk() if info.kind is Kind.COMMITTED]) == 2
    client.remove("view")
    client.remove("local")
    assert now(daemon, "snapshots", kind="local") == 0


def test_the_health_of_a_repository(daemon: Daemon, published: Published) -> None:
    """One state is 1 and the others 0, and how long it has been so; without a CVMFS mount there is no revision."""
    states = ("healthy", "degraded", "open")
    assert [now(daemon, "repository_state", state=state) for state in states] == [1, 0, 0]
    published.root.rename(published.root.with_name("away"))
    eventually(lambda: [now(daemon, "repository_state", state=state) for state in states] == [0, 1, 0])
    assert 0 <= (now(daemon, "repository_state_seconds", repository=NAME) or 0) < 10
    assert now(daemon, "repository_revision", repository=NAME) is None
    assert now(daemon, "scrape_problems") == 0


@pytest.mark.root
@pytest.mark.fuse
def test_a_repository_that_hangs(tmp_path: Path, published: Published) -> None:
    """The scrape is answered at once, with the state, the revision of before and the calls that hang."""
    with standin(published.root, tmp_path / "cvmfs", revision=7) as mount:
        published.layout.root.joinpath(".layers").stat()
        with served(tmp_path, HandMade(mount.mountpoint)) as daemon, daemon.client() as client:
            eventually(lambda: now(daemon, "repository_revision", repository=NAME) == 7)
            eventually(lambda: now(daemon, "index_revision", repository=NAME) == 7)
            mount.process.send_signal(signal.SIGSTOP)
            try:
                client.prepare("key", "", pull("a", Digest.of(b"one")))
                began = time.monotonic()
                eventually(lambda: now(daemon, "repository_state", state="open") == 1)
                assert time.monotonic() - began < 8
                samples = scrape(pages_of(daemon))
                assert value(samples, "repository_revision") == 7
                assert (value(samples, "repository_hanging_calls") or 0) >= 1
                assert value(samples, "misses_total", repository=NAME, reason="timeout") == 1
            finally:
                mount.process.send_signal(signal.SIGCONT)
            eventually(lambda: now(daemon, "repository_state", state="healthy") == 1)
            eventually(lambda: now(daemon, "repository_hanging_calls") == 0)


def test_the_index(daemon: Daemon, published: Published) -> None:
    """How much it knows, what it passes over, and when it had read all."""
    indexed(daemon)
    published.publish_text("registry.example.org/bad:1", "{")
    eventually(lambda: now(daemon, "index_malformed", repository=NAME) == 1)
    samples = scrape(pages_of(daemon))
    assert value(samples, "index_layers", repository=NAME) == 2
    assert abs((value(samples, "index_updated_timestamp_seconds", repository=NAME) or 0) - time.time()) < 30


def test_publication_latency(daemon: Daemon, published: Published) -> None:
    """Images that come while the daemon runs, from their manifest's time to the node's; what was there at the first
    reading counts for nothing, for nobody knows how long it was there unseen."""
    indexed(daemon)
    assert now(daemon, "publication_seconds_count") is None
    published.publish("registry.example.org/new:1", published.described("new"))
    indexed(daemon, images=2)
    eventually(lambda: now(daemon, "publication_seconds_count", repository=NAME) == 1)
    assert 0 <= (now(daemon, "publication_seconds_sum", repository=NAME) or 0) < 10
    assert now(daemon, "publication_seconds_bucket", repository=NAME, le="15.0") == 1


def test_the_process(daemon: Daemon) -> None:
    """Memory, threads, descriptors and processor time are the daemon's own; so is the start."""
    samples = scrape(pages_of(daemon))
    assert abs((value(samples, "start_time_seconds") or 0) - time.time()) < 60
    assert 10 << 20 < (value(samples, "process_resident_bytes") or 0) < 500 << 20
    assert (value(samples, "process_threads") or 0) > 5
    fds, most = value(samples, "process_open_fds") or 0, value(samples, "process_max_fds") or 0
    assert 5 < fds < most
    assert (value(samples, "process_cpu_seconds_total") or 0) > 0
    assert value(samples, "info", version="0.1.0") == 1
    free, capacity = value(samples, "root_free_bytes") or 0, value(samples, "root_capacity_bytes") or 0
    assert 0 < free < capacity
    assert (value(samples, "root_free_inodes") or 0) > 0


def test_a_scrape_without_a_part(daemon: Daemon, tmp_path: Path) -> None:
    """What cannot be had is left out and counted; the rest is told, and the daemon is alive."""
    shims = tmp_path / "root" / "shims"
    shims.rename(shims.with_name("gone"))
    samples = scrape(pages_of(daemon))
    assert value(samples, "scrape_problems") == 1
    assert value(samples, "shims") is None
    assert value(samples, "snapshots", kind="active") == 0
    assert ask(pages_of(daemon), "/healthz").status == 200


def test_hostile_names_stay_within_their_line() -> None:
    """A repository's name is the administrator's, and yet a quote or a line break in it breaks no scrape."""
    from snapshotter.metrics import Metrics

    metrics = Metrics()
    metrics.published('a"b\\c\nd', 1.0)
    _, content = metrics.render()
    (count,) = [s for s in parse_samples(content.decode()) if s.name == "cvmfs_snapshotter_publication_seconds_count"]
    assert count.labels == {"repository": 'a\\"b\\\\c\\nd'}

"""The dashboard in config/ and the queries in docs/: every one asks for what a real daemon tells."""

import pytest

from cvmfsrepo.digest import Digest
from tests.mounting import standin
from tests.snapshotter.dashboards import OF_PROMETHEUS, PROJECT, Dashboard, bare, unknown
from tests.snapshotter.indexing import Published
from tests.snapshotter.layers import HandMade, pull
from tests.snapshotter.nodes import eventually
from tests.snapshotter.promql import parse
from tests.snapshotter.test_metrics import DOCUMENT, documented, hit, now, served
from tests.snapshotter.watching import pages_of, scrape

DASHBOARD = Dashboard(PROJECT / "config/grafana.json", DOCUMENT)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names and labels of all samples of a daemon on a CVMFS-like mount to which everything has happened once."""
    directory = tmp_path_factory.mktemp("known")
    repository = Published(directory / "repository")
    repository.publish("registry.example.org/base:1", repository.described("one"))
    with (
        standin(repository.root, directory / "cvmfs", revision=7) as mount,
        served(directory, HandMade(mount.mountpoint)) as daemon,
        daemon.client() as client,
    ):
        eventually(lambda: now(daemon, "index_complete") == 1)
        hit(client, "one", "a")
        client.prepare("missed", "", pull("b", Digest.of(b"none")))
        repository.publish("registry.example.org/late:1", repository.described("late"))
        mount.publish(8)
        eventually(lambda: now(daemon, "publication_seconds_count") == 1)
        found = dict[str, set[str]]()
        for sample in scrape(pages_of(daemon)):
            found.setdefault(sample.name, set(OF_PROMETHEUS)).update(sample.labels)
        return found


@pytest.mark.root
@pytest.mark.fuse
def test_every_query_asks_for_what_is_told(known: dict[str, set[str]]) -> None:
    """Names and labels, also those of legends; and a scrape has nothing that the document does not have."""
    DASHBOARD.check_queries(known)
    assert set(map(bare, known)) == set(documented())


def test_every_metric_is_on_the_dashboard() -> None:
    """Somebody looks at each of them."""
    assert DASHBOARD.metrics() == set(documented())


def test_its_form() -> None:
    """As Grafana needs it."""
    DASHBOARD.check_form(documented().keys())


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("sum(rate(nothing_total[5m]))", ["nothing_total"]),
        ('a{c="x"}', ["a: c"]),
        ("sum by (c) (a)", ["by c"]),
        ('a{b=~"x|y"} / on (b) a', []),
    ],
)
def test_what_is_not_told_is_seen(expression: str, wrong: list[str]) -> None:
    """The check itself finds a wrong name, a wrong label, and a grouping by what is not there."""
    assert unknown(parse(expression), {"a": {"b"}}) == wrong


@pytest.mark.parametrize("expression", ["sum(a", "a)", "rate(a[x])", "foo(a)", "a{b}", "a ? b"])
def test_what_is_no_expression_is_seen(expression: str) -> None:
    """As far as names need it."""
    with pytest.raises(ValueError):
        parse(expression)

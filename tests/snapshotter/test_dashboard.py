"""The dashboard in config/ and the queries in docs/: every one asks for what a real daemon tells."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cvmfsrepo.digest import Digest
from tests.mounting import standin
from tests.snapshotter.indexing import Published
from tests.snapshotter.layers import HandMade, pull
from tests.snapshotter.nodes import eventually
from tests.snapshotter.promql import Query, parse
from tests.snapshotter.test_metrics import DOCUMENT, documented, hit, now, served
from tests.snapshotter.watching import pages_of, scrape

DASHBOARD = Path(__file__).resolve().parents[2] / "config/grafana.json"
OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus adds to every sample."""


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str, str]]:
    """Title, expression and legend of each target."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]
    block = re.search(r"```promql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert block
    yield from (("alert", line, "") for line in block[1].splitlines())


def unknown(query: Query, known: dict[str, set[str]]) -> list[str]:
    """What a query asks for and nobody tells."""
    wrong = [name for name, _ in query.metrics if name not in known]
    wrong += [f"{name}: {label}" for name, labels in query.metrics for label in labels - known.get(name, set())]
    every = set[str]().union(*(known.get(name, set()) for name, _ in query.metrics))
    return wrong + [f"by {label}" for label in query.grouping - every]


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
    for title, expression, legend in queries():
        query = parse(expression)
        assert query.metrics, title
        assert unknown(query, known) == [], title
        kept = query.grouping if re.search(r"\bby\b", expression) else set[str]().union(*known.values())
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= kept, title
    told = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}
    assert told == set(documented())


def test_every_metric_is_on_the_dashboard() -> None:
    """Somebody looks at each of them."""
    asked = {name for _, expression, _ in queries() for name, _ in parse(expression).metrics}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} == set(documented())


def test_its_form() -> None:
    """What Grafana needs: numbers and places that do not collide, a data source that is asked for, and nodes to choose
    from by a metric that there is."""
    board = json.loads(DASHBOARD.read_text())
    every = board["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken = set[tuple[int, int]]()
    for panel in every:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels())
    names = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert set(names) == {"datasource", "instance"}
    assert parse(names["instance"]["definition"]).metrics[0][0] in documented()


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

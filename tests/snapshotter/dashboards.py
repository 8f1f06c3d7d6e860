"""A dashboard in config/ and the page that describes its metrics: what both ask for, and whether anybody tells it."""

import json
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.snapshotter.promql import Query, parse

PROJECT = Path(__file__).resolve().parents[2]
OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus adds to every sample."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """`file` is Grafana's JSON, `page` holds alerts in a block of PromQL."""

    file: Path
    page: Path

    def panels(self) -> list[dict[str, Any]]:
        return [panel for panel in self._board()["panels"] if panel["type"] != "row"]

    def queries(self) -> Iterator[tuple[str, str, str]]:
        """Title, expression and legend of each target, and the page's alerts."""
        for panel in self.panels():
            for target in panel["targets"]:
                yield panel["title"], target["expr"], target["legendFormat"]
        block = re.search(r"```promql\n(.*?)```", self.page.read_text(), re.DOTALL)
        assert block
        yield from (("alert", line, "") for line in block[1].splitlines())

    def metrics(self) -> set[str]:
        """Those that are asked for."""
        return {bare(name) for _, expression, _ in self.queries() for name, _ in parse(expression).metrics}

    def check_queries(self, known: dict[str, set[str]]) -> None:
        """Each asks for names and labels that are known, also in its legend."""
        for title, expression, legend in self.queries():
            query = parse(expression)
            assert query.metrics, title
            assert unknown(query, known) == [], title
            kept = query.grouping if re.search(r"\bby\b", expression) else set[str]().union(*known.values())
            assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= kept, title

    def check_form(self, documented: Set[str]) -> None:
        """What Grafana needs: numbers and places that do not collide, a data source that is asked for, and instances to
        choose from by a metric that there is."""
        board, taken = self._board(), set[tuple[int, int]]()
        for panel in board["panels"]:
            x, y, w, h = (panel["gridPos"][key] for key in "xywh")
            cells = {(column, line) for column in range(x, x + w) for line in range(y, y + h)}
            assert not cells & taken, panel["title"]
            assert x + w <= 24
            taken |= cells
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        assert all(panel["datasource"]["uid"] == "${datasource}" for panel in self.panels())
        names = {variable["name"]: variable for variable in board["templating"]["list"]}
        assert set(names) == {"datasource", "instance"}
        assert parse(names["instance"]["definition"]).metrics[0][0] in documented

    def _board(self) -> dict[str, Any]:
        board: dict[str, Any] = json.loads(self.file.read_text())
        return board


def bare(name: str) -> str:
    """A metric by the name that it is described under."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


def unknown(query: Query, known: dict[str, set[str]]) -> list[str]:
    """What a query asks for and nobody tells."""
    wrong = [name for name, _ in query.metrics if name not in known]
    wrong += [f"{name}: {label}" for name, labels in query.metrics for label in labels - known.get(name, set())]
    every = set[str]().union(*(known.get(name, set()) for name, _ in query.metrics))
    return wrong + [f"by {label}" for label in query.grouping - every]

"""Every metric of real processes: what happens is what is counted. The contract is docs/publisher.md."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.images.tarlayer import File, layer_tar
from tests.publisher.listening.bodies import harbor, post
from tests.publisher.listening.listener import Listener
from tests.publisher.publishing import command, make_image, run
from tests.publisher.wishes.stub import Stub, running
from tests.snapshotter.nodes import eventually
from tests.snapshotter.promql import parse
from tests.snapshotter.test_dashboard import OF_PROMETHEUS, unknown
from tests.snapshotter.watching import Sample, ask, parse_samples

pytestmark = [pytest.mark.root, pytest.mark.slow]

PROJECT = Path(__file__).resolve().parents[2]
PAGE, DASHBOARD = PROJECT / "docs/publisher.md", PROJECT / "config/grafana-publisher.json"
PREFIX = "cvmfs_publisher_"


def documented() -> dict[str, set[str]]:
    """The page's table: metric -> labels."""
    rows = re.findall(rf"^\| `({PREFIX}\w+)` \| \w+ \| ?([^|]*)\|", PAGE.read_text(), re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def value(samples: Iterable[Sample], name: str, **labels: str) -> float | None:
    """The one sample of a name (without the prefix) with at least these labels; None where there is none."""
    found = [one.value for one in samples if one.name == PREFIX + name and labels.items() <= one.labels.items()]
    assert len(found) <= 1, (name, labels)
    return found[0] if found else None


def in_file(path: Path) -> list[Sample]:
    return parse_samples(path.read_text())


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    with registry_of(tmp_path) as served:
        yield served


def registry_of(directory: Path) -> AbstractContextManager[Stub]:
    image = make_image(directory / "image", layer_tar([File("f", b"x" * 1000)]))
    return running(Stub(images={"group/one:1": image}))


def scraped(listener: Listener) -> list[Sample]:
    address = next(line for line in listener.said if line.startswith("metrics on ")).split("//")[1].partition("/")[0]
    return parse_samples(ask(address, "/metrics").text)


def listening(directory: Path, stub: Stub) -> Listener:
    return Listener(directory, f"http://{stub.address}/*", ("--metrics-address", "127.0.0.1:0"))


def test_what_a_listener_counts(stub: Stub, tmp_path: Path) -> None:
    """From the time that the webhook says; failures by reason; the queue by state; and who lives is healthy."""
    with listening(tmp_path, stub) as listener:
        post(listener.address, harbor(f"{stub.address}/group/one:1", at=time.time() - 100))
        listener.wait_for("published")
        post(listener.address, harbor(f"{stub.address}/group/none:1"))
        listener.wait_for("failed")
        post(listener.address, b"{")
        samples = scraped(listener)
        sums = [value(samples, f"publication_seconds_{part}") for part in ("count", "sum")]
        assert sums[0] == 1
        assert 100 <= (sums[1] or 0) < 200
        assert [value(samples, f"{name}_published_total") for name in ("images", "layers")] == [1, 1]
        assert value(samples, "downloaded_bytes_total") == layer_size(stub)
        assert value(samples, "failures_total", reason="not found") == 1
        assert [value(samples, "webhooks_total", status=status) for status in ("202", "400")] == [2, 1]
        states = [value(samples, "queue_jobs", state=state) for state in ("waiting", "failing", "given up")]
        assert (states, (value(samples, "queue_oldest_seconds") or 0) > 0) == ([0, 1, 0], True)
        assert abs((value(samples, "last_success_timestamp_seconds") or 0) - time.time()) < 600


def layer_size(stub: Stub) -> int:
    image = stub.images["group/one:1"]
    return image.blob(image.layers[0]).stat().st_size


def test_the_file_of_a_run(stub: Stub, tmp_path: Path) -> None:
    """Whole, readable by all; after a run that failed it says so, and still when the last one did not."""
    (tmp_path / "repository").mkdir()
    file = tmp_path / "image.prom"
    words = ("--repository", str(tmp_path / "repository"), "--metrics-file", str(file))
    assert run("image", f"docker://{stub.address}/group/one:1", *words).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o644
    samples = in_file(file)
    success = value(samples, "last_success_timestamp_seconds")
    assert (value(samples, "images_published_total"), value(samples, "publication_seconds_count")) == (1, 1)
    assert run("image", f"docker://{stub.address}/group/none:1", *words).returncode == 1
    samples = in_file(file)
    assert value(samples, "last_success_timestamp_seconds") == success
    assert value(samples, "failures_total", reason="not found") == 1
    assert run("image", f"docker://{stub.address}/group/one:1", *words).returncode == 0
    assert [value(in_file(file), name) for name in ("images_published_total", "publication_seconds_count")] == [0, 0]
    assert sorted(tmp_path.glob(".new-*")) == []


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names and labels of all samples of processes to which everything has happened once."""
    directory, samples = tmp_path_factory.mktemp("known"), list[Sample]()
    with registry_of(directory) as stub:
        with listening(directory, stub) as listener:
            post(listener.address, harbor(f"{stub.address}/group/one:1"))
            listener.wait_for("published")
            post(listener.address, harbor(f"{stub.address}/group/none:1"))
            listener.wait_for("failed")
            samples += scraped(listener)
        recipe, state = directory / "recipe.yaml", directory / "state"
        recipe.write_text(f"version: 1\ninput: ['http://{stub.address}/group/one:1']\n")
        where = ["--repository", str(directory / "repository"), "--state", str(state)]
        samples += of_a_watch([str(recipe), *where])
        run("wishlist", str(recipe), *where, "--metrics-file", str(directory / "wishlist.prom"))
        run("remove", f"{stub.address}/group/one:1", *where)
        run("collect", *where, "--grace", "0", "--metrics-file", str(directory / "collect.prom"))
    for name in ("wishlist", "collect"):
        samples += in_file(directory / f"{name}.prom")
    found = dict[str, set[str]]()
    for sample in samples:
        found.setdefault(sample.name, set(OF_PROMETHEUS)).update(sample.labels)
    return found


def of_a_watch(words: list[str]) -> list[Sample]:
    """What a `watch` serves when it has made a pass."""
    words = command("watch", *words, "--metrics-address", "127.0.0.1:0")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stdout
            address = watching.stdout.readline().split("//")[1].partition("/")[0]
            assert ask(address, "/healthz").text == "ok\n"
            found = list[Sample]()

            def passed() -> bool:
                found[:] = parse_samples(ask(address, "/metrics").text)
                outcomes = (value(found, "wishes", outcome=outcome) for outcome in ("published", "present"))
                return 1 in outcomes

            eventually(passed)
            return found
        finally:
            watching.send_signal(signal.SIGTERM)
            watching.communicate(timeout=60)


def queries() -> Iterator[tuple[str, str, str]]:
    """Title, expression and legend of each target, and the page's alerts."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]
    block = re.search(r"```promql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block
    yield from (("alert", line, "") for line in block[1].splitlines())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def bare(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


def test_the_page_names_every_metric_and_no_other(known: dict[str, set[str]]) -> None:
    """With its labels."""
    told = dict[str, set[str]]()
    for name, labels in known.items():
        told.setdefault(bare(name), set()).update(labels - {*OF_PROMETHEUS, "le"})
    assert told == documented()


def test_every_query_asks_for_what_is_told(known: dict[str, set[str]]) -> None:
    """Names and labels, also those of legends."""
    for title, expression, legend in queries():
        query = parse(expression)
        assert query.metrics, title
        assert unknown(query, known) == [], title
        kept = query.grouping if re.search(r"\bby\b", expression) else set[str]().union(*known.values())
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= kept, title


def test_every_metric_is_on_the_dashboard() -> None:
    """Somebody looks at each of them."""
    assert {bare(name) for _, text, _ in queries() for name, _ in parse(text).metrics} == set(documented())


def test_the_form_of_the_dashboard() -> None:
    """Numbers and places that do not collide, a data source that is asked for, publishers to choose from."""
    board = json.loads(DASHBOARD.read_text())
    taken = set[tuple[int, int]]()
    for panel in board["panels"]:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        cells = {(column, line) for column in range(x, x + w) for line in range(y, y + h)}
        assert not cells & taken, panel["title"]
        assert x + w <= 24
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels())
    names = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert parse(names["instance"]["definition"]).metrics[0][0] in documented()

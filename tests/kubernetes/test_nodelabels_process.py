"""`cvmfs-snapshotter node-labels` beside a real daemon, and an API server of our own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path

import pytest

from cvmfsrepo.errors import ContractError, FailedPrecondition, PermissionDenied, Unavailable
from cvmfsrepo.web import Page, served_pages
from snapshotter.nodelabels.cluster import Cluster
from snapshotter.nodelabels.labels import PREFIX
from snapshotter.nodelabels.watched import Daemon as Watched
from tests.kubernetes.stubapi import NODE, TOKEN, StubApi, make_certificate, stub_api
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.layers import NAME, HandMade

LABEL = f"{PREFIX}{NAME}"
PATIENCE = 60.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubApi]:
    with stub_api(tmp_path_factory.mktemp("account")) as api:
        yield api


@pytest.fixture
def api(served: StubApi) -> StubApi:
    """As it was in the beginning."""
    served.labels, served.refusal = {"kubernetes.io/hostname": NODE}, None
    served.asked.clear()
    return served


@pytest.fixture
def cluster(api: StubApi) -> Cluster:
    return Cluster.of_environment(api.environment, NODE, api.account)


@dataclass(frozen=True)
class Scene:
    """A daemon with its pages, its repository, and what the labels' process is started with."""

    daemon: Daemon
    repository: HandMade
    api: StubApi

    @property
    def address(self) -> str:
        (line,) = [line for line in self.daemon.log_lines() if line.get("msg") == "serving"]
        return str(line["metrics"])

    @contextmanager
    def labelling(self, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
        """The process, until it was asked to end and has ended well."""
        settings = directory / "labels.toml"
        settings.write_text(f'metrics-address = "{self.address}"\n')
        command = [*_command(settings, self.api.account), "--beat", "0.1"]
        environment = {**os.environ, **self.api.environment, "NODE_NAME": NODE}
        log = directory / "labels.log"
        with log.open("wb") as output, subprocess.Popen(command, env=environment, stderr=output) as process:
            try:
                yield process
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) == 0, log.read_text()
            finally:
                process.kill()


@pytest.fixture
def scene(tmp_path: Path, api: StubApi) -> Iterator[Scene]:
    repository = HandMade(tmp_path / "repository")
    place = str(repository.root)
    config = {"repository": NAME, "absolute_mountpoint": place, "probe_interval": 0.1, "metrics_address": "127.0.0.1:0"}
    with Daemon(tmp_path / "state", **config) as daemon:
        yield Scene(daemon, repository, api)


def test_the_request(api: StubApi, cluster: Cluster) -> None:
    """A merge patch of this node's labels and nothing else, with the pod's token, over TLS."""
    assert cluster.change_labels({LABEL: "healthy", f"{PREFIX}gone": None}) == {
        "kubernetes.io/hostname": NODE,
        LABEL: "healthy",
    }
    (asked,) = api.asked
    assert (asked.method, asked.path) == ("PATCH", f"/api/v1/nodes/{NODE}?fieldManager=cvmfs-snapshotter")
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
    assert asked.headers["Content-Type"] == "application/merge-patch+json"
    assert asked.body == {"metadata": {"labels": {LABEL: "healthy", f"{PREFIX}gone": None}}}


def test_the_token_is_read_anew(api: StubApi, cluster: Cluster) -> None:
    """The kubelet renews it in the file."""
    cluster.change_labels({})
    (api.account / "token").write_text("renewed")
    try:
        cluster.change_labels({})
    finally:
        (api.account / "token").write_text(f"{TOKEN}\n")
    assert [asked.headers["Authorization"] for asked in api.asked] == [f"Bearer {TOKEN}", "Bearer renewed"]


def test_an_api_of_another_authority_gets_no_token(api: StubApi, cluster: Cluster, tmp_path: Path) -> None:
    """It is refused before anything is sent."""
    make_certificate(tmp_path)
    (tmp_path / "token").write_text(TOKEN)
    with pytest.raises(Unavailable, match="certificate verify failed"):
        replace(cluster, account=tmp_path).change_labels({})
    assert api.asked == []


@pytest.mark.parametrize(
    ("refusal", "kind", "said"),
    [
        ((403, "policy says no"), PermissionDenied, "policy says no; apply config/kubernetes once more"),
        ((401, "Unauthorized"), PermissionDenied, "may not be labelled: Unauthorized"),
        ((404, "no such node"), Unavailable, "the API answered 404, no such node"),
        ((500, "etcd is away"), Unavailable, "the API answered 500, etcd is away"),
        ((429, "slowly"), Unavailable, "the API answered 429, slowly"),
    ],
)
def test_refusals(
    api: StubApi, cluster: Cluster, refusal: tuple[int, str], kind: type[ContractError], said: str
) -> None:
    """In the API's own words, naming the node."""
    api.refusal = refusal
    with pytest.raises(kind) as raised:
        cluster.change_labels({})
    assert said in str(raised.value)
    assert NODE in str(raised.value)


def test_outside_of_a_pod(tmp_path: Path, cluster: Cluster) -> None:
    """It says so: neither an API nor a token is guessed."""
    with pytest.raises(FailedPrecondition, match="run this in a pod"):
        Cluster.of_environment({}, NODE)
    with pytest.raises(FailedPrecondition, match=r"token.*let the pod have its service account's token"):
        replace(cluster, account=tmp_path).change_labels({})


def test_an_api_that_is_away(cluster: Cluster) -> None:
    """Nobody listens on port 1."""
    with pytest.raises(Unavailable, match=r"API at '127.0.0.1:1': does not answer"):
        replace(cluster, port=1).change_labels({})


def test_the_daemon_is_read_over_its_port(scene: Scene) -> None:
    """The states of its repositories; Unavailable when it ended. An address for all is asked on loopback."""
    wait_until(lambda: _states(scene.address) == {NAME: "healthy"})
    port = scene.address.rpartition(":")[2]
    assert Watched(f"0.0.0.0:{port}").states() == {NAME: "healthy"}
    scene.daemon.kill9()
    with pytest.raises(Unavailable, match="does not answer"):
        Watched(scene.address).states()


@pytest.mark.parametrize(
    ("healthz", "readyz", "state", "said"),
    [
        (503, 503, "healthy", "says that its snapshots service does not answer"),
        (200, 503, "healthy", "is not ready: repository r was not looked at yet"),
        (200, 503, "open", ""),
        (200, 200, "healthy", ""),
    ],
)
def test_what_a_daemon_says_of_itself(healthz: int, readyz: int, state: str, said: str) -> None:
    """A dead one, and one that has not looked at its repositories yet, tell no states; an unready one does."""
    metric = f'cvmfs_snapshotter_repository_state{{repository="r",state="{state}"}} 1.0\n'
    pages: dict[str, Page] = {
        "/healthz": lambda accept: (HTTPStatus(healthz), "text/plain", b""),
        "/readyz": lambda accept: (HTTPStatus(readyz), "text/plain", b"repository r was not looked at yet\n"),
        "/metrics": lambda accept: (HTTPStatus.OK, "text/plain", metric.encode()),
    }
    with served_pages("127.0.0.1:0", pages) as address:
        if not said:
            assert Watched(address).states() == {"r": state}
            return
        with pytest.raises(Unavailable, match=said):
            Watched(address).states()


def test_the_labels_of_a_node(scene: Scene, tmp_path: Path) -> None:
    """They follow the repository's health, also when the API was away meanwhile, and go at the end."""
    api, away = scene.api, scene.repository.root.with_name("away")
    with scene.labelling(tmp_path):
        wait_until(lambda: api.labels.get(LABEL) == "healthy")
        scene.repository.root.rename(away)
        wait_until(lambda: api.labels[LABEL] == "degraded")
        assert api.labels["kubernetes.io/hostname"] == NODE
        away.rename(scene.repository.root)
        wait_until(lambda: api.labels[LABEL] == "healthy")
    assert api.labels == {"kubernetes.io/hostname": NODE}


def test_a_daemon_without_pages_is_no_daemon_to_label(tmp_path: Path, api: StubApi) -> None:
    """The command ends with what to do."""
    settings = tmp_path / "config.toml"
    settings.write_text("")
    environment = {**os.environ, **api.environment, "NODE_NAME": NODE}
    done = subprocess.run(_command(settings, api.account), env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "metrics-address '': is not set; set it" in done.stderr


def wait_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _states(address: str) -> dict[str, str]:
    try:
        return Watched(address).states()
    except Unavailable:
        return {}


def _command(settings: Path, account: Path) -> Sequence[str]:
    program = [sys.executable, "-m", "snapshotter.cli.main", "node-labels"]
    return [*program, "--config", str(settings), "--account", str(account)]

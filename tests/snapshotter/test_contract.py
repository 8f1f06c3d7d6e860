"""The contract's suite over the snapshotter in this process, and over the daemon's socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshotter.client import Client
from snapshotter.config import Config
from snapshotter.server import opened
from snapshotter.snapshotter import Snapshotter
from tests.snapshotter.daemon import Daemon
from tests.suites.contract import SnapshotterContract, Verbs
from tests.suites.records import RecordContract


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that both have theirs below."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def in_process(state: Path) -> Iterator[Snapshotter]:
    config = Config(root=str(state / "in-process"), absolute_mountpoint=str(state / "no-repository"))
    with opened(config) as snapshotter:
        yield snapshotter


@pytest.fixture(scope="module")
def client(state: Path) -> Iterator[Client]:
    with Daemon(state / "daemon", absolute_mountpoint=state / "no-repository") as daemon, daemon.client() as client:
        yield client


class TestInProcess(SnapshotterContract, RecordContract):
    """The ten verbs as methods."""

    @pytest.fixture
    def verbs(self, in_process: Snapshotter) -> Verbs:
        return in_process

    @pytest.fixture
    def root(self, state: Path) -> Path:
        return state / "in-process"


class TestOverTheSocket(SnapshotterContract, RecordContract):
    """The ten verbs as calls: values and errors survive the way there and back."""

    @pytest.fixture
    def verbs(self, client: Client) -> Verbs:
        return client

    @pytest.fixture
    def root(self, state: Path) -> Path:
        return state / "daemon"

"""The daemon needs four capabilities: with exactly these everything works, and without each one something does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.compare import compare
from snapshotter.client import Client
from tests.fidelity.proof import viewed
from tests.fidelity.publishing import Form, publish
from tests.fidelity.pulling import node, pull
from tests.images import nasty
from tests.images.ocilayout import write_image
from tests.privilege.confined import Confined, privileges
from tests.privilege.jobs import JOBS, NEEDS, Scene, failures
from tests.privilege.unit import capabilities
from tests.snapshotter.layers import NAME, HandMade
from tests.suites.contract import SnapshotterContract, Verbs
from tests.suites.records import RecordContract

pytestmark = pytest.mark.root

BITS = {"chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("confined")


@pytest.fixture(scope="module")
def daemon(state: Path) -> Iterator[Confined]:
    """With the unit's capabilities."""
    repository = HandMade(state / "repository")
    with Confined(
        state / "root", capabilities(), repository=NAME, absolute_mountpoint=repository.root, deadline=60
    ) as started:
        yield started


@pytest.fixture(scope="module")
def client(daemon: Confined) -> Iterator[Client]:
    with daemon.client() as connected:
        yield connected


def test_the_unit_asks_for_these() -> None:
    """The table of needs and the unit name the same ones."""
    assert capabilities() == set(NEEDS) == set(BITS)
    assert set().union(*NEEDS.values()) == set(JOBS)


def test_the_daemon_has_nothing_else(daemon: Confined) -> None:
    """Not in its effective, permitted or bounding set, and nothing that it could start gets more."""
    found = privileges(daemon.pid)
    expected = sum(1 << BITS[name] for name in capabilities())
    assert [int(found[key], 16) for key in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")] == [expected] * 3 + [
        0,
        0,
    ]
    assert found["NoNewPrivs"] == "1"


@pytest.mark.slow
class TestContract(SnapshotterContract, RecordContract):
    """The whole contract, over the socket of the confined daemon."""

    @pytest.fixture
    def verbs(self, client: Client) -> Verbs:
        return client

    @pytest.fixture
    def root(self, daemon: Confined) -> Path:
        return daemon.root


def test_every_job_is_done(daemon: Confined, client: Client, state: Path) -> None:
    """Shims of foreign owners, container-made trees: with the unit's capabilities nothing goes wrong."""
    assert failures(Scene(client, HandMade(state / "repository"), daemon.root)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("capability", sorted(NEEDS))
def test_each_capability_is_needed(tmp_path: Path, capability: str) -> None:
    """Without it exactly the jobs fail that the table says; that is what it is for."""
    repository = HandMade(tmp_path / "repository")
    with (
        Confined(
            tmp_path / "root", capabilities() - {capability}, repository=NAME, absolute_mountpoint=repository.root
        ) as daemon,
        daemon.client() as client,
    ):
        found = failures(Scene(client, repository, daemon.root))
        assert set(found) == NEEDS[capability], found


@pytest.mark.slow
@pytest.mark.parametrize("form", [Form.OVERLAY, Form.OCI, Form.DUCC])
def test_images_are_served_equal(tmp_path: Path, form: Form) -> None:
    """Every nasty image, in both notations and as ingested, is the same from the confined daemon as from one that
    runs as root, which in turn shows what a pull would (tests/fidelity)."""
    images = {name: write_image(tmp_path / "layout", stack.tars(), name) for name, stack in nasty.ALL.items()}
    for name, image in images.items():
        publish(image, tmp_path / "repository", f"registry.example.org/test/{name}:1", form)
    found = {}
    with (
        Confined(
            tmp_path / "root", capabilities(), repository=NAME, absolute_mountpoint=tmp_path / "repository", deadline=60
        ) as daemon,
        daemon.client() as confined,
        node(tmp_path / "other", tmp_path / "repository") as unconfined,
    ):
        for name, image in images.items():
            with (
                viewed(unconfined, pull(unconfined, image)) as expected,
                viewed(confined, pull(confined, image)) as shown,  # type: ignore[arg-type]
            ):
                found[name] = [str(difference) for difference in compare(expected, shown)]
    assert {name: differences for name, differences in found.items() if differences} == {}

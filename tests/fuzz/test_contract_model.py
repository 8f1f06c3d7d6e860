"""Implementations of the contract against its model, by random sequences of verbs."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from cvmfsrepo.digest import Digest
from snapshotter.client import Client
from snapshotter.config import Config
from snapshotter.server import opened
from snapshotter.snapshotter import Snapshotter
from tests.bench.servers import Program, Server, overlayfs
from tests.examples import examples
from tests.fuzz.machine import SnapshotsMachine, World
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.layers import NAME, HandMade, diff_id_of
from tests.suites.model import Model

ABSENT = Digest.of(b"absent")
STEPS = 40


def run(world: World, number: int, *, shrink: bool = True) -> None:
    """Random sequences over one implementation; the machine finds and leaves it empty."""
    chosen = settings(
        max_examples=number,
        stateful_step_count=STEPS,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.reuse, Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        report_multiple_bugs=False,
    )

    class Machine(SnapshotsMachine):
        """Over this world."""

        def __init__(self) -> None:
            super().__init__(world)

    run_state_machine_as_test(Machine, settings=chosen)


class Nodes:
    """A repository with three layers, one of them with markers and one with a diff id, and worlds that serve it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.repository = HandMade(directory / "repository")
        one, two = (
            self.repository.add("one"),
            self.repository.add("two", {"2": "", ".wh.one": "", "d/.wh..wh..opq": ""}),
        )
        three = self.repository.add("three")
        self.model = Model(
            NAME,
            {str(one): frozenset({"one"}), str(two): frozenset({"2"}), str(three): frozenset({"three"})},
            {str(self.repository.link_diff_id(three)): str(three)},
        )
        self.layers = [one, two, ABSENT, None, one, "sha256:../..", two]
        self.diff_ids = [None, None, diff_id_of(three), diff_id_of(one), None, None, "x"]

    def new_model(self) -> Model:
        return Model(self.model.repository, self.model.layers, self.model.diff_ids)


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("number", [30, pytest.param(150, marks=pytest.mark.slow)])
def test_in_process(nodes: Nodes, stack: ExitStack, caplog: pytest.LogCaptureFixture, number: int) -> None:
    """The snapshotter in this process, closed and opened again at any time."""
    caplog.set_level(logging.CRITICAL, "snapshotter")
    config = Config(root=str(nodes.directory / "root"), repository=NAME, absolute_mountpoint=str(nodes.repository.root))

    def restart(peacefully: bool) -> Snapshotter:
        stack.close()
        return stack.enter_context(opened(config))

    world = World(
        restart(True), nodes.directory / "root", nodes.new_model, nodes.layers, nodes.diff_ids, restart
    )  # fmt: skip
    run(world, examples(number))


@pytest.mark.slow
def test_over_the_socket(nodes: Nodes, stack: ExitStack) -> None:
    """The daemon, ended and killed at any time: values and errors survive the way there and back."""
    root = nodes.directory / "root"
    clients = ExitStack()
    with Daemon(root, repository=NAME, absolute_mountpoint=nodes.repository.root) as daemon, clients:

        def restart(peacefully: bool) -> Client:
            clients.close()
            if peacefully:
                daemon.stop()
            else:
                daemon.kill9()
            daemon.start()
            return clients.enter_context(daemon.client())

        first = clients.enter_context(daemon.client())
        run(World(first, root, nodes.new_model, nodes.layers, nodes.diff_ids, restart), number=15)


@pytest.mark.engine
@pytest.mark.root
def test_over_containerds_own(short_path: Path) -> None:
    """containerd's overlayfs answers as the model: so the model is right. It serves no remote layers, and this
    generation's Commit takes no parent."""
    with Server(overlayfs(), short_path / "o") as server, Client(server.address) as client:
        run(containerds(server, client), number=60)


@pytest.mark.engine
@pytest.mark.root
@pytest.mark.parametrize("fault", ["view-rw", "walk-nofilter", "remove-ok"])
def test_a_fault_is_noticed(short_path: Path, fault: str) -> None:
    """containerd's overlayfs with one planted fault differs from the model."""
    good = overlayfs()
    server = Server(Program(fault, [*good.command, "-mutant", fault]), short_path / "o")
    with server, Client(server.address) as client, pytest.raises(AssertionError):
        run(containerds(server, client, cleans=False), number=60, shrink=False)


def containerds(server: Server, client: Client, *, cleans: bool = True) -> World:
    """Its List fails before anything was written."""
    client.prepare("first", "", {})
    client.remove("first")
    return World(client, server.root, Model, rebase=False, cleans=cleans)

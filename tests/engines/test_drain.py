"""How a node is left: what drain says is what helps, on real containerd of three generations."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshotter.cli.drain import drain
from snapshotter.cli.fsck import fsck
from snapshotter.client import Client
from tests.engines.compared import SHOW, SHOWN, Node, World, made_node, made_world
from tests.engines.containerd import PROXY, VERSIONS

pytestmark = [pytest.mark.engine, pytest.mark.fuse, pytest.mark.root]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(params=VERSIONS)
def node(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Node]:
    with made_node(request.param, world, tmp_path) as node:
        yield node


def test_a_node_is_left_in_the_order_that_drain_says(node: Node) -> None:
    """As long as something uses us it is named and the exit status is 3; each step makes it less; then containerd runs
    the same image on overlayfs, without us."""
    node.cri.pull(node.world.reference(node.world.user))
    with Client(node.containerd.socket, PROXY, "by-hand") as client:
        client.prepare("leased", "", {"containerd.io/gc.root": "test"})
    container = node.cri.start(node.base, ["/bin/sleep", "1000"])
    config = str(node.containerd.directory / "config.toml")
    status, found = node.run(drain, "--containerd-config", config)
    assert status == 3
    assert {one["id"] for one in found["containers"]} == {container.id, container.pod}
    images = {(one["namespace"], one["name"]) for one in found["images"]}
    assert {
        ("k8s.io", node.base),
        ("k8s.io", node.world.reference(node.world.user)),
        ("k8s.io", node.world.sandbox),
    } <= images
    assert found["snapshots"] == ["by-hand/leased"]
    assert any(line["text"] == f'snapshotter = "{PROXY}"' for line in found["config"])
    text = node.text(drain, "--containerd-config", config)
    commands = [line.strip() for line in text.splitlines() if line.startswith("     ")]
    assert f"crictl stop {container.id} && crictl rm {container.id}" in commands
    assert f"crictl stopp {container.pod} && crictl rmp {container.pod}" in commands
    switch_default(node)
    assert node.cri.exec(container, ["/bin/cat", "/data/one"]).output == "one\n"
    assert node.run(drain)[0] == 3
    node.cri.stop(container)
    assert not node.run(drain)[1]["containers"]
    for command in commands:
        if command.startswith("ctr "):
            node.containerd.ctr(*command.replace("'", "").split()[1:])
    deadline = time.monotonic() + 30
    while node.run(drain)[0] != 0:
        assert time.monotonic() < deadline, node.text(drain)
        node.run(fsck, "--repair", "--older-than", "0")
    assert node.text(drain).startswith("nothing uses it\n")
    node.daemon.end(signal.SIGTERM)
    assert node.run(drain)[0] == 0  # of the records on the disk, and containers and images; without us it lists nothing
    node.cri.pull(node.base)
    assert node.cri.run(node.base, SHOW).output == SHOWN


def switch_default(node: Node) -> None:
    """Has new containers use overlayfs, while the proxy plugin stays configured."""
    text = node.containerd.configuration().replace(f'snapshotter = "{PROXY}"', 'snapshotter = "overlayfs"')
    node.containerd.configuration = lambda: text  # type: ignore[method-assign]
    node.containerd.restart()

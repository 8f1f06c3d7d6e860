"""What clients of real containerd send of a layer when nobody switched labels on, and which of them are served anyway.

Found with 1.6.20, 1.7.24 and 2.1.9. CRI sends the chain alone (`containerd.io/snapshot.ref`) in every generation, and
so does the transfer service, which `ctr image pull` uses since 2.0: the node's index knows the layer of a chain, and
nothing is downloaded. `ctr image pull` of 1.6 and 1.7, and with `--local` of 2.1, unpacks by itself and sends no label
at all: its Prepares are those of a container that starts, nothing says that a layer is wanted, and no snapshotter can
help. (1.7 has the transfer service too, but `ctr image pull --local=false` asks it for https alone, which the registry
of these tests does not speak.)
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from snapshotter import labels as label
from tests.engines.busybox import push_pause, write_busybox
from tests.engines.containerd import VERSIONS, Containerd
from tests.engines.cri import Cri
from tests.engines.node import Snapshotter
from tests.engines.registry import Registry
from tests.fidelity.publishing import Form, publish
from tests.images.ocilayout import Image
from tests.images.tarlayer import Dir, Entry, File, Whiteout
from tests.mounting import standin
from tests.snapshotter.nodes import eventually

pytestmark = [pytest.mark.engine, pytest.mark.fuse, pytest.mark.root]

_UPPER: list[list[Entry]] = [
    [Dir("data"), File("data/one", b"one\n"), File("data/gone", b"x")],
    [Whiteout("data/gone")],
]
_LOCAL: dict[str, list[str]] = {"1.6": [], "1.7": [], "2.1": ["--local"]}
"""What makes `ctr image pull` unpack by itself: up to 1.7 it always does so."""


class Unlabelled(Containerd):
    """A containerd whose configuration leaves labels as they are by default."""

    def configuration(self) -> str:
        """The usual one, without what switches labels on."""
        text = super().configuration().replace("    disable_snapshot_annotations = false\n", "")
        return re.sub(r".*enable_remote_snapshot_annotations.*\n", "", text)


@dataclass(frozen=True)
class World:
    """A registry and a repository that have the image: as our publisher leaves it, and as DUCC does."""

    registry: Registry
    sandbox: str
    mountpoint: Path
    image: Image
    reference: str


@dataclass(frozen=True)
class Node:
    """One engine over our daemon, which has read the repository."""

    world: World
    containerd: Containerd
    snapshotter: Snapshotter

    def prepares(self) -> list[dict[str, Any]]:
        """What was said of Prepares that asked for a layer."""
        return self.snapshotter.events("remote prepare")

    def fetched_layers(self, since: int) -> list[str]:
        asked = set(self.world.registry.blob_requests(since))
        return [layer for layer in self.world.image.layers if layer in asked]


@pytest.fixture(scope="module", params=[Form.OVERLAY, Form.DUCC])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("world")
    image = write_busybox(directory / "layout", "base", _UPPER)
    with Registry(directory / "registry") as registry:
        reference = registry.push(directory / "layout", "base", "test/base:1")
        publish(image, directory / "repository", reference, request.param)
        with standin(directory / "repository", directory / "cvmfs", kcache=60) as mount:
            yield World(registry, push_pause(registry), mount.mountpoint, image, reference)


@pytest.fixture(params=VERSIONS)
def node(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Node]:
    with (
        Snapshotter(tmp_path / "state", world.mountpoint, index_interval=0.5) as snapshotter,
        Unlabelled(request.param, world.sandbox, snapshotter.proxy) as containerd,
    ):
        node = Node(world, containerd, snapshotter)
        eventually(lambda: any(line["complete"] for line in snapshotter.events("repository indexed")))
        yield node


def test_cri_is_served_by_the_chain(node: Node) -> None:
    """With containerd's default configuration: it sends no digest of a layer, and no layer is downloaded; what runs is
    the image."""
    mark = node.world.registry.mark()
    with Cri(node.containerd.socket) as cri:
        cri.pull(node.world.reference)
        assert node.fetched_layers(mark) == []
        result = cri.run(node.world.reference, ["/bin/sh", "-c", "cat /data/one; ls -A /data"])
        assert (result.exit_code, result.output) == (0, "one\none\n")
    _served_by_the_chain(node)


@pytest.mark.parametrize("node", ["2.1"], indirect=True)
def test_the_transfer_service_is_served_by_the_chain(node: Node) -> None:
    """`ctr image pull` of containerd 2 asks the service, which sends the chain, and no layer is downloaded."""
    mark = node.world.registry.mark()
    node.containerd.ctr(*_pull(node))
    assert node.fetched_layers(mark) == []
    _served_by_the_chain(node)


def test_ctr_that_unpacks_by_itself_cannot_be_served(node: Node) -> None:
    """It sends nothing: every layer is downloaded, no Prepare is known to be one of a pull, and so nothing is said of a
    miss either. The image is whole all the same."""
    mark = node.world.registry.mark()
    node.containerd.ctr(*_pull(node, *_LOCAL[node.containerd.version]))
    assert node.fetched_layers(mark) == list(node.world.image.layers)
    assert node.prepares() == []
    with node.snapshotter.client() as client:
        infos = list(client.walk())
    assert len(infos) == len(node.world.image.layers)
    assert not [info for info in infos if label.TARGET in info.labels or label.MISS in info.labels]


def _pull(node: Node, *options: str) -> list[str]:
    name = node.containerd.snapshotter_name
    return ["image", "pull", "--plain-http", "--snapshotter", name, *options, node.world.reference]


def _served_by_the_chain(node: Node) -> None:
    """Every layer was a hit, named as the one that was found; the request had named no image."""
    asked, layers = node.prepares(), node.world.image.layers
    assert {(line["outcome"], line["layer"], line["image"]) for line in asked} == {("hit", one, "") for one in layers}
    assert len({line["target"] for line in asked}) == len(node.world.image.layers)

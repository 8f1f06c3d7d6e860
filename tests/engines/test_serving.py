"""Real containerd of three generations runs images out of a repository, through CRI, as kubelet would."""

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest, chain_id
from cvmfsrepo.errors import AlreadyExists, Internal, Unavailable
from snapshotter.client import Client
from tests.engines.busybox import push_pause, write_busybox
from tests.engines.containerd import VERSIONS, Containerd
from tests.engines.cri import Cri
from tests.engines.node import Snapshotter
from tests.engines.registry import Registry
from tests.fidelity.proof import image_of
from tests.fidelity.publishing import publish
from tests.images.ocilayout import Image
from tests.images.tarlayer import Dir, File, Whiteout
from tests.mounting import standin

pytestmark = [pytest.mark.engine, pytest.mark.fuse, pytest.mark.root]

_ONE = [Dir("data"), File("data/one", b"one\n"), File("data/gone", b"x")]
_TWO = [File("data/two", b"two\n"), Whiteout("data/gone")]
_OWN = [File("data/own", b"of the user\n")]


@dataclass(frozen=True)
class World:
    """A registry and a repository that have the base image; the registry alone has the user's."""

    registry: Registry
    sandbox: str
    mountpoint: Path
    base: Image
    sibling: Image
    user: Image

    def reference(self, image: Image) -> str:
        return self.registry.reference(f"test/{image.ref}:1")


@dataclass(frozen=True)
class Node:
    """One engine of one version over our daemon."""

    world: World
    containerd: Containerd
    snapshotter: Snapshotter
    cri: Cri

    def fetched_layers(self, image: Image, since: int) -> list[str]:
        """Layers of the image that somebody asked the registry for since a mark."""
        asked = set(self.world.registry.blob_requests(since))
        return [layer for layer in image.layers if layer in asked]

    def wait_until_reconnected(self) -> None:
        """containerd's client may wait up to three seconds before it dials a daemon again that had gone."""
        deadline = time.monotonic() + 10
        with Client(self.containerd.socket, self.containerd.snapshotter_name, "k8s.io") as client:
            while True:
                try:
                    list(client.walk())
                except (Unavailable, Internal):  # 1.6 answers UNKNOWN
                    assert time.monotonic() < deadline, "containerd did not reconnect"
                    time.sleep(0.1)
                else:
                    return


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("world")
    layout, repository = directory / "layout", directory / "repository"
    base = write_busybox(layout, "base", [_ONE, _TWO])
    sibling = write_busybox(layout, "sibling", [_TWO, _ONE])
    user = write_busybox(layout, "user", [_ONE, _TWO, _OWN])
    with Registry(directory / "registry") as registry:
        for image in (base, sibling, user):
            registry.push(layout, image.ref, f"test/{image.ref}:1")
        for image in (base, sibling):
            publish(image, repository, registry.reference(f"test/{image.ref}:1"))
        with standin(repository, directory / "cvmfs", kcache=60):
            yield World(registry, push_pause(registry), directory / "cvmfs", base, sibling, user)


@pytest.fixture(params=VERSIONS)
def node(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Node]:
    with (
        Snapshotter(tmp_path / "state", world.mountpoint) as snapshotter,
        Containerd(request.param, world.sandbox, snapshotter.proxy) as containerd,
        Cri(containerd.socket) as cri,
    ):
        yield Node(world, containerd, snapshotter, cri)


def test_an_image_runs_and_no_layer_is_downloaded_not_even_the_second_time(node: Node) -> None:
    """Pull, run, remove, pull again, run: the registry is never asked for a layer, and deleted files stay deleted."""
    reference, image = node.world.reference(node.world.base), node.world.base
    for _ in range(2):
        mark = node.world.registry.mark()
        node.cri.pull(reference)
        result = node.cri.run(reference, ["/bin/sh", "-c", "cat /data/one /data/two; ls -A /data"])
        assert (result.exit_code, result.output) == (0, "one\ntwo\none\ntwo\n")
        assert node.fetched_layers(image, mark) == []
        node.cri.remove_image(reference)
    hits = [line for line in node.snapshotter.events("remote prepare") if line["outcome"] == "hit"]
    assert {line["layer"] for line in hits} >= set(image.layers)


def test_of_a_users_image_only_its_own_layer_is_downloaded(node: Node) -> None:
    """The base layers come from the repository, the one on top from the registry, and the miss has its reason."""
    user = node.world.user
    mark = node.world.registry.mark()
    node.cri.pull(node.world.reference(user))
    assert node.fetched_layers(user, mark) == [user.layers[-1]]
    result = node.cri.run(node.world.reference(user), ["/bin/cat", "/data/one", "/data/own"])
    assert (result.exit_code, result.output) == (0, "one\nof the user\n")
    misses = [line for line in node.snapshotter.events("remote prepare") if line.get("layer") == user.layers[-1]]
    assert [line["reason"] for line in misses] == ["absent"]


def test_two_images_share_layers_under_different_parents(node: Node) -> None:
    """The same layers in another order are served as well, and show what that order makes."""
    base, sibling = node.world.base, node.world.sibling
    mark = node.world.registry.mark()
    for image in (base, sibling):
        node.cri.pull(node.world.reference(image))
    assert node.fetched_layers(base, mark) == [] == node.fetched_layers(sibling, mark)
    listing = ["/bin/sh", "-c", "ls -A /data"]
    assert node.cri.run(node.world.reference(base), listing).output.split() == ["one", "two"]
    assert node.cri.run(node.world.reference(sibling), listing).output.split() == ["gone", "one", "two"]


def test_a_second_namespace_is_served_too(node: Node) -> None:
    """What CRI pulled is asked for in another containerd namespace: every layer is answered with AlreadyExists."""
    image = node.world.base
    node.cri.pull(node.world.reference(image))
    with Client(node.containerd.socket, node.containerd.snapshotter_name, "other") as client:
        parent = ""
        for number, layer in enumerate(image.layers):
            target = str(chain_id([Digest.parse(d) for d in image.diff_ids[: number + 1]]))
            labels = {
                "containerd.io/snapshot.ref": target,
                "containerd.io/snapshot/cri.layer-digest": layer,
                "containerd.io/gc.root": "test",
            }
            with pytest.raises(AlreadyExists):
                client.prepare(f"extract-{number}", parent, labels)
            assert client.stat(target).parent == parent
            parent = target
    with image_of(node.containerd, [Digest.parse(d) for d in image.diff_ids], "other") as root:
        assert sorted(path.name for path in (root / "data").iterdir()) == ["one", "two"]


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_between_pull_and_run_and_under_a_container_disturbs_nothing(
    node: Node, with_signal: signal.Signals
) -> None:
    """The daemon is ended and started between a pull and a run, and again while the container runs."""
    reference = node.world.reference(node.world.base)
    node.cri.pull(reference)
    node.snapshotter.end(with_signal)
    node.snapshotter.start()
    node.wait_until_reconnected()
    with node.cri.running(reference, ["/bin/sleep", "1000"]) as container:
        node.snapshotter.end(with_signal)
        during = node.cri.exec(container, ["/bin/sh", "-c", "cat /data/two; echo written > /data/new"])
        node.snapshotter.start()
        after = node.cri.exec(container, ["/bin/cat", "/data/one", "/data/new"])
        assert (during.output, after.output) == ("two\n", "one\nwritten\n")
    node.wait_until_reconnected()
    mark = node.world.registry.mark()
    node.cri.remove_image(reference)
    node.cri.pull(reference)
    assert node.fetched_layers(node.world.base, mark) == []

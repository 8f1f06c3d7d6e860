"""A real containerd's garbage collector takes snapshots away while images are pulled in two namespaces."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from snapshotter.client import Client
from tests.engines.busybox import push_pause, write_busybox
from tests.engines.containerd import Containerd
from tests.engines.cri import Cri
from tests.engines.node import Snapshotter
from tests.engines.registry import Registry
from tests.fidelity.publishing import publish
from tests.images.ocilayout import Image
from tests.images.tarlayer import Dir, Entry, File, Whiteout
from tests.load.growth import assert_steady, seconds, until, watch
from tests.snapshotter.nodes import eventually
from tests.snapshotter.test_crash import assert_whole

pytestmark = [pytest.mark.engine, pytest.mark.root, pytest.mark.slow]

VERSION = "2.1"
"""The one whose command line pulls with the labels of a remote snapshotter too."""

NAMESPACE = "other"
LAYERS: list[list[Entry]] = [
    [Dir("data"), File("data/one", b"1"), File("data/gone", b"x")],
    [Whiteout("data/gone")],
    [File("two", b"2")],
]
OWN: list[Entry] = [File("own", b"own")]


@dataclass(frozen=True)
class World:
    """A containerd over our daemon; the layers of the images are published but for the last one's top."""

    registry: Registry
    containerd: Containerd
    snapshotter: Snapshotter
    images: list[Image]

    def reference(self, image: Image) -> str:
        return self.registry.reference(f"test/{image.ref}:1")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    layout, repository = tmp_path / "layout", tmp_path / "repository"
    stacks = {"a": LAYERS, "b": [LAYERS[0], LAYERS[2], LAYERS[1]], "own": [*LAYERS, OWN]}
    images = [write_busybox(layout, name, stack) for name, stack in stacks.items()]
    with Registry(tmp_path / "registry") as registry:
        for image in images:
            registry.push(layout, image.ref, f"test/{image.ref}:1")
            if image.ref != "own":
                publish(image, repository, registry.reference(f"test/{image.ref}:1"))
        with (
            Snapshotter(tmp_path / "state", repository, deadline=60) as snapshotter,
            Containerd(VERSION, push_pause(registry), snapshotter.proxy) as containerd,
        ):
            yield World(registry, containerd, snapshotter, images)


def pull_by_cri(world: World, image: Image) -> None:
    """As kubelet; the removal waits for a collection."""
    with Cri(world.containerd.socket) as cri:
        cri.pull(world.reference(image))
        assert cri.find_image(world.reference(image)) == image.config
        cri.remove_image(world.reference(image))


def pull_by_ctr(world: World, image: Image) -> None:
    """As an operator, in a namespace of his own."""
    name, reference = world.containerd.snapshotter_name, world.reference(image)
    world.containerd.ctr("-n", NAMESPACE, "images", "pull", "--plain-http", "--snapshotter", name, reference)
    world.containerd.ctr("-n", NAMESPACE, "images", "rm", "--sync", reference)


@pytest.mark.timeout(seconds(30) + 240)
def test_pulls_and_collections(world: World) -> None:
    """Every pull works and none of them downloads a published layer, the daemon does not grow, and when all images are
    removed nothing of them is left on the node."""
    over, deadline, rounds = threading.Event(), time.monotonic() + seconds(30), list[str]()
    mark = world.registry.mark()

    def repeat(pull: Callable[[World, Image], None], image: Image) -> None:
        while until(deadline) and not over.is_set():
            pull(world, image)
            rounds.append(f"{pull.__name__} {image.ref}")

    with ThreadPoolExecutor(8) as pool:
        watching = pool.submit(watch, world.snapshotter.pid, over)
        futures = [pool.submit(repeat, pull, i) for i in world.images for pull in (pull_by_cri, pull_by_ctr)]
        try:
            for future in futures:
                future.result()
        finally:
            over.set()
    print({what: rounds.count(what) for what in rounds})
    published = {layer for image in world.images[:2] for layer in image.layers}
    assert published.isdisjoint(world.registry.blob_requests(mark))
    assert min(rounds.count(f"{pull} {i.ref}") for i in world.images for pull in ("pull_by_cri", "pull_by_ctr")) > 2
    assert_steady(watching.result())
    assert_nothing_left(world)


def assert_nothing_left(world: World) -> None:
    with world.snapshotter.client() as client:
        eventually(lambda: not list(client.walk()), 30)
        for namespace in (NAMESPACE, "k8s.io"):
            with Client(world.containerd.socket, world.containerd.snapshotter_name, namespace) as containerds:
                assert list(containerds.walk()) == []
        client.cleanup()
        assert_whole(world.snapshotter.root, [], client)
    assert os.listdir(world.snapshotter.root / "snapshots") == []

"""Layers that leave: what stands on them is refused with a sentence, and works again when they are back."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists, NotFound, Unavailable
from snapshotter import labels as label
from snapshotter.config import Config
from snapshotter.server import opened
from snapshotter.snapshotter import Snapshotter
from tests import mounting
from tests.mounting import Standin
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.layers import NAME, HandMade, lookup, pull
from tests.suites.contract import Verbs, fresh

pytestmark = [pytest.mark.root, pytest.mark.fuse]

DEADLINE, INTERVAL = 1.0, 0.3


@dataclass(slots=True)
class Image:
    """An image of three remote layers, its topmost snapshot, and the mount that they are on."""

    repository: HandMade
    standin: Standin
    verbs: Snapshotter
    layers: list[Digest]
    top: str

    def path(self, number: int) -> str:
        return layer_path(self.layers[number])

    def forget(self) -> None:
        """Until good answers are older than a probe interval."""
        time.sleep(INTERVAL + 0.05)


def layer_path(layer: Digest) -> str:
    return f"/.layers/{layer.hex[:2]}/{layer.hex}"


def pulled(verbs: Verbs, layers: list[Digest]) -> str:
    """The name of the topmost snapshot after a pull of these layers."""
    parent = ""
    for number, layer in enumerate(layers):
        with pytest.raises(AlreadyExists):
            verbs.prepare(fresh("extract"), parent, pull(f"chain-{number}", layer))
        (parent,) = lookup(verbs, f"chain-{number}", parent)
    return parent


@pytest.fixture
def image(tmp_path: Path, repository: HandMade, config: Config) -> Iterator[Image]:
    mounting.needs_fuse()
    layers = [repository.add(f"layer-{number}", {f"file-{number}": f"{number}"}) for number in range(3)]
    with mounting.standin(repository.root, tmp_path / "mount", kcache=0) as standin:
        there = msgspec.structs.replace(
            config, absolute_mountpoint=str(standin.mountpoint), deadline=DEADLINE, probe_interval=INTERVAL
        )
        with opened(there) as verbs:
            yield Image(repository, standin, verbs, layers, pulled(verbs, layers))
        if standin.process.poll() is None and mounting.mounts_at(standin.mountpoint):
            standin.clear()


Ask = Callable[[Image], object]


def prepare(image: Image) -> object:
    return image.verbs.prepare(fresh("container"), image.top, {})


def view(image: Image) -> object:
    return image.verbs.view(fresh("view"), image.top, {})


def mounts(image: Image) -> object:
    """Of a snapshot that was made while all was well."""
    (key,) = [info.name for info in image.verbs.walk() if info.name.endswith("/before")]
    return image.verbs.mounts(key)


ASKING = pytest.mark.parametrize("ask", [prepare, view, mounts])

LEAVING: dict[str, tuple[Callable[[Image], object], Callable[[Image], object], str]] = {
    "collected": (
        lambda image: image.standin.publish(hide=[image.path(1)]),
        lambda image: image.standin.publish(show=[image.path(1)]),
        "absent",
    ),
    "unmounted": (lambda image: image.standin.vanish(), lambda image: image.standin.reappear(), "unmounted"),
    "dead": (lambda image: image.standin.kill(), lambda image: image.standin.reappear(), "unmounted"),
    "catalog": (
        lambda image: image.standin.fault("catalog", f"{image.path(1)}/layerfs"),
        lambda image: image.standin.clear(),
        "io-error",
    ),
    "stale": (
        lambda image: image.standin.fault("estale", image.path(1)), lambda image: image.standin.clear(), "stale",
    ),
    "stalled": (
        lambda image: image.standin.fault("stall", image.path(1)), lambda image: image.standin.clear(), "timeout",
    ),
}  # fmt: skip


@ASKING
@pytest.mark.parametrize("how", LEAVING)
def test_what_stands_on_a_layer_that_left(image: Image, ask: Ask, how: str) -> None:
    """UNAVAILABLE within the deadline, naming snapshot, layer, repository and reason, and nothing is left behind; when
    the layer is back it works, without a restart."""
    leave, come_back, reason = LEAVING[how]
    image.verbs.prepare(fresh("before"), image.top, {})
    before = {info.name for info in image.verbs.walk()}
    image.forget()
    leave(image)
    began = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        ask(image)
    assert time.monotonic() - began < DEADLINE + 1
    said = str(refused.value)
    assert f"({reason}: " in said
    assert NAME in said
    named = image.layers if reason == "unmounted" else [image.layers[1]]
    assert any(str(layer) in said for layer in named)
    assert "works again" in said
    assert {info.name for info in image.verbs.walk()} == before
    come_back(image)
    end = time.monotonic() + INTERVAL + DEADLINE + 1
    while True:
        try:
            ask(image)
            break
        except Unavailable:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_unavailable_on_the_wire(tmp_path: Path, repository: HandMade) -> None:
    """For Prepare, View and Mounts, with the whole sentence."""
    layers = [repository.add(f"{number}") for number in range(2)]
    settings = {"deadline": DEADLINE, "probe_interval": INTERVAL}
    with (
        Daemon(tmp_path / "root", absolute_mountpoint=repository.root, **settings) as daemon,
        daemon.client() as client,
    ):
        top = pulled(client, layers)
        client.prepare("before", top, {})
        time.sleep(2 * INTERVAL)
        directory = repository.layout.layer(layers[0])
        directory.rename(directory.with_suffix(".away"))
        asking: list[Callable[[], object]] = [
            lambda: client.prepare("a", top, {}),
            lambda: client.view("b", top, {}),
            lambda: client.mounts("before"),
        ]
        for call in asking:
            with pytest.raises(Unavailable, match=f"absent: layer {layers[0]} is not published in .*works again"):
                call()


def counts(standin: Standin, layer: Digest) -> int:
    """How often the layer's directory was opened since the last reset."""
    return standin.counters().paths.get(f"{layer_path(layer)}/layerfs", {}).get("opendir", 0)


def test_a_good_answer_is_reused_for_one_interval(image: Image) -> None:
    """However many containers start within it each layer is looked at once; afterwards again."""
    while not _in_one_interval(image):
        pass
    assert [counts(image.standin, layer) for layer in image.layers] == [1, 1, 1]
    image.forget()
    image.verbs.prepare(fresh("container"), image.top, {})
    assert [counts(image.standin, layer) for layer in image.layers] == [2, 2, 2]


def _in_one_interval(image: Image) -> bool:
    """Starts containers, and tells whether the machine was fast enough for all of them to fall into one interval."""
    image.forget()
    image.standin.reset()
    began = time.monotonic()
    for _ in range(3):
        key = fresh("container")
        image.verbs.prepare(key, image.top, {})
        image.verbs.mounts(key)
        image.verbs.view(fresh("view"), image.top, {})
    return time.monotonic() - began < INTERVAL


def test_a_bad_answer_is_not_reused(image: Image) -> None:
    """When the layer is back the very next call works."""
    image.forget()
    image.standin.publish(hide=[image.path(1)])
    with pytest.raises(Unavailable):
        prepare(image)
    image.standin.publish(show=[image.path(1)])
    prepare(image)


def test_a_pull_checks_only_its_own_layer(image: Image) -> None:
    """Its Prepare costs the layers below nothing, and works where they have left: containerd asks for mounts, or the
    container does, when it matters."""
    top = image.repository.add("top")
    image.forget()
    image.standin.reset()
    with pytest.raises(AlreadyExists):
        image.verbs.prepare("extract", image.top, pull("on-top", top))
    assert [counts(image.standin, layer) for layer in image.layers] == [0, 0, 0]
    assert counts(image.standin, top) > 0
    image.standin.publish(hide=[image.path(0)])
    image.verbs.prepare("missed", image.top, pull("missed", Digest.of(b"none")))
    assert label.MISS in image.verbs.stat("missed").labels


def test_ancestors_are_looked_at_side_by_side(tmp_path: Path, repository: HandMade, config: Config) -> None:
    """Of a slow repository: together they take far less than one after the other, and than the deadline."""
    mounting.needs_fuse()
    layers = [repository.add(f"{number}") for number in range(30)]
    with mounting.standin(repository.root, tmp_path / "mount", kcache=60) as standin:
        there = msgspec.structs.replace(
            config, absolute_mountpoint=str(standin.mountpoint), deadline=5.0, probe_interval=0.2
        )
        with opened(there) as verbs:
            top = pulled(verbs, layers)
            time.sleep(0.3)
            standin.fault("slow", "/.layers/*/*/layerfs", 0.25, ["opendir"])
            began = time.monotonic()
            verbs.prepare("container", top, {})
            assert 0.25 <= time.monotonic() - began < 30 * 0.25 / 3
            standin.clear()


def test_many_ancestors_that_hang_share_one_deadline(tmp_path: Path, repository: HandMade, config: Config) -> None:
    """More of them than there are threads."""
    mounting.needs_fuse()
    layers = [repository.add(f"{number}") for number in range(40)]
    with mounting.standin(repository.root, tmp_path / "mount", kcache=60) as standin:
        there = msgspec.structs.replace(
            config, absolute_mountpoint=str(standin.mountpoint), deadline=1.0, probe_interval=0.3
        )
        with opened(there) as verbs:
            top = pulled(verbs, layers)
            time.sleep(0.4)
            standin.fault("stall", "/.layers/*/*")
            began = time.monotonic()
            with pytest.raises(Unavailable, match="timeout: "):
                verbs.prepare("container", top, {})
            assert time.monotonic() - began < 2.0
            standin.clear()


@pytest.mark.parametrize("how", [*LEAVING, "stalled for all"])
def test_remove_always_works(image: Image, how: str) -> None:
    """Of the container, of what stands on the layer and of the layer's own snapshot; so do Stat, List and Cleanup. The
    repository itself is not touched."""
    image.verbs.prepare("container", image.top, {})
    image.forget()
    if how == "stalled for all":
        image.standin.fault("stall")
    else:
        LEAVING[how][0](image)
    began = time.monotonic()
    assert image.verbs.stat(image.top).name == image.top
    key: str = "container"
    while key:
        parent = image.verbs.stat(key).parent
        image.verbs.remove(key)
        with pytest.raises(NotFound):
            image.verbs.stat(key)
        key = parent
    image.verbs.cleanup()
    assert list(image.verbs.walk()) == []
    assert time.monotonic() - began < DEADLINE
    for layer in image.layers:
        assert os.listdir(image.repository.layout.layerfs(layer))


@pytest.mark.parametrize("how", ["collected", "unmounted"])
def test_running_containers_keep_what_they_hold(image: Image, tmp_path: Path, how: str) -> None:
    """An open file is read to its end, also after the snapshots are removed; after an unmount the whole tree stays, as
    the kernel keeps a mount that is in use."""
    (mount,) = image.verbs.prepare("container", image.top, {})
    with mounting.mounted(mount.type, mount.source, tmp_path / "rootfs", list(mount.options)) as rootfs:
        held = os.open(rootfs / "file-1", os.O_RDONLY)
        assert (rootfs / "file-0").read_text() == "0"
        LEAVING[how][0](image)
        image.forget()
        with pytest.raises(Unavailable):
            prepare(image)
        assert os.pread(held, 1, 0) == b"1"
        if how == "unmounted":
            assert [(rootfs / f"file-{number}").read_text() for number in range(3)] == ["0", "1", "2"]
        (rootfs / "new").write_text("written")
        image.verbs.remove("container")
        image.verbs.remove(image.top)
        assert os.pread(held, 1, 0) == b"1"
        os.close(held)

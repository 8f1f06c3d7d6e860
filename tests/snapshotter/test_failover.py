"""Several repositories in order of priority: the first healthy one that has the layer serves it."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists, Unavailable
from snapshotter import labels as label
from snapshotter.config import Config, RepositoryConfig
from snapshotter.server import opened
from snapshotter.snapshotter import Snapshotter
from tests import mounting
from tests.mounting import Standin
from tests.snapshotter.layers import HandMade, lookup, pull
from tests.snapshotter.nodes import eventually
from tests.suites.contract import fresh

pytestmark = [pytest.mark.root, pytest.mark.fuse]

DEADLINE, INTERVAL = 0.5, 0.2


@dataclass(frozen=True, slots=True)
class Two:
    """Two repositories: the first on a mount that can be made to fail, the second a plain directory."""

    first: HandMade
    second: HandMade
    mount: Standin
    verbs: Snapshotter

    def add(self, word: str) -> Digest:
        """A layer that both have."""
        self.second.add(word)
        return self.first.add(word)

    def served_by(self, layer: Digest, parent: str = "") -> str:
        """The repository that serves a layer now, or the reason why none does; the snapshot stays."""
        target = fresh("target")
        try:
            self.verbs.prepare(target, parent, pull(target, layer))
        except AlreadyExists:
            (name,) = lookup(self.verbs, target, parent)
            return self.verbs.stat(name).labels[label.REMOTE]
        return self.verbs.stat(target).labels[label.MISS]


@contextmanager
def served(root: Path, *repositories: tuple[str, Path], interval: float = INTERVAL) -> Iterator[Snapshotter]:
    """A snapshotter over repositories by name and path, in this order."""
    configured = tuple(RepositoryConfig(name, str(path)) for name, path in repositories)
    with opened(Config(root=str(root), repositories=configured, deadline=DEADLINE, probe_interval=interval)) as verbs:
        yield verbs


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    mounting.needs_fuse()
    first, second = HandMade(tmp_path / "source"), HandMade(tmp_path / "second")
    with mounting.standin(first.root, tmp_path / "first", kcache=60, negative=0) as mount:
        with served(tmp_path / "root", ("first", mount.mountpoint), ("second", second.root)) as verbs:
            yield Two(first, second, mount, verbs)
        if mount.process.poll() is None and mounting.mounts_at(mount.mountpoint):
            mount.clear()


def test_a_layer_in_both_is_served_by_the_first(two: Two) -> None:
    """By order of the configuration."""
    assert two.served_by(two.add("both")) == "first"


def test_a_layer_in_one_is_served_by_that(two: Two) -> None:
    """Whichever it is."""
    assert two.served_by(two.second.add("late")) == "second"
    assert two.served_by(two.first.add("early")) == "first"


@pytest.mark.parametrize("kind", ["eio", "enotconn", "estale", "eacces"])
def test_the_second_takes_over_when_the_first_fails(two: Two, kind: str) -> None:
    """With any error of the file system; the first serves again when it has none."""
    layers = [two.add(f"{number}") for number in range(3)]
    assert two.served_by(layers[0]) == "first"
    two.mount.fault(kind)
    assert two.served_by(layers[1]) == "second"
    two.mount.clear()
    assert two.served_by(layers[2]) == "first"


@pytest.mark.parametrize("end", ["vanish", "kill"])
def test_the_second_takes_over_when_the_first_is_away(two: Two, end: str) -> None:
    """Unmounted or dead; the first serves again when it is mounted."""
    layers = [two.add(f"{number}") for number in range(2)]
    {"vanish": two.mount.vanish, "kill": two.mount.kill}[end]()
    assert two.served_by(layers[0]) == "second"
    two.mount.reappear()
    assert two.served_by(layers[1]) == "first"


def test_the_second_takes_over_at_the_deadline(two: Two) -> None:
    """Where the first hangs and nobody knows it yet, the pull is a hit all the same."""
    layer = two.add("both")
    two.mount.fault("stall", f"/.layers/{layer.hex[:2]}")
    began = time.monotonic()
    assert two.served_by(layer) == "second"
    assert DEADLINE <= time.monotonic() - began < DEADLINE + 1


def test_the_second_takes_over_at_once_while_the_first_is_open(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing waits any more; and back, within a probe interval, when the first answers. The log says which."""
    caplog.set_level(logging.INFO)
    layers = [two.add(f"{number}") for number in range(40)]
    two.mount.fault("stall")
    absent = Digest.of(b"absent")
    eventually(lambda: two.served_by(absent).startswith("breaker-open: repository first "))
    began = time.monotonic()
    assert {two.served_by(layer) for layer in layers[:20]} == {"second"}
    assert (time.monotonic() - began) / 20 < DEADLINE / 2
    two.mount.clear()
    eventually(lambda: not two.served_by(absent).startswith("breaker-open"))
    assert {two.served_by(layer) for layer in layers[20:]} == {"first"}
    hits = [fields["repository"] for fields in _lines(caplog) if fields["outcome"] == "hit"]
    assert hits == ["second"] * 20 + ["first"] * 20


def _lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.message == "remote prepare"]


def test_the_reason_of_a_miss_in_all(two: Two) -> None:
    """One that does not answer outweighs those that have no such layer; each says its own."""
    absent = Digest.of(b"absent")
    in_first, in_second = (f"layer {absent} is not published in {name}" for name in ("first", "second"))
    assert two.served_by(absent) == f"absent: {in_first}; {in_second}"
    two.mount.fault("eio")
    said = two.served_by(absent)
    assert said.startswith("io-error: layer ")
    assert said.endswith(f" in first: {two.mount.mountpoint}{_path(absent)}/layerfs: Input/output error; {in_second}")
    two.mount.clear()
    two.second.root.rename(two.second.root.with_name("away"))
    assert two.served_by(absent).startswith("unmounted: repository second: ")


def _path(layer: Digest) -> str:
    return f"/.layers/{layer.hex[:2]}/{layer.hex}"


def test_containers_need_only_the_repository_of_their_layers(two: Two) -> None:
    """While the first is away what stands on the second starts, and what stands on the first is refused by name."""
    ours, theirs = two.first.add("ours"), two.second.add("theirs")
    assert (two.served_by(ours), two.served_by(theirs)) == ("first", "second")
    on_first, on_second = (
        next(info.name for info in two.verbs.walk([f'labels."{label.REMOTE}"=={name}'])) for name in ("first", "second")
    )
    time.sleep(INTERVAL)
    two.mount.vanish()
    two.verbs.prepare("container", on_second, {})
    with pytest.raises(Unavailable, match=f"{ours}.*first"):
        two.verbs.prepare("refused", on_first, {})


def test_an_image_may_stand_on_both(two: Two) -> None:
    """A layer of the second on one of the first; each is asked for its own."""
    base, top = two.first.add("base"), two.second.add("top")
    assert two.served_by(base) == "first"
    (parent,) = [info.name for info in two.verbs.walk()]
    assert two.served_by(top, parent) == "second"
    name = next(info.name for info in two.verbs.walk() if info.parent == parent)
    two.verbs.view("view", name, {})
    time.sleep(INTERVAL)
    two.mount.fault("eio")
    with pytest.raises(Unavailable, match=str(base)):
        two.verbs.mounts("view")


def test_a_layer_served_by_the_second_stays_there(two: Two) -> None:
    """A snapshot says where it is from; the first's return does not change what containers stand on."""
    layer = two.add("both")
    two.mount.fault("eio")
    assert two.served_by(layer) == "second"
    two.mount.clear()
    (info,) = two.verbs.walk()
    assert info.labels[label.REMOTE] == "second"
    two.mount.vanish()
    two.verbs.prepare("container", info.name, {})


def test_a_repository_that_is_not_configured_any_more(tmp_path: Path) -> None:
    """Its layers are refused by name, and can be removed; the others work."""
    first, second = HandMade(tmp_path / "first"), HandMade(tmp_path / "second")
    ours, theirs = first.add("ours"), second.add("theirs")
    with served(tmp_path / "root", ("first", first.root), ("second", second.root)) as verbs:
        for layer in (ours, theirs):
            with pytest.raises(AlreadyExists):
                verbs.prepare(fresh("key"), "", pull(f"{layer}", layer))
    with served(tmp_path / "root", ("second", second.root)) as verbs:
        (on_first,), (on_second,) = lookup(verbs, f"{ours}", ""), lookup(verbs, f"{theirs}", "")
        verbs.prepare("container", on_second, {})
        with pytest.raises(Unavailable, match=f"layer {ours}: repository first is not configured any more"):
            verbs.view("view", on_first, {})
        verbs.remove(on_first)


def test_the_order_decides_among_many(tmp_path: Path) -> None:
    """Of five repositories the first that has it, whatever stands before that one."""
    made = [HandMade(tmp_path / f"{number}") for number in range(1, 4)]
    made[2].add("some")
    layer = made[1].add("some")
    away = [(f"away-{number}", tmp_path / f"away-{number}") for number in range(2)]
    there = [(repository.root.name, repository.root) for repository in made]
    with served(tmp_path / "root", *away, *there) as verbs:
        with pytest.raises(AlreadyExists):
            verbs.prepare("key", "", pull("target", layer))
        (info,) = verbs.walk()
        assert info.labels[label.REMOTE] == "2"
        assert verbs.outcomes.hits == {"2": 1}

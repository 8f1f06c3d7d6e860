"""What a Prepare costs the repository, by the stand-in's counters.

An operation is a request that reaches the client's file system and that a Prepare waits for, under three conditions:
the kernel keeps names for 60 s, as with a real client; it knows the directories above the layer and above its record,
as it does of a repository in use; and giving a file or directory back is none, for nobody waits for that.
"""

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from cvmfsrepo import tree
from cvmfsrepo.compare import scan
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists
from snapshotter import labels as label
from snapshotter.config import Config
from snapshotter.server import opened
from snapshotter.snapshotter import Snapshotter
from tests import mounting
from tests.mounting import Standin
from tests.snapshotter.layers import HandMade, lookup, pull
from tests.snapshotter.nodes import eventually
from tests.suites.contract import fresh

pytestmark = [pytest.mark.root, pytest.mark.fuse]

FIRST_HIT, REPEATED_HIT = 6, 2
GIVING_BACK = {"release", "releasedir"}
FILES: dict[str, str | None] = {"usr/bin/tool": "x", "etc/.wh.gone": "", "var/lib/.wh..wh..opq": "", "var/lib/x": "y"}


@dataclass(frozen=True, slots=True)
class Metered:
    """A repository on a mount that counts, and a snapshotter on it whose prober has read the revision and rests."""

    repository: HandMade
    standin: Standin
    verbs: Snapshotter

    def pull(self, layer: Digest, parent: str = "", target: str = "") -> str:
        """A Prepare that must be a hit; the name of its snapshot."""
        target = target or fresh("target")
        with pytest.raises(AlreadyExists):
            self.verbs.prepare(fresh("extract"), parent, pull(target, layer))
        return lookup(self.verbs, target, parent)[0]

    def cost(self, layer: Digest, parent: str = "", target: str = "") -> tuple[str, dict[str, dict[str, int]]]:
        """The snapshot of a hit, and the operations that it took, by path below the repository."""
        directory = self.standin.mountpoint / ".layers" / layer.hex[:2] / layer.hex
        for known in (directory, directory / ".metadata"):
            known.exists()
        self.standin.reset()
        name = self.pull(layer, parent, target)
        return name, awaited(self.standin)


def awaited(standin: Standin) -> dict[str, dict[str, int]]:
    paths = standin.counters().paths.items()
    kept = {path: {name: n for name, n in counts.items() if name not in GIVING_BACK} for path, counts in paths}
    return {path: counts for path, counts in kept.items() if counts}


def total(cost: dict[str, dict[str, int]]) -> int:
    return sum(sum(counts.values()) for counts in cost.values())


@contextmanager
def metered(repository: HandMade, mountpoint: Path, root: Path) -> Iterator[Metered]:
    with mounting.standin(repository.root, mountpoint, kcache=60, negative=60) as standin:
        config = Config(root=str(root), absolute_mountpoint=str(mountpoint), probe_interval=300.0, deadline=20.0)
        with opened(config) as verbs:
            verbs.prepare(fresh("first"), "", pull("none", Digest.of(b"none")))
            yield Metered(repository, standin, verbs)


@pytest.fixture
def place(tmp_path: Path, repository: HandMade) -> Iterator[Metered]:
    mounting.needs_fuse()
    known = repository.add("known")
    record(repository, known)
    with metered(repository, tmp_path / "mount", tmp_path / "root") as place:
        place.pull(known)
        yield place


def record(repository: HandMade, layer: Digest, replaced: Mapping[bytes, tree.Entry] | None = None) -> None:
    """A publisher's record, without the few entries that are compared in the background once for each layer."""
    repository.record(layer, replaced)
    path = repository.layout.tree_record(layer)
    whole = tree.decode(path.read_bytes())
    head = msgspec.structs.replace(whole.head, witnesses=())
    path.write_bytes(tree.encode(tree.Record(head, whole.entries)))


def layers_of(repository: HandMade, count: int, recorded: bool) -> list[Digest]:
    layers = [repository.add(f"layer-{number}", {**FILES, f"file-{number}": ""}) for number in range(count)]
    for layer in layers:
        repository.layout.layer_metadata(layer).mkdir()
        if recorded:
            record(repository, layer)
    return layers


def test_a_first_hit_with_a_record(place: Metered) -> None:
    """Two names, the directory opened and listed, the record opened and read: six for each layer of an image."""
    parent = ""
    for layer in layers_of(place.repository, 4, recorded=True):
        parent, cost = place.cost(layer, parent)
        assert total(cost) <= FIRST_HIT, cost
        own = f"/.layers/{layer.hex[:2]}/{layer.hex}/"
        assert cost == {
            f"{own}layerfs": {"getattr": 1, "opendir": 1, "readdir": 1},
            f"{own}.metadata/tree.v1": {"getattr": 1, "open": 1, "read": 1},
        }


def test_directories_that_a_tar_does_not_list(place: Metered) -> None:
    """The node has to look at those below, which a first hit pays for; a repeated one does not."""
    base, top = layers_of(place.repository, 2, recorded=True)
    entries = scan(place.repository.layout.layerfs(top))
    implied = {path: msgspec.structs.replace(entries[path], implied=True) for path in (b"usr", b"usr/bin")}
    record(place.repository, top, implied)
    parent, _ = place.cost(base)
    _, cost = place.cost(top, parent)
    assert total(cost) > FIRST_HIT
    _, cost = place.cost(top, parent)
    assert total(cost) <= REPEATED_HIT, cost


@pytest.mark.parametrize("recorded", [True, False], ids=["record", "walk"])
def test_a_repeated_hit(place: Metered, recorded: bool) -> None:
    """The directory opened and listed: for the same snapshot again, as a second namespace asks; under another name; and
    when it was removed and is pulled again."""
    chain, parent = list[tuple[Digest, str]](), ""
    for layer in layers_of(place.repository, 3, recorded):
        chain.append((layer, parent))
        parent = place.pull(layer, parent, f"{layer}")
    for layer, below in chain:
        for target in (f"{layer}", "another"):
            _, cost = place.cost(layer, below, target)
            assert total(cost) <= REPEATED_HIT, cost
    for info in sorted(place.verbs.walk(), key=lambda info: -len(list(place.verbs.walk([f"parent=={info.name}"])))):
        if label.REMOTE in info.labels and not list(place.verbs.walk([f"parent=={info.name}"])):
            place.verbs.remove(info.name)
    parent = ""
    for layer, _ in chain:
        parent, cost = place.cost(layer, parent)
        assert total(cost) <= REPEATED_HIT, cost


def listings(standin: Standin, layer: Digest) -> dict[str, int]:
    """How often each directory within a layer was listed since the last reset; its root is also opened by each hit."""
    root = f"/.layers/{layer.hex[:2]}/{layer.hex}/layerfs/"
    return {
        path: n["opendir"] for path, n in standin.counters().paths.items() if path.startswith(root) and "opendir" in n
    }


def test_a_layer_is_walked_once_ever(tmp_path: Path, repository: HandMade) -> None:
    """Without a record: by many Prepares at one time, one after the other, under other parents, and after a restart of
    the daemon with another mount."""
    mounting.needs_fuse()
    layer, other = repository.add("base", FILES), repository.add("other")
    with metered(repository, tmp_path / "mount", tmp_path / "root") as place:
        place.standin.reset()
        with ThreadPoolExecutor(32) as callers:
            list(callers.map(lambda _: place.pull(layer), range(64)))
        place.pull(layer, place.pull(other))
        walked = listings(place.standin, layer)
        assert set(walked.values()) == {1}, walked
        assert len(walked) == 5  # usr, usr/bin, etc, var, var/lib
    with metered(repository, tmp_path / "mount", tmp_path / "root") as place:
        place.pull(layer)
        assert listings(place.standin, layer) == {}


def test_a_walk_that_takes_longer_than_the_deadline(tmp_path: Path, repository: HandMade) -> None:
    """It goes on and is finished for the next pull; Prepares meanwhile are misses that begin no other walk."""
    mounting.needs_fuse()
    layer = repository.add("deep", {f"{number}/file": "" for number in range(20)})
    with mounting.standin(repository.root, tmp_path / "mount", kcache=60, negative=60) as standin:
        mountpoint = str(standin.mountpoint)
        config = Config(root=str(tmp_path / "root"), absolute_mountpoint=mountpoint, probe_interval=300.0, deadline=0.5)
        with opened(config) as verbs:
            standin.fault("slow", f"/.layers/{layer.hex[:2]}/{layer.hex}/layerfs/*", 0.1, ["opendir"])
            began = time.monotonic()
            for number in range(3):
                verbs.prepare(f"key-{number}", "", pull("target", layer))
                said = verbs.stat(f"key-{number}").labels[label.MISS]
                assert said.startswith("markers-unavailable: ")
                assert "goes on for the next pull" in said
            assert time.monotonic() - began < 3 * 0.5 + 1
            eventually(lambda: os.listdir(tmp_path / "root" / "layers"), 20)
            with pytest.raises(AlreadyExists):
                verbs.prepare("key", "", pull("target", layer))
            assert set(listings(standin, layer).values()) == {1}


def test_walks_are_bounded(tmp_path: Path, repository: HandMade) -> None:
    """Only so many layers are walked over at one time, so that a node that starts does not drown the repository; the
    rest are misses at once and walked at a later pull."""
    mounting.needs_fuse()
    layers = [repository.add(f"{number}", {"directory/file": ""}) for number in range(20)]
    with mounting.standin(repository.root, tmp_path / "mount", kcache=60, negative=60) as standin:
        mountpoint = str(standin.mountpoint)
        config = Config(root=str(tmp_path / "root"), absolute_mountpoint=mountpoint, probe_interval=300.0, deadline=1.0)
        with opened(config) as verbs, ThreadPoolExecutor(20) as callers:
            standin.fault("stall", "/.layers/*/*/layerfs/directory")
            list(callers.map(lambda layer: verbs.prepare(fresh("key"), "", pull("target", layer)), layers))
            assert standin.held() == 8
            said = [info.labels[label.MISS] for info in verbs.walk()]
            assert sum("too many such layers" in reason for reason in said) == 12
            standin.clear()
            for layer in layers:
                with pytest.raises(AlreadyExists):
                    verbs.prepare(fresh("key"), "", pull(f"{layer}", layer))

"""What the index costs: a repository on a network, and the node."""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.oci import Platform, Reference
from publisher.publishing.publish import publish_image
from publisher.source import open_source
from snapshotter.index.store import Index
from tests import mounting
from tests.images.ocilayout import write_image
from tests.images.tarlayer import File, layer_tar
from tests.mounting import Standin
from tests.snapshotter.indexing import Published, chain_of, index_of
from tests.snapshotter.layers import NAME, diff_id_of
from tests.snapshotter.nodes import eventually

IMAGES, LAYERS = 1000, 20


@pytest.fixture
def repository(tmp_path: Path) -> Published:
    """Three images over a common base, as our publisher writes them, and two as DUCC does."""
    repository = Published(tmp_path / "repository")
    base = layer_tar([File("base", b"x")])
    for number in range(3):
        _publish(repository, tmp_path, f"registry.example/ours/{number}:1", base, f"own {number}")
    for number in range(2):
        layers = repository.described(f"ducc {number}", f"ducc too {number}")
        repository.publish(f"registry.example/ducc/{number}:1", layers)
    return repository


def _publish(repository: Published, tmp_path: Path, name: str, base: bytes, own: str) -> None:
    """Two layers: one that images share, and one of this image."""
    image = write_image(tmp_path / "layout", [base, layer_tar([File("own", own.encode())])], name)
    source = open_source(image.source, Platform("linux", "amd64"))
    publish_image(source, repository.root, name=Reference.parse(name), durable=False)


@pytest.fixture
def mounted(repository: Published, tmp_path: Path) -> Iterator[Standin]:
    """It on a mount where each access is counted that a client's kernel would not answer."""
    mounting.needs_fuse()
    with mounting.standin(repository.root, tmp_path / "mount", kcache=60, negative=60) as standin:
        yield standin


def _read(index: Index, revision: int) -> None:
    eventually(lambda: index.state(NAME).complete and index.state(NAME).revision == revision)


@pytest.mark.root
@pytest.mark.fuse
def test_files_that_are_opened(repository: Published, mounted: Standin, tmp_path: Path) -> None:
    """Two files at most for each new image and each new layer, the publisher's index, which is of another revision, and
    no layer's own catalog: nothing of a `layerfs` is looked at. The same revision costs nothing any more, nor does a
    restart; a new one costs its new images, and one listing of each directory."""
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        _read(index, 1)
        counts = mounted.counters()
        assert (index.state(NAME).images, index.state(NAME).layers) == (5, 8)
        assert counts.operations["open"] <= 2 * 5 + 2 * 8 + 1
        assert not [path for path in counts.paths if "layerfs" in path]
        mounted.reset()
        time.sleep(0.5)  # ten looks for a new revision
        assert _asked(mounted) == {"getxattr"}
    mounted.reset()
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        time.sleep(0.5)
        assert _asked(mounted) == {"getxattr"}
        _publish(repository, tmp_path, "registry.example/ours/new:1", layer_tar([File("base", b"x")]), "own new")
        mounted.reset()
        mounted.publish(2)
        _read(index, 2)
        counts = mounted.counters()
        assert (index.state(NAME).images, index.state(NAME).layers) == (6, 9)
        assert counts.operations["open"] <= 2 + 2 + 1
        listed = [path for path, names in counts.paths.items() if "opendir" in names and path != "/.layers"]
        assert len(listed) == len([".metadata", "registry.example", "ours", "ducc"])


def _asked(mounted: Standin) -> set[str]:
    """Operations since the last reset, but for what closes something opened before it, and the look at the root that
    the prober takes."""
    paths = mounted.counters().paths
    return {name for path, names in paths.items() if path not in ("/.layers", "/") for name in names} | {
        name for name in paths.get("/", {}) if name == "getxattr"
    }


@pytest.mark.root
@pytest.mark.fuse
def test_another_name_for_a_known_image(repository: Published, mounted: Standin, tmp_path: Path) -> None:
    """A manifest is all that is read of an image whose config and layers are known, beside the publisher's index."""
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        _read(index, 1)
        image = index.find_image("registry.example/ours/0:1")
        assert image
        repository.publish("registry.example/ours/0:latest", image.layers, image.config)
        mounted.reset()
        mounted.publish(2)
        _read(index, 2)
        assert mounted.counters().operations["open"] == 2
        again = index.find_image("registry.example/ours/0:latest")
    assert again
    assert (again.chains, again.platform) == (image.chains, "linux/amd64")


@pytest.mark.slow
def test_the_rate_bounds_a_reading(repository: Published, tmp_path: Path) -> None:
    """Visits come no faster than is configured; there are 1 + 3 listings, and one visit for each document."""
    began = time.monotonic()
    with index_of(tmp_path / "index.sqlite", repository.root, rate=40, interval=60) as index:
        eventually(lambda: index.state(NAME).complete)
    assert time.monotonic() - began > (4 + 5 + 8) / 40


@pytest.mark.slow
def test_a_thousand_images_of_twenty_layers(tmp_path: Path) -> None:
    """All of them are read. A lookup costs less than a thousandth of that, and a reading without a change less than a
    quarter: in processor time of this run, for machines differ."""
    repository = Published(tmp_path / "repository")
    base = repository.described(*(f"base {number}" for number in range(LAYERS // 2)))
    stacks = []
    for image in range(IMAGES):
        own = [Digest.of(f"own {image} {number}".encode()) for number in range(LAYERS // 2)]
        for layer in own:
            repository.describe(layer)
        stacks.append([*base, *own])
        repository.publish(f"registry.example/group/{image}:1", stacks[-1])
    began = time.process_time()  # of this process: the machine may have other work
    with index_of(tmp_path / "index.sqlite", repository.root, interval=1.0) as index:
        first = _seconds_until_read(index, began)
        assert (index.state(NAME).images, index.state(NAME).layers) == (IMAGES, (IMAGES + 1) * LAYERS // 2)
        assert _seconds(lambda n: index.find_layer_of_chain(chain_of(stacks[n]))) < first / 1000
        assert _seconds(lambda n: index.find_layers_of_diff_id(diff_id_of(stacks[n][-1]))) < first / 1000
    with index_of(tmp_path / "index.sqlite", repository.root, interval=60) as index:
        assert _seconds_until_read(index, time.process_time(), index.state(NAME).updated) < first / 4
    assert (tmp_path / "index.sqlite").stat().st_size < 30 << 20


def _seconds_until_read(index: Index, began: float, last: int = 0) -> float:
    """Of processor time."""
    while index.state(NAME).updated == last:
        time.sleep(0.1)
    return time.process_time() - began


def _seconds(look: Callable[[int], object]) -> float:
    """A lookup's median."""
    samples = []
    for number in range(0, IMAGES, 10):
        began = time.perf_counter()
        assert look(number)
        samples.append(time.perf_counter() - began)
    return statistics.median(samples)

"""The publisher's index in place of a walk: one file read, believed only in its own revision."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.contents import Contents
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Repository
from publisher.publishing.listing import contents_with, read_listed
from snapshotter.index.store import Index
from snapshotter.index.values import IndexedImage
from tests import mounting
from tests.mounting import Standin
from tests.snapshotter.indexing import Published, chain_of, index_of
from tests.snapshotter.layers import NAME
from tests.snapshotter.nodes import eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse]

THEN = 1_700_000_000_000_000_000


@pytest.fixture
def repository(tmp_path: Path) -> Published:
    """Three images that share their first layer."""
    repository = Published(tmp_path / "repository")
    base = repository.described("base")
    for number in range(3):
        layers = [*base, *repository.described(f"own {number}")]
        config = repository.keep_config([repository.describe(layer) for layer in layers])
        repository.publish(f"registry.example/group/image:{number}", layers, config)
    return repository


@pytest.fixture
def mounted(repository: Published, tmp_path: Path) -> Iterator[Standin]:
    mounting.needs_fuse()
    with mounting.standin(repository.root, tmp_path / "mount", kcache=60, negative=60) as standin:
        yield standin


def write_index(repository: Published, revision: int | None, without: str = "") -> Contents:
    """As the publisher does: each image came in the revision before."""
    listed = [image for image in read_listed(repository.layout).values() if image.reference != without]
    came = [dataclasses.replace(image, revision=revision and revision - 1, published=THEN) for image in listed]
    contents = contents_with(came, revision, THEN)
    repository.layout.index.write_bytes(contents.encode())
    return contents


def _read(index: Index, revision: int) -> None:
    eventually(lambda: index.state(NAME).complete and index.state(NAME).revision == revision)


def _images(index: Index) -> list[IndexedImage]:
    """Without the time at which this node saw them."""
    return [dataclasses.replace(image, first_seen=0, first_revision=None) for image in index.walk_images()]


def test_one_file_is_read(repository: Published, mounted: Standin, tmp_path: Path) -> None:
    """No directory is listed, nothing else is opened, and lookups answer as after a walk."""
    write_index(repository, 1)
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        _read(index, 1)
        paths = mounted.counters().paths
        assert [path for path, names in paths.items() if "open" in names] == ["/.metadata/index.v1"]
        assert not [path for path, names in paths.items() if "opendir" in names and path != "/.layers"]
        listed = _images(index)
        layers = [image.layers for image in index.walk_images()]
        assert index.find_layer_of_chain(chain_of(layers[0])) == ((NAME, layers[0][-1]),)
    with index_of(tmp_path / "walked.sqlite", repository.root) as index:
        eventually(lambda: index.state(NAME).complete)
        assert _images(index) == listed
        assert len(listed) == 3


def test_the_first_revision_is_the_publication_s(repository: Published, mounted: Standin, tmp_path: Path) -> None:
    """A node that comes later knows in which revision an image came, and its age."""
    mounted.publish(9)
    write_index(repository, 9)
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        _read(index, 9)
        assert {image.first_revision for image in index.walk_images()} == {8}
        assert all(delay > 1e6 for delay in index.find_delays(NAME, 0))


@pytest.mark.parametrize("revision", [None, 1, 3])
def test_an_index_of_another_revision_is_not_believed(
    repository: Published, mounted: Standin, tmp_path: Path, revision: int | None
) -> None:
    """Somebody else published since: the walk finds the image that the index does not list."""
    mounted.publish(2)
    write_index(repository, revision, without="registry.example/group/image:2")
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        _read(index, 2)
        assert index.state(NAME).images == 3


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x28\xb5\x2f\xfd" + bytes(40)])
def test_a_damaged_index_is_passed_over(
    repository: Published, mounted: Standin, tmp_path: Path, content: bytes
) -> None:
    """The repository is walked."""
    repository.layout.index.write_bytes(content)
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        _read(index, 1)
        assert index.state(NAME).images == 3


def test_what_changes_between_two_revisions(repository: Published, mounted: Standin, tmp_path: Path) -> None:
    """An image that is listed no more goes; a walk in a revision of somebody else finds it again; the next index of
    our own is taken again."""
    write_index(repository, 1)
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        _read(index, 1)
        write_index(repository, 2, without="registry.example/group/image:0")
        mounted.publish(2)
        _read(index, 2)
        assert [image.reference[-1] for image in index.walk_images()] == ["1", "2"]
        mounted.publish(3)
        _read(index, 3)
        assert [image.reference[-1] for image in index.walk_images()] == ["0", "1", "2"]
        write_index(repository, 4)
        mounted.publish(4)
        _read(index, 4)
        assert index.state(NAME).images == 3


def test_an_image_with_tag_and_digest(repository: Published, mounted: Standin, tmp_path: Path) -> None:
    """It has one entry, whether it was walked or listed."""
    name = f"registry.example/group/pinned@sha256:{'a' * 64}"
    repository.publish(name, repository.described("pinned"))
    contents = write_index(repository, 2)
    assert name in [image.reference for image in contents.images]
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        _read(index, 1)
        mounted.publish(2)
        _read(index, 2)
        assert index.state(NAME).images == 4
        found = index.find_image(Reference.parse(name))
        assert found
        assert found.manifest == Reference.parse(name).digest


def test_a_node_reads_what_the_publisher_wrote(repository: Published) -> None:
    """The file decodes to what was encoded, and another writing of the same gives the same bytes."""
    contents = write_index(repository, 5)
    assert Repository("test", Layout(repository.root)).find_contents() == contents
    assert contents.encode() == write_index(repository, 5).encode()


def test_what_a_publisher_keeps_beside_images_is_not_walked(
    repository: Published, mounted: Standin, tmp_path: Path
) -> None:
    """Blobs, diff ids and the marks of trees are no registries."""
    for name in ("blobs", "diffid", "trees"):
        (repository.layout.metadata / name / "sha256" / "ab").mkdir(parents=True, exist_ok=True)
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        _read(index, 1)
        listed = [path for path, names in mounted.counters().paths.items() if "opendir" in names]
    assert not [path for path in listed if path.split("/")[2:3] in (["blobs"], ["diffid"], ["trees"])]

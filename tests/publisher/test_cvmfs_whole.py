"""A whole image in CVMFS, on the stand-in of cvmfs_server: layers, flat tree, index, and where catalogs are cut."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.contents import Contents
from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import CATALOG_MARKER, Layout
from cvmfsrepo.repository import Repository
from publisher.publishing.form import Order, Report, Terms
from publisher.publishing.publish import publish_images
from publisher.source import open_source
from tests.cvmfsserver.fixture import Published, cvmfs_repository
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import Dir, File, Whiteout, layer_tar
from tests.publisher.publishing import AMD64

pytestmark = pytest.mark.root

BASE = layer_tar([Dir("d"), File("d/x", b"x" * 5000), File("su", b"s", mode=0o4755)])


@pytest.fixture
def cvmfs(tmp_path: Path) -> Iterator[Published]:
    with cvmfs_repository(tmp_path) as published:
        yield published


def publish(cvmfs: Published, directory: Path, name: str, *layers: bytes) -> Image:
    image = write_image(directory / name, list(layers), f"registry.example/group/{name}:1")
    (outcome,) = publish_images(cvmfs.target, [Order(open_source(image.source, AMD64))], Terms(reserve=0, flat=True))
    assert isinstance(outcome, Report), outcome
    assert (outcome.flat, outcome.problem) == ("made", "")
    return image


def contents(cvmfs: Published) -> Contents:
    found = Repository("test", Layout(cvmfs.root)).find_contents()
    assert found is not None
    return found


def test_a_flat_tree_comes_with_the_image(tmp_path: Path, cvmfs: Published) -> None:
    """In the same publication: through the public link it is there, modes and all, without the image's deletions."""
    image = publish(cvmfs, tmp_path, "image", BASE)
    assert cvmfs.revision == 1
    tree = (cvmfs.root / image.ref).resolve(strict=True)
    assert (tree / "su").stat().st_mode & 0o7777 == 0o4755
    assert (tree / ".singularity.d").is_dir()


@pytest.mark.slow
def test_a_flat_tree_on_a_known_one_begins_as_its_copy(tmp_path: Path, cvmfs: Published) -> None:
    """One template for the transaction, and the tree holds what its own layers say."""
    publish(cvmfs, tmp_path, "first", BASE)
    publish(cvmfs, tmp_path, "other", layer_tar([File("o", b"o")]))  # so that a directory of .flat may be there
    image = publish(cvmfs, tmp_path, "second", BASE, layer_tar([Whiteout("d/x"), File("d/y", b"y")]))
    tree = (cvmfs.root / image.ref).resolve(strict=True)
    assert sorted(os.listdir(tree / "d")) == ["y"]
    assert (tree / "su").stat().st_mode & 0o7777 == 0o4755


def test_catalogs_are_cut_above_layers_and_at_trees(tmp_path: Path, cvmfs: Published) -> None:
    """A marker in a layerfs would be a file of every container; a flat tree has it at its root, as readers know it. The
    directories above have one as well, so that the root's catalog, which each client loads anew, stays small."""
    image = publish(cvmfs, tmp_path, "image", BASE)
    layout = Layout(cvmfs.root)
    layer, tree = layout.layer(Digest.parse(image.layers[0])), (cvmfs.root / image.ref).resolve(strict=True)
    for directory in (layer, tree):
        for cut in (directory, directory.parent, directory.parent.parent):
            assert (cut / CATALOG_MARKER).is_file()
    assert (layout.metadata / CATALOG_MARKER).is_file()
    assert {path.parent for path in cvmfs.root.rglob(CATALOG_MARKER)} - {
        layer,
        *layer.parents,
        tree,
        *tree.parents,
        layout.metadata,
    } == set()
    assert not (cvmfs.root / CATALOG_MARKER).exists()
    found = Repository("test", layout)
    assert [str(reference) for reference in found.walk_images()] == [image.ref]


@pytest.mark.slow
def test_the_index_tells_the_revision_that_shows_it(tmp_path: Path, cvmfs: Published) -> None:
    """Whether an image took one publication or three; what came in an earlier one keeps its revision."""
    publish(cvmfs, tmp_path, "first", BASE)
    assert contents(cvmfs).revision == cvmfs.revision == 1
    publish(cvmfs, tmp_path, "second", BASE, layer_tar([Whiteout("d/x")]))
    found = contents(cvmfs)
    assert found.revision == cvmfs.revision
    assert cvmfs.revision > 2
    assert {image.reference: image.revision for image in found.images} == {
        "registry.example/group/first:1": 1,
        "registry.example/group/second:1": cvmfs.revision,
    }


def test_the_same_again_is_no_publication(tmp_path: Path, cvmfs: Published) -> None:
    """The index, which would tell a later revision, is no reason for one."""
    image = publish(cvmfs, tmp_path, "image", BASE)
    order = Order(open_source(image.source, AMD64))
    (outcome,) = publish_images(cvmfs.target, [order], Terms(reserve=0, flat=True))
    assert isinstance(outcome, Report)
    assert (outcome.changed, outcome.flat) == (False, "present")
    assert cvmfs.revision == 1

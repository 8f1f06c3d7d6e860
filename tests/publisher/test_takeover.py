"""Layers that another publisher left get their records, and stay as they are."""

from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.layout import Layout
from cvmfsrepo.repository import Repository
from cvmfsrepo.tree import Notation, Record
from publisher.opening import open_source
from publisher.publishing.form import Form, Order, Refused, Report, Terms
from publisher.publishing.publish import publish_images
from publisher.transactions.directory import DirectoryTarget
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import Dir, File, Hardlink, Opaque, Whiteout, layer_tar
from tests.publisher.publishing import AMD64, publish, state

pytestmark = pytest.mark.root

DUCC = Form(Notation.OCI, as_ingested=True, record=False)
REF = "registry.example/group/image:1"


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """Owners, a setuid file, hard links and every kind of deletion: all that an ingest loses or leaves raw."""
    links = [File("once", b"one"), Hardlink("again", "once")]
    base = [Dir("d"), File("d/gone", b"x"), File("su", b"s", mode=0o4755, uid=5), *links, Dir("o")]
    top = [Whiteout("d/gone"), Dir("o"), Opaque("o"), File("o/new", b"new")]
    return write_image(tmp_path / "image", [layer_tar(base), layer_tar(top)], REF)


@pytest.fixture
def repository(tmp_path: Path, image: Image) -> Path:
    """As DUCC leaves it."""
    root = tmp_path / "repository"
    root.mkdir()
    publish(image, root, DUCC)
    return root


def take_over(image: Image, root: Path, flat: bool = False) -> Report | Refused:
    order = Order(open_source(image.source, AMD64))
    terms = Terms(reserve=0, take_over=True, flat=flat)
    (outcome,) = publish_images(DirectoryTarget.at(root, durable=False), [order], terms)
    return outcome


def records(root: Path, image: Image) -> list[Record]:
    reader = Repository("test", Layout(root))
    found = [reader.find_record(Digest.parse(layer)) for layer in image.layers]
    return [record for record in found if record is not None]


def layers(root: Path) -> dict[str, tuple[object, ...]]:
    """What nodes are served from."""
    return {path: facts for path, facts in state(root).items() if "/layerfs" in path}


def test_records_tell_what_the_tar_says(image: Image, repository: Path, tmp_path: Path) -> None:
    """They are those of a publication of our own in the notation that stands there, and name the catalog markers."""
    before = layers(repository)
    outcome = take_over(image, repository)
    assert isinstance(outcome, Report)
    assert [str(layer) for layer in outcome.taken] == list(image.layers)
    assert outcome.left == ()
    assert layers(repository) == before
    own = tmp_path / "own"
    own.mkdir()
    publish(image, own, Form(Notation.OCI))
    found, expected = records(repository, image), records(own, image)
    assert [record.entries for record in found] == [record.entries for record in expected]
    assert [record.head.markers for record in found] == [record.head.markers for record in expected]
    assert [record.head.notation for record in found] == [Notation.OCI, Notation.OCI]
    assert all(record.head.extras == (b".cvmfscatalog",) for record in found)
    diff_id = Layout(repository).diff_id_link(Digest.parse(image.diff_ids[0]))
    assert diff_id.resolve() == Layout(repository).layer(Digest.parse(image.layers[0]))


def test_a_second_run_changes_nothing(image: Image, repository: Path) -> None:
    """The layers are ours now: nothing is read."""
    take_over(image, repository)
    before = state(repository)
    outcome = take_over(image, repository)
    assert isinstance(outcome, Report)
    assert (outcome.changed, outcome.read, outcome.taken) == (False, 0, ())
    assert state(repository) == before


def test_a_flat_tree_is_made_from_what_the_tar_says(image: Image, repository: Path) -> None:
    """Owners and modes come from the records, though the layers have lost them."""
    outcome = take_over(image, repository, flat=True)
    assert isinstance(outcome, Report)
    assert (outcome.flat, outcome.problem) == ("made", "")
    tree = (repository / REF).resolve(strict=True)
    assert ((tree / "su").stat().st_uid, (tree / "su").stat().st_mode & 0o7777) == (5, 0o4755)
    assert (tree / "again").samefile(tree / "once")
    assert not (tree / "d/gone").exists()
    assert sorted(path.name for path in (tree / "o").iterdir()) == ["new"]


def test_without_it_there_is_no_flat_tree_and_that_is_said(image: Image, repository: Path) -> None:
    """The image itself is published."""
    order = Order(open_source(image.source, AMD64))
    terms = Terms(reserve=0, flat=True)
    (outcome,) = publish_images(DirectoryTarget.at(repository, durable=False), [order], terms)
    assert isinstance(outcome, Report)
    assert outcome.flat == ""
    assert "take the layer over first" in outcome.problem
    assert not (repository / REF).exists()


@pytest.mark.parametrize("change", ["missing", "stranger"])
def test_a_tree_that_is_another_is_refused(image: Image, repository: Path, change: str) -> None:
    """A record would call it whole; nothing is changed, and the name is told."""
    layerfs = Layout(repository).layerfs(Digest.parse(image.layers[0]))
    if change == "missing":
        (layerfs / "again").unlink()
    else:
        (layerfs / "stranger").touch()
    before = state(repository)
    outcome = take_over(image, repository)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, DataLoss)
    assert ("again" if change == "missing" else "stranger") in str(outcome.error)
    assert {**state(repository), "staged": ()} == {**before, "staged": ()}

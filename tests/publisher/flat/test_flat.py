"""Flat trees in a publication: made once, from the nearest tree where trees can be copied, and linked to."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cvmfsrepo.compare import compare
from cvmfsrepo.digest import Digest, chain_id
from cvmfsrepo.errors import DataLoss, FailedPrecondition, InvalidArgument
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Repository
from publisher.flat.changes import changes
from publisher.flat.flat import FlatImage, FlatReport, Flats, State
from publisher.flat.marks import walk_known
from publisher.transactions.contract import Target
from publisher.transactions.directory import DirectoryTarget
from publisher.unpacking.space import FreeSpace
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import Dir, Entry, File, Hardlink, Whiteout, layer_tar
from tests.publisher.flat.copying import CopyingTarget
from tests.publisher.flat.trees import Shelf
from tests.publisher.publishing import publish, state

pytestmark = pytest.mark.root


class Site:
    """A repository of a test and the images that are published to it."""

    def __init__(self, directory: Path, target: Target, copies: bool) -> None:
        self.directory, self.target, self.copies = directory, target, copies
        self.layout = target.layout
        self.layout.root.mkdir()
        self.tars: dict[str, list[bytes]] = {}

    def image(self, name: str, *layers: Sequence[Entry], **config: Any) -> Image:
        """Its layers are published; its flat tree is not."""
        self.tars[name] = [layer_tar(entries) for entries in layers]
        ref = f"registry.example/team/{name}:1"
        image = write_image(self.directory / name, self.tars[name], ref, config=config)
        publish(image, self.layout.root)
        return image

    def flatten(self, *images: Image) -> list[FlatReport]:
        """In one publication."""
        repository = Repository("test", self.layout)
        with self.target.begin() as transaction:
            space = FreeSpace(self.layout.root, reserve=0)
            flats = Flats(transaction, repository.find_record, self.layout.layerfs, space, copies=self.copies, worth=25)
            reports = [flats.add(wanted(image)) for image in images]
            transaction.show()
        return reports

    def flat(self, image: Image) -> Path:
        """Through its public link, as users come."""
        return (self.layout.root / image.ref).resolve(strict=True)


def wanted(image: Image, ref: str = "") -> FlatImage:
    layers = tuple(map(Digest.parse, image.layers))
    return FlatImage(Reference.parse(ref or image.ref), image.blob(image.config).read_bytes(), layers)


@pytest.fixture
def plain(tmp_path: Path) -> Site:
    return Site(tmp_path, DirectoryTarget.at(tmp_path / "repository", durable=False), copies=False)


@pytest.fixture
def copying(tmp_path: Path) -> Site:
    return Site(tmp_path, CopyingTarget(Layout(tmp_path / "repository")), copies=True)


BASE = [
    *(Dir("bin"), Dir("etc"), Dir("tmp", mode=0o1777), File("bin/su", b"su", mode=0o4755), File("etc/hosts", b"own\n")),
    *(Hardlink("bin/sudo", "bin/su", mode=0o4755), *(File(f"etc/{n}", b"%d" % n) for n in range(40))),
]


def test_an_image_gets_its_tree_its_link_and_its_mark(plain: Site) -> None:
    """The link is relative, the tree is named by the config, and the mark outside of it says what it is made of."""
    image = plain.image("app", BASE, Cmd=["/bin/su"], Labels={"a": "b"})
    assert plain.flatten(image) == [FlatReport(State.MADE)]
    config = Digest.parse(image.config)
    assert os.readlink(plain.layout.root / image.ref) == f"../../.flat/{config.hex[:2]}/{config.hex}"
    flat = plain.flat(image)
    assert (flat / "etc/hosts").read_text() == "own\n"
    assert (flat / "bin/su").stat().st_mode & 0o7777 == 0o4755
    assert json.loads((flat / "singularity").parent.joinpath(".singularity.d/labels.json").read_text()) == {"a": "b"}
    (known,) = walk_known(plain.layout)
    assert (known.final, known.config, known.mark.entries) == (plain.layout.flat(config), config, (47,))


def test_a_second_run_changes_nothing(plain: Site) -> None:
    """Not even a time."""
    image = plain.image("app", BASE)
    plain.flatten(image)
    before = state(plain.layout.root)
    assert plain.flatten(image, image) == [FlatReport(State.PRESENT)] * 2
    assert state(plain.layout.root) == before


def test_two_names_of_one_image_share_a_tree(plain: Site) -> None:
    """Also when they come in one publication."""
    image = plain.image("app", BASE)
    with plain.target.begin() as transaction:
        repository = Repository("test", plain.layout)
        flats = Flats(transaction, repository.find_record, plain.layout.layerfs, FreeSpace(plain.layout.root, 0))
        states = [flats.add(wanted(image, ref)).state for ref in ("registry.example/a:1", "registry.example/b/c:2")]
        transaction.show()
    assert states == [State.MADE, State.PRESENT]
    one, other = (plain.layout.root / name for name in ("registry.example/a:1", "registry.example/b/c:2"))
    assert one.resolve(strict=True) == other.resolve(strict=True)


def test_a_tree_of_somebody_else_is_left(plain: Site) -> None:
    """It is linked to, gets no mark, and is never a base."""
    image = plain.image("app", BASE)
    foreign = plain.layout.flat(Digest.parse(image.config))
    (foreign / "bin").mkdir(parents=True)
    assert plain.flatten(image) == [FlatReport(State.FOREIGN)]
    assert os.listdir(plain.flat(image)) == ["bin"]
    assert list(walk_known(plain.layout)) == []


def test_a_layer_without_a_record_refuses_its_image_only(plain: Site) -> None:
    """With the layer's name and what to do; another image of the publication is made."""
    good, bad = plain.image("good", [File("a")]), plain.image("bad", [File("a")], [File("b")])
    plain.layout.tree_record(Digest.parse(bad.layers[1])).unlink()
    repository = Repository("test", plain.layout)
    with plain.target.begin() as transaction:
        flats = Flats(transaction, repository.find_record, plain.layout.layerfs, FreeSpace(plain.layout.root, 0))
        with pytest.raises(FailedPrecondition, match=rf"bad:1.*layer {bad.layers[1]} is there without a record"):
            flats.add(wanted(bad))
        flats.add(wanted(good))
        transaction.show()
    assert plain.flat(good).is_dir()
    assert not (plain.layout.root / bad.ref).is_symlink()


def test_what_is_wrong_with_a_layer_or_config_is_told(plain: Site) -> None:
    """A file that is not as recorded, a file that is a link, and a config that is none; nothing of it is shown."""
    image = plain.image("app", [Dir("d"), File("d/x", b"123")])
    with plain.target.begin() as transaction:
        record = Repository("test", plain.layout).find_record
        flats = Flats(transaction, record, plain.layout.layerfs, FreeSpace(plain.layout.root, 0))
        with pytest.raises(InvalidArgument):
            flats.add(FlatImage(Reference.parse(image.ref), b"?", wanted(image).layers))
    file = plain.layout.layerfs(Digest.parse(image.layers[0])) / "d/x"
    for spoil in (lambda: file.write_bytes(b"12"), file.unlink, lambda: file.symlink_to("/etc/passwd")):
        spoil()
        with pytest.raises((DataLoss, FailedPrecondition)):
            plain.flatten(image)
    assert not plain.layout.flat(Digest.parse(image.config)).exists()
    assert not (plain.layout.root / image.ref).is_symlink()


def test_a_known_base_costs_the_new_layers_only(copying: Site) -> None:
    """From a copy of the tree below: as many changes as the new layer has entries, and the tree is the same as one
    made from nothing."""
    below = copying.image("below", BASE)
    above = copying.image("above", BASE, [Dir("etc"), File("etc/1", b"new"), Whiteout("etc/2"), File("etc/new")])
    copying.flatten(below)
    (report,) = copying.flatten(above)
    assert report == FlatReport(State.MADE, base=copying.flat(below))
    assert copying.target.began[copying.flat(above)] == copying.flat(below)  # type: ignore[attr-defined]
    shelf = Shelf(copying.directory)
    found = changes(shelf.tree(below), shelf.tree(above))
    assert {change.path for change in found} <= {b"", b"etc", b"etc/1", b"etc/2", b"etc/new"}
    assert _same_from_nothing(copying, above)


def test_a_chain_is_kept_for_what_several_images_share(copying: Site) -> None:
    """Two images on one base, each with much of its own: the second one's publication keeps the base's tree, and the
    third begins with it. Each is as if made from nothing."""
    names = ("one", "two", "three")
    images = [copying.image(n, BASE, [File(f"{n}/{i}", b"x") for i in range(30)], Cmd=[n]) for n in names]
    reports = [copying.flatten(image)[0] for image in images]
    chain = chain_id([Digest.parse(images[0].diff_ids[0])])
    assert [report.chain for report in reports] == [None, chain, None]
    assert [report.base for report in reports] == [None, copying.flat(images[0]), copying.layout.chain(chain)]
    assert not (copying.layout.chain(chain) / ".singularity.d").exists()
    for image in images:
        assert _same_from_nothing(copying, image)
    assert copying.layout.chain(chain) in copying.target.cut  # type: ignore[attr-defined]


def test_a_base_whose_records_are_gone_is_none(copying: Site) -> None:
    """Then the tree is made from nothing."""
    below = copying.image("below", BASE, [File("gone")])
    copying.flatten(below)
    above = copying.image("above", BASE, [File("new")])
    copying.layout.tree_record(Digest.parse(below.layers[1])).unlink()
    assert copying.flatten(above) == [FlatReport(State.MADE)]


def _same_from_nothing(site: Site, image: Image) -> bool:
    """Whether the tree is the one that a repository without any other makes of the image."""
    directory = site.directory / f"alone-{image.config[7:19]}"
    directory.mkdir()
    alone = Site(directory, DirectoryTarget.at(directory / "repository", durable=False), copies=False)
    publish(image, alone.layout.root)
    alone.flatten(image)
    return [str(d) for d in compare(alone.flat(image), site.flat(image))] == []

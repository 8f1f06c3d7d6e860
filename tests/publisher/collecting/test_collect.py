"""What a collection removes, when, and what keeps it from removing."""

import json
import os
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, DataLoss, FailedPrecondition, NotFound, Unavailable
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Repository
from publisher.collecting.reachable import ducc_chains
from tests.publisher.collecting.shelves import DAY, DUCC, Shelf, layer_names, reasons, rules, went
from tests.publisher.publishing import state

pytestmark = pytest.mark.root


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_a_removed_image_goes_after_its_grace_period(shelf: Shelf) -> None:
    """Its name at once; layer, link, tree with its mark and documents a week later; what it shares stays."""
    kept, gone = shelf.publish("kept:1", "base", flat=True), shelf.publish("gone:1", "base", "top", flat=True)
    removal = shelf.remove(gone)
    assert [(thing.kind, thing.fate) for thing in removal.things].count(("layer", "waits")) == 1
    assert removal.bytes > 300
    assert not shelf.manifest(gone).parent.exists()
    assert not (shelf.layout.root / gone.ref).is_symlink()
    assert shelf.has(gone) == [True, True]
    shelf.now += 6.9 * DAY
    assert went(shelf.collect()) == set()
    shelf.now += 0.2 * DAY
    report = shelf.collect()
    top, config, manifest = layer_names(gone)[1], gone.config[7:], gone.manifest[7:]
    assert went(report) == {
        ("diff id link", gone.diff_ids[1][7:]), ("flat tree", config), ("layer", top),
        ("document", config), ("document", manifest),
    }  # fmt: skip
    assert report.bytes("goes") == removal.bytes
    assert shelf.has(gone) == [True, False]
    assert not shelf.layout.flat(Digest(config)).exists()
    assert not shelf.layout.flat_mark(Digest(config)).exists()
    assert (shelf.layout.root / kept.ref / "d/base").is_file()
    assert went(shelf.collect(grace=0)) == set()


def test_the_index_tells_of_a_removal(shelf: Shelf) -> None:
    """A node that reads it does not find the image any more, and no other is missed."""
    shelf.publish("kept:1", "base")
    shelf.remove(shelf.publish("gone:1", "top"))
    contents = Repository("test", shelf.layout).find_contents()
    assert contents is not None
    assert [image.reference for image in contents.images] == ["registry.example/kept:1"]


def test_fresh_garbage_is_only_noted(shelf: Shelf) -> None:
    """Whatever the times of its files: what DUCC removed a minute ago may be ten years old."""
    gone = shelf.publish("gone:1", "top")
    os.utime(shelf.layout.layer(Digest.parse(gone.layers[0])), (0, 0))
    shelf.manifest(gone).unlink()
    assert went(shelf.collect()) == set()
    shelf.now += 8 * DAY
    assert ("layer", layer_names(gone)[0]) in went(shelf.collect())


def test_what_was_wanted_again_begins_anew(shelf: Shelf) -> None:
    """Seen with a name in between, a thing has its whole grace period once more."""
    image = shelf.publish("gone:1", "top")
    shelf.remove(image)
    shelf.now += 6 * DAY
    shelf.publish("again:1", "top")
    shelf.collect()
    shelf.remove(shelf.images["registry.example/again:1"])
    shelf.now += 2 * DAY
    assert went(shelf.collect()) == set()
    assert shelf.has(image) == [True]


def test_a_withdrawn_name_begins_anew_without_a_look_between(shelf: Shelf) -> None:
    """`remove` itself notes the time, whatever an earlier run had noted."""
    image = shelf.publish("gone:1", "top")
    shelf.remove(image)
    shelf.now += 6 * DAY
    again = shelf.publish("again:1", "top")
    shelf.remove(again)
    shelf.now += 2 * DAY
    assert went(shelf.collect()) == set()


def test_a_killed_publication_goes_likewise(shelf: Shelf) -> None:
    """Content that nobody finds waits, and goes."""
    image = shelf.publish("killed:1", "top")
    shelf.layout.image_pointer(Reference.parse(image.ref)).unlink()
    shelf.manifest(image).unlink()
    assert ("layer", layer_names(image)[0]) in went(shelf.collect(), "waits")
    shelf.now += 7 * DAY
    shelf.collect()
    assert shelf.has(image) == [False]


def test_a_pointer_without_a_manifest_is_garbage(shelf: Shelf) -> None:
    """The half of a withdrawal that was killed."""
    image = shelf.publish("half:1", "top")
    shelf.manifest(image).unlink()
    shelf.collect(grace=0)
    assert not shelf.manifest(image).parent.exists()


def test_a_lease_keeps_layers_and_whole_trees(shelf: Shelf) -> None:
    """By the layer's digest or its diff id; a flat tree if all its layers are, DUCC's by the lists of origins."""
    ours, theirs = shelf.publish("ours:1", "a", "b", flat=True), shelf.publish("theirs:1", "c", form=DUCC)
    flat = shelf.layout.flat(Digest.parse(theirs.config))
    flat.mkdir(parents=True)
    shelf.remove(ours, theirs)
    leases = {Digest.parse(text): "n1" for text in (ours.layers[0], ours.diff_ids[1], theirs.layers[0])}
    report = shelf.collect(grace=0, leases=leases)
    assert shelf.has(ours) + shelf.has(theirs) == [True] * 3
    assert shelf.layout.flat(Digest.parse(ours.config)).is_dir()
    assert flat.is_dir()
    assert reasons(report)[layer_names(ours)[0]] == "leased by n1"
    partly = {Digest.parse(ours.layers[0]): "n1"}
    shelf.collect(grace=0, leases=partly)
    assert shelf.has(ours) == [True, False]
    assert not shelf.layout.flat(Digest.parse(ours.config)).exists()
    assert not flat.exists()


def test_the_end_of_a_lease_begins_the_grace_period(shelf: Shelf) -> None:
    """A node may have stopped writing for a day."""
    image = shelf.publish("gone:1", "top")
    leases = {Digest.parse(image.layers[0]): "n1"}
    shelf.remove(image)
    shelf.now += 8 * DAY
    shelf.collect(leases=leases)
    shelf.now += 1 * DAY
    shelf.collect()
    assert shelf.has(image) == [True]


@pytest.mark.parametrize("document", ["manifest.json", "image.v1"])
def test_damage_stops_it(shelf: Shelf, document: str) -> None:
    """With the name of the file, and nothing is removed nor noted."""
    shelf.remove(shelf.publish("gone:1", "top"))
    damaged = shelf.manifest(shelf.publish("bad:1", "base")).with_name(document)
    damaged.write_bytes(b'{"SchemaVersion":2')
    before = state(shelf.directory)
    with pytest.raises(ContractError, match=f"bad:1/{document}"):
        shelf.collect(grace=0)
    assert state(shelf.directory) == before


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../elsewhere"])
def test_a_link_that_leads_out_stops_it(shelf: Shelf, target: str) -> None:
    """Nobody knows what it was meant to keep."""
    shelf.remove(shelf.publish("gone:1", "top"))
    (shelf.layout.root / "registry.example").mkdir(exist_ok=True)
    (shelf.layout.root / "registry.example/odd:1").symlink_to(target)
    with pytest.raises(DataLoss, match="leads out of the repository"):
        shelf.collect(grace=0)


def test_a_directory_that_does_not_answer_stops_it(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO, as CVMFS says of a catalog that it cannot load."""
    image = shelf.publish("gone:1", "top")
    shelf.remove(image)
    real = os.scandir

    def failing(path: int | str | Path = ".") -> object:
        if isinstance(path, int) and os.readlink(f"/proc/self/fd/{path}").endswith("/.metadata/registry.example"):
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(Unavailable, match=r"registry\.example.*Input/output error"):
        shelf.collect(grace=0)
    assert shelf.has(image) == [True]


def test_metadata_that_are_gone_stop_it(shelf: Shelf) -> None:
    """Else all layers would look unused."""
    shelf.publish("kept:1", "base")
    shelf.layout.metadata.rename(shelf.directory / "aside")
    with pytest.raises(FailedPrecondition, match=r"has layers and no \.metadata"):
        shelf.collect(grace=0)


def test_strangers_are_reported_and_stay(shelf: Shelf) -> None:
    """What is of no known shape, at every level."""
    shelf.publish("kept:1", "base")
    strangers = [".layers/zz/x", ".flat/ab/" + "c" * 64, ".metadata/blobs/md5", ".metadata/note", ".own", "soft/file"]
    for name in strangers:
        path = shelf.layout.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if "note" not in name and "file" not in name else path.write_text("x")
    report = shelf.collect(grace=0)
    assert set(report.unknown) == set(strangers)
    assert all((shelf.layout.root / name).exists() for name in strangers)


def test_an_image_with_an_odd_name_keeps_its_layers(shelf: Shelf) -> None:
    """A directory that no reference names holds a manifest all the same."""
    image = shelf.publish("kept:1", "base")
    shelf.manifest(image).parent.rename(shelf.layout.metadata / "registry.example" / "UPPER case")
    assert went(shelf.collect(grace=0)) == set()
    assert shelf.has(image) == [True]


def test_a_public_link_keeps_a_tree_alone(shelf: Shelf) -> None:
    """DUCC can be told to make no layers: then there is no manifest. Newer ones put a link for each machine between."""
    one, other, third = (Digest.of(name) for name in (b"one", b"other", b"third"))
    for config in (one, other, third):
        shelf.layout.flat(config).mkdir(parents=True)
    root = shelf.layout.root
    (root / "registry.example").mkdir()
    (root / "registry.example/plain:1").symlink_to(f"../.flat/{one.hex[:2]}/{one.hex}")
    (root / "registry.example/many:1").symlink_to("../.multiarch/$(CVMFS_ARCH:-amd64)/registry.example/many:1")
    (root / ".multiarch/arm64/registry.example").mkdir(parents=True)
    (root / ".multiarch/arm64/registry.example/many:1").symlink_to(f"../../../.flat/{other.hex[:2]}/{other.hex}")
    shelf.layout.metadata.mkdir()
    assert went(shelf.collect(grace=0)) == {("flat tree", third.hex)}
    assert shelf.layout.flat(one).is_dir()
    assert shelf.layout.flat(other).is_dir()


def test_chains_of_both_names_stay_with_their_images(shelf: Shelf) -> None:
    """DUCC's and OCI's of an image's lowest layers; others go, and so does what is not of its layers."""
    image = shelf.publish("kept:1", "a", "b")
    layers = [Digest.parse(layer) for layer in image.layers]
    names = [chain for forms in ducc_chains(layers) for chain in forms]
    names.append(Digest.of(f"{image.diff_ids[0]} {image.diff_ids[1]}".encode()))
    building, other = Digest.of(b"building"), Digest.of(b"other")
    for chain in (*names, building, other):
        shelf.layout.chain(chain).mkdir(parents=True)
    (shelf.layout.root / ".dirty-chains" / building.hex).mkdir(parents=True)
    assert went(shelf.collect(grace=0)) == {("chain", other.hex)}
    assert all(shelf.layout.chain(chain).is_dir() for chain in (*names, building))


def test_podmans_store_keeps_what_it_lists(shelf: Shelf) -> None:
    """Until it is told not to; a damaged index stops it."""
    image = shelf.publish("gone:1", "top")
    layer, diff_id = layer_names(image)[0], image.diff_ids[0][7:]
    store = shelf.layout.podman_store
    (store / "overlay" / diff_id).mkdir(parents=True)
    (store / "overlay" / diff_id / "diff").symlink_to(f"../../../.layers/{layer[:2]}/{layer}/layerfs")
    index = store / "overlay-layers/layers.json"
    index.parent.mkdir()
    index.write_text(json.dumps([{"id": diff_id}] * 2))
    shelf.remove(image)
    assert reasons(shelf.collect(grace=0))[layer] == "listed by podmanStore"
    index.write_text("[{")
    with pytest.raises(DataLoss, match="store index"):
        shelf.collect(grace=0)
    index.write_text(json.dumps([{"id": diff_id}]))
    shelf.collect(grace=0, with_store=False)
    assert shelf.has(image) == [False]


def test_a_dry_run_writes_nothing(shelf: Shelf) -> None:
    """Not even its notes; and tells what the run then does."""
    gone = shelf.publish("gone:1", "top", flat=True)
    shelf.publish("old:1", "old")
    shelf.remove(gone)
    shelf.now += 8 * DAY
    before = state(shelf.directory)
    told = shelf.rehearse(rules=rules("*/old:*=1"))
    assert state(shelf.directory) == before
    shelf.now += 1
    done = shelf.collect(rules=rules("*/old:*=1"))
    assert told.dry_run
    assert [(t.kind, t.name, t.fate, t.bytes) for t in told.things] == [
        (t.kind, t.name, t.fate, t.bytes) for t in done.things
    ]


def test_batches_are_publications_of_their_own(shelf: Shelf) -> None:
    """What leads to things goes before them, across batches too."""
    image = shelf.publish("gone:1", "a", "b", "c", flat=True)
    shelf.remove(image)
    report = shelf.collect(grace=0, at_once=2)
    kinds = [thing.kind for thing in report.things]
    assert kinds == ["diff id link"] * 3 + ["flat tree"] + ["layer"] * 3 + ["document"] * 2
    assert report.publications == 5
    assert shelf.has(image) == [False] * 3


def test_images_expire_and_their_content_waits(shelf: Shelf) -> None:
    """Those that a rule names and no list wishes for; their layers have their own grace period."""
    old, wished, other = (shelf.publish(f"user/{name}:1", name) for name in ("old", "wished", "other"))
    for image in (old, wished, other):
        os.utime(shelf.manifest(image), (0, 0))
    shelf.layout.index.unlink()
    by = rules("*/user/other:*=never", "*/user/*=30")
    report = shelf.collect(rules=by, wished=[wished.ref])
    assert went(report) == {("name", old.ref)}
    assert reasons(report)[old.ref] == "expired by */user/*=30"
    assert shelf.has(old) == [True]
    shelf.now += 8 * DAY
    assert ("layer", layer_names(old)[0]) in went(shelf.collect(rules=by, wished=[wished.ref]))


def test_hard_links_count_once(shelf: Shelf) -> None:
    """A file that a kept tree has too gives nothing back; two names that both go give its bytes once."""
    gone = shelf.publish("gone:1", "top")
    layer = shelf.layout.layerfs(Digest.parse(gone.layers[0]))
    shelf.remove(gone)
    plain = shelf.rehearse(grace=0).bytes("goes")
    (layer / "big").write_bytes(b"x" * 10_000)
    os.link(layer / "big", layer / "same")
    assert shelf.rehearse(grace=0).bytes("goes") == plain + 10_000
    os.link(layer / "big", shelf.directory / "elsewhere")
    assert shelf.rehearse(grace=0).bytes("goes") == plain


def test_the_state_is_of_one_repository(shelf: Shelf, tmp_path: Path) -> None:
    """And must parse: times that are not known are never guessed."""
    shelf.publish("kept:1", "a")
    shelf.collect()
    other = Shelf(tmp_path / "other")
    other.publish("kept:1", "a")
    (other.directory / "state").symlink_to(shelf.directory / "state")
    with pytest.raises(FailedPrecondition, match="is of the repository"):
        other.collect()
    shelf.memory.path.write_text("{")
    with pytest.raises(DataLoss, match="does not parse"):
        shelf.collect()


def test_removing_what_is_not_there(shelf: Shelf) -> None:
    """Nothing is withdrawn, not even the other one."""
    image = shelf.publish("kept:1", "a")
    with pytest.raises(NotFound, match="nothing:1"):
        shelf.remove(image, shelf.images[image.ref].__class__(image.path, "registry.example/nothing:1", "", "", (), ()))
    assert shelf.manifest(image).is_file()


def test_both_manifests_of_a_name_count(shelf: Shelf) -> None:
    """DUCC replaces `manifest.json` and does not know of `image.v1`: readers may still ask for the original."""
    ours, theirs = shelf.publish("image:1", "a"), shelf.publish("other:1", "b")
    shelf.manifest(ours).write_bytes(shelf.manifest(theirs).read_bytes())
    shelf.remove(theirs)
    shelf.collect(grace=0)
    assert shelf.has(ours) + shelf.has(theirs) == [True, True]

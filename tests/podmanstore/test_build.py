"""A build from a repository to a store that its reader finds nothing wrong with."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import FailedPrecondition, Unavailable
from cvmfsrepo.repository import Repository
from cvmfsrepo.tree import Notation
from podmanstore import build as module
from podmanstore.apply import is_half_done
from podmanstore.build import Request, build, build_and_prune
from podmanstore.check import Kind, check_store
from podmanstore.gather import Terms
from podmanstore.places import Place
from podmanstore.values import Mount
from publisher.publishing.form import Form
from tests.images.tarlayer import Dir, Entry, File, Opaque, Whiteout
from tests.podmanstore.killing import Killed, kills
from tests.podmanstore.repositories import AMD64, DUCC, Registry, Shelf, reference
from tests.standins import Standin, standin

pytestmark = pytest.mark.root

BASE = [Dir("d"), File("d/one", b"1"), File("d/two", b"2")]
DELETING = [Dir("d", mode=0o750), Whiteout("d/one")]
RAW = Form(Notation.OCI, as_ingested=True)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def request_for(shelf: Shelf, *places: Place) -> Request:
    return Request(places or (shelf.place(),), shelf.directory / "store", Terms(Mount.BOTH, AMD64))


def names_in(store: Path) -> list[str]:
    images = json.loads((store / "overlay-images/images.json").read_bytes())
    return sorted(name for image in images for name in image["names"])


def layers_in(store: Path) -> set[str]:
    return {layer["id"] for layer in json.loads((store / "overlay-layers/layers.json").read_bytes())}


def contents(store: Path) -> Mapping[str, object]:
    """Everything of a store that is computed, with its times."""
    found = dict[str, object]()
    for folder, directories, files in os.walk(store):
        for name in (*directories, *files):
            path = Path(folder, name)
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
            found[str(path.relative_to(store))] = (status.st_mode, status.st_mtime_ns, status.st_ino, content)
    return found


@pytest.mark.parametrize("form", [Form(), Form(Notation.OCI), RAW])
def test_a_store_without_defects(shelf: Shelf, form: Form) -> None:
    """Whatever wrote the repository; two images with the same layers in another order are both right."""
    shelf.publish("one:1", BASE, DELETING, [File("top")], form=form)
    shelf.publish("two:1", BASE, [File("top")], DELETING, form=form)
    built = build(request_for(shelf))
    assert (built.images, built.left_out, built.is_new) == (2, (), True)
    assert (built.changes.images_added, built.changes.layers_added) == (2, built.layers)
    assert names_in(built.store) == ["registry.example/one:1", "registry.example/two:1"]
    assert check_store(built.store) == []


def test_nothing_changed_nothing_written(shelf: Shelf) -> None:
    """Not a time, not an inode."""
    shelf.publish("one:1", BASE, DELETING, form=RAW)
    build(request_for(shelf))
    before = contents(shelf.directory / "store")
    built = build(request_for(shelf))
    assert not built.changes
    assert not built.is_new
    assert contents(shelf.directory / "store") == before


def test_the_same_repository_gives_the_same_bytes(shelf: Shelf) -> None:
    """Built at once, or image by image."""
    shelf.publish("one:1", BASE, form=RAW)
    grown = build(request_for(shelf)).store
    shelf.publish("two:1", BASE, DELETING, form=RAW)
    build(request_for(shelf))
    fresh = build(replace(request_for(shelf), store=shelf.directory / "fresh")).store
    for name in ("overlay-images/images.json", "overlay-layers/layers.json", "overlay-images/images.lock"):
        assert (grown / name).read_bytes() == (fresh / name).read_bytes()
    assert contents(grown).keys() == contents(fresh).keys()


def test_an_image_that_is_gone(shelf: Shelf) -> None:
    """It leaves; its layers stay, for users may stand on them, until they are pruned."""
    gone = shelf.publish("gone:1", BASE, [File("x")])
    shelf.publish("stays:1", BASE)
    built = build(request_for(shelf))
    before = layers_in(built.store)
    shutil.rmtree(shelf.layout.image_metadata(reference("gone:1")))
    assert build(request_for(shelf)).changes.images_removed == 1
    assert names_in(built.store) == ["registry.example/stays:1"]
    assert layers_in(built.store) == before
    _, told = build_and_prune(request_for(shelf), dry_run=True)
    assert len(told.layers) == 2, "the layer by itself, and on its parent"
    assert layers_in(built.store) == before
    assert build_and_prune(request_for(shelf), dry_run=False)[1].layers == told.layers
    assert layers_in(built.store) == before - set(told.layers)
    assert check_store(built.store) == []
    assert gone.layers


def test_layers_only(shelf: Shelf) -> None:
    """All layers and no image; pruning takes none of them."""
    shelf.publish("one:1", BASE, DELETING)
    request = replace(request_for(shelf), layers_only=True)
    built = build(request)
    assert (built.images, names_in(built.store)) == (0, [])
    assert len(layers_in(built.store)) == built.layers == 4, "each by itself, and each on its parent"
    assert build_and_prune(request, dry_run=False)[1].layers == ()


def test_another_mount_kind(shelf: Shelf) -> None:
    """What stands around the layers is made anew."""
    opaque: list[list[Entry]] = [BASE, [Dir("d"), Opaque("d"), File("d/three")]]
    shelf.publish("one:1", *opaque, form=RAW)
    request = request_for(shelf)
    assert [out.name for out in build(request).left_out] == ["registry.example/one:1"]
    for mount in (Mount.KERNEL, Mount.FUSE):
        built = build(replace(request, terms=Terms(mount, AMD64)))
        assert built.changes
        assert (built.images, built.left_out) == (1, ())
        defects = {defect.kind for defect in check_store(built.store)}
        assert defects <= {Kind.LAYER_DIRECTORY_UNLISTED}, "shims that containers of users may stand on stay"
    assert build(request).images == 0


def test_the_repository_is_seen_elsewhere(shelf: Shelf) -> None:
    """A store that was built for one path is mended for another."""
    image = shelf.publish("one:1", BASE)
    seen = shelf.directory / "seen"
    seen.symlink_to(shelf.root)
    built = build(request_for(shelf))
    build(request_for(shelf, shelf.place(links_to=seen)))
    targets = {os.readlink(path) for path in built.store.glob("overlay/*/diff")}
    digest = image.layers[0].removeprefix("sha256:")
    assert targets == {f"{seen}/.layers/{digest[:2]}/{digest}/layerfs"}
    assert check_store(built.store) == []


def test_configs_that_are_fetched(shelf: Shelf) -> None:
    """Without them the image is left out, and so it is by each later build; with them it is served, then and later."""
    image = shelf.publish("one:1", BASE, form=DUCC)
    request = request_for(shelf)
    for _ in range(2):
        assert len(build(request).left_out) == 1
    assert build(replace(request, fetch=Registry(image))).images == 1
    built = build(request)
    assert (built.images, bool(built.changes)) == (1, False)
    assert check_store(built.store) == []


def test_a_build_that_trusts_nothing(shelf: Shelf) -> None:
    """What somebody broke is made again."""
    shelf.publish("one:1", BASE, DELETING, form=RAW)
    request = request_for(shelf)
    store = build(request).store
    for path in store.glob("overlay/*/link"):
        path.write_text("WRONG")
    assert check_store(store)
    build(replace(request, mend=True))
    assert check_store(store) == []


def test_a_layer_that_several_repositories_hold(tmp_path: Path) -> None:
    """One store of two repositories: it is listed once, from the first one."""
    one, two = Shelf(tmp_path / "one"), Shelf(tmp_path / "two")
    one.publish("one:1", BASE)
    two.publish("two:1", BASE, DELETING)
    built = build(Request((one.place(), two.place()), tmp_path / "store", Terms(Mount.BOTH, AMD64)))
    assert names_in(built.store) == ["registry.example/one:1", "registry.example/two:1"]
    assert check_store(built.store) == []


@pytest.fixture
def mounted(shelf: Shelf, tmp_path: Path) -> Iterator[Standin]:
    shelf.publish("one:1", BASE)
    with standin(shelf.root, tmp_path / "mnt", revision=7) as served:
        yield served


@pytest.mark.fuse
def test_an_unchanged_revision_is_not_looked_into(shelf: Shelf, mounted: Standin) -> None:
    """The root is asked for its revision, and that is all; another request, or another revision, is looked into."""
    request = request_for(shelf, shelf.place(mounted.mountpoint))
    build(request)
    mounted.reset()
    shelf.publish("two:1", BASE, DELETING)
    built = build(request)
    assert (built.images, bool(built.changes)) == (1, False)
    assert set(mounted.counters().paths) <= {"/", "/.layers"}
    mounted.publish()
    assert build(request).images == 2
    assert build(replace(request, terms=Terms(Mount.KERNEL, AMD64, frozenset({reference("one:1")})))).images == 1


@pytest.fixture
def revision(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Gives all repositories a revision, 7 at first."""

    def give(number: int) -> None:
        monkeypatch.setattr(Repository, "find_revision", lambda _: number)

    give(7)
    return give


@pytest.mark.usefixtures("revision")
def test_a_build_that_died_before_it_was_remembered(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is another one than the last build that is remembered left: the same build makes it right, although
    nothing was published since."""
    for name in ("one:1", "two:1"):
        shelf.publish(name, BASE)
    every = request_for(shelf)
    one = replace(every, terms=replace(every.terms, only=frozenset({reference("one:1")})))
    store = build(one).store
    with monkeypatch.context() as patched:
        patched.setattr(module, "keep_state", killed)
        with pytest.raises(Killed):
            build(every)
    assert len(names_in(store)) == 2
    assert build(one).images == 1
    assert names_in(store) == ["registry.example/one:1"]
    assert not build(one).changes


@pytest.mark.usefixtures("revision")
def test_a_build_that_died_and_was_taken_back(shelf: Shelf, killing: Callable[[int], None]) -> None:
    """At any step: what was asked for before is there again, although the repository and the indices are the same."""
    shelf.publish("one:1", BASE, DELETING, form=RAW)
    before = request_for(shelf)
    after = replace(before, terms=replace(before.terms, mount=Mount.FUSE))
    store = build(before).store
    for number in kills(killing, lambda: build(after)):
        build(before)
        assert check_store(store) == [], f"step {number}"
        assert not is_half_done(store)


def killed(*_: object) -> NoReturn:
    raise Killed


def give_identity(monkeypatch: pytest.MonkeyPatch, *identity: str) -> None:
    monkeypatch.setattr(Repository, "find_identity", lambda _: identity)


@pytest.mark.parametrize(
    ("number", "identity"),
    [(3, ("one.example", "b")), (7, ("one.example", "b")), (8, ("two.example", "b"))],
    ids=["gone back", "the same revision", "another name"],
)
def test_another_repository_at_the_same_path(
    shelf: Shelf, revision: Callable[[int], None], monkeypatch: pytest.MonkeyPatch,
    number: int, identity: tuple[str, str],
) -> None:  # fmt: skip
    """Nothing is believed of layers that are the same in both: here they have other markers."""
    give_identity(monkeypatch, "one.example", "a")
    shelf.publish("one:1", BASE, DELETING)
    request = request_for(shelf)
    store = build(request).store
    shutil.rmtree(shelf.root)
    shelf.root.mkdir()
    shelf.publish("one:1", BASE, DELETING, form=RAW)
    revision(number)
    give_identity(monkeypatch, *identity)
    assert build(request).changes
    assert check_store(store) == []


def test_the_same_repository_has_other_contents(
    shelf: Shelf, revision: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each revision; what is known of its layers is believed."""
    give_identity(monkeypatch, "one.example", "a")
    image = shelf.publish("one:1", BASE)
    request = request_for(shelf)
    build(request)
    shutil.rmtree(shelf.layerfs(image))
    revision(8)
    give_identity(monkeypatch, "one.example", "b")
    assert build(request).left_out == ()


@pytest.mark.fuse
def test_only_new_layers_are_looked_at(shelf: Shelf, mounted: Standin) -> None:
    """A build after a publication opens the new image's layers."""
    request = request_for(shelf, shelf.place(mounted.mountpoint))
    build(request)
    new = shelf.publish("two:1", BASE, [File("new")])
    mounted.publish()
    mounted.reset()
    assert build(request).changes.images_added == 1
    opened = {path.split("/")[3] for path in mounted.counters().paths if path.count("/") > 3 and "layerfs" in path}
    assert opened == {new.layers[1].removeprefix("sha256:")}


@pytest.mark.fuse
@pytest.mark.parametrize("kind", ["stall", "eio", "enotconn"])
def test_a_repository_that_is_away_changes_nothing(shelf: Shelf, mounted: Standin, kind: str) -> None:
    """The images stay listed, and the next build that can do anything goes on."""
    request = request_for(shelf, shelf.place(mounted.mountpoint, seconds=1.0))
    store = build(request).store
    shelf.publish("two:1", BASE, DELETING)
    mounted.publish()
    before = contents(store)
    mounted.fault(kind, "/.metadata/registry.example")
    with pytest.raises(Unavailable, match="nothing was changed"):
        build(request)
    assert contents(store) == before
    mounted.clear()
    assert build(request).images == 2


@pytest.mark.fuse
def test_an_unmounted_repository_changes_nothing(shelf: Shelf, mounted: Standin) -> None:
    """An empty mount point is not a repository without images; nor is a new store made from it."""
    request = request_for(shelf, shelf.place(mounted.mountpoint))
    store = build(request).store
    before = contents(store)
    mounted.vanish()
    with pytest.raises(Unavailable):
        build(request)
    assert contents(store) == before
    with pytest.raises(Unavailable):
        build(replace(request, store=shelf.directory / "new"))
    assert not (shelf.directory / "new").exists()
    mounted.reappear()
    assert not build(request).changes


@pytest.mark.fuse
def test_a_layer_that_fails_for_a_while(shelf: Shelf, mounted: Standin) -> None:
    """Its image is left out, and nothing is pruned; the next build brings it although the revision is the same."""
    spoilt = shelf.publish("spoilt:1", BASE, [File("x")])
    shelf.publish("good:1", [File("y")])
    mounted.publish()
    mounted.fault("catalog", f"/{shelf.layerfs(spoilt, 1).relative_to(shelf.root)}")
    request = request_for(shelf, shelf.place(mounted.mountpoint))
    assert [out.name for out in build(request).left_out] == ["registry.example/spoilt:1"]
    assert [out.name for out in build(request).left_out] == ["registry.example/spoilt:1"]
    with pytest.raises(FailedPrecondition, match="cannot be pruned"):
        build_and_prune(request, dry_run=False)
    mounted.clear()
    built = build(request)
    assert (built.images, built.left_out) == (3, ())


def test_a_state_that_is_lost_costs_only_time(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same store comes out; layers are looked at again."""
    shelf.publish("one:1", BASE, DELETING, form=RAW)
    request = request_for(shelf)
    store = build(request).store
    indices = [(store / name).read_bytes() for name in ("overlay-images/images.json", "overlay-layers/layers.json")]
    monkeypatch.setattr(module, "find_state", lambda _: None)
    assert not build(request).changes
    after = [(store / name).read_bytes() for name in ("overlay-images/images.json", "overlay-layers/layers.json")]
    assert after == indices


def test_a_layer_that_was_collected(shelf: Shelf) -> None:
    """A layer that the repository lost after it was listed: a build trusts the state, one that mends does not."""
    image = shelf.publish("one:1", BASE)
    request = request_for(shelf)
    build(request)
    shutil.rmtree(shelf.layout.layer(Digest.parse(image.layers[0])))
    assert build(request).left_out == ()
    (out,) = build(replace(request, mend=True)).left_out
    assert image.layers[0] in out.reason

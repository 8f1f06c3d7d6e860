"""The repository's store for podman, which each publication brings up to date: in a directory, on CVMFS's stand-in."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cvmfsrepo.layout import CATALOG_MARKER, Layout
from podmanstore.check import check_store
from podmanstore.lockfiles import building
from tests.cvmfsserver.fixture import FQRN, Published, cvmfs_repository
from tests.images.ocilayout import write_image
from tests.images.tarlayer import Dir, File, Whiteout, layer_tar
from tests.publisher.publishing import command, make_repository, run

pytestmark = [pytest.mark.root, pytest.mark.slow]

BASE = layer_tar([Dir("d"), File("d/one", b"1")])
OTHER = layer_tar([File("other", b"2")])
DELETING = layer_tar([Dir("d"), Whiteout("d/one")])


@dataclass(frozen=True, slots=True)
class Place:
    """Where the commands publish to: `where` are their options."""

    directory: Path
    root: Path
    where: tuple[str, ...]
    cvmfs: Published | None = None

    @property
    def store(self) -> Path:
        return Layout(self.root).podman_store

    def image(self, name: str, *tars: bytes) -> list[str]:
        """Arguments that publish an image of these layers."""
        layout = write_image(self.directory / "layouts", tars, f"registry.example/{name}")
        return ["image", layout.source, *self.where]

    def run(self, *arguments: str, status: int = 0) -> str:
        done = run(*arguments)
        assert done.returncode == status, done.stderr
        return done.stderr


@pytest.fixture(params=["directory", "cvmfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "directory":
        root = make_repository(tmp_path / "repository")
        yield Place(tmp_path, root, ("--repository", str(root)))
    else:
        with cvmfs_repository(tmp_path) as published:
            yield on(tmp_path, published)


@pytest.fixture
def cvmfs(tmp_path: Path) -> Iterator[Place]:
    with cvmfs_repository(tmp_path) as published:
        yield on(tmp_path, published)


def on(directory: Path, published: Published) -> Place:
    where = (
        *("--cvmfs", FQRN, "--scratch", str(published.scratch)),
        *("--cvmfs-root", str(published.root), "--cvmfs-server", str(published.command)),
    )
    return Place(directory, published.root, where, published)


def names(store: Path) -> set[str]:
    images = json.loads((store / "overlay-images/images.json").read_bytes())
    return {name for image in images for name in image["names"]}


def layers(store: Path) -> int:
    return len(json.loads((store / "overlay-layers/layers.json").read_bytes()))


def test_there_is_none_unless_it_is_asked_for(place: Place) -> None:
    """And one that is refused is not made, whatever the recipe says."""
    place.run(*place.image("base:1", BASE))
    place.run(*place.image("other:1", OTHER), "--no-podman-store")
    assert not place.store.exists()


def test_one_publication_has_the_image_and_the_store(place: Place) -> None:
    """Once made it follows by itself; its reader finds nothing wrong. What is published already costs nothing more."""
    assert "1 images added" in place.run(*place.image("base:1", BASE), "--podman-store")
    assert place.run(*place.image("other:1", BASE, OTHER))
    assert names(place.store) == {"registry.example/base:1", "registry.example/other:1"}
    assert check_store(place.store) == []
    assert place.run(*place.image("base:1", BASE), "--podman-store") == ""
    if place.cvmfs:
        assert place.cvmfs.revision == 2
        assert names(Layout(place.cvmfs.at(1)).podman_store) == {"registry.example/base:1"}


def test_a_store_for_what_is_published_already(place: Place) -> None:
    """Asking for it is enough; the image is left as it is."""
    place.run(*place.image("base:1", BASE))
    assert "1 images added" in place.run(*place.image("base:1", BASE), "--podman-store")
    assert names(place.store) == {"registry.example/base:1"}


def test_it_is_what_the_podmanstore_command_builds(tmp_path: Path) -> None:
    """To the byte: the node's command finds nothing to change."""
    root = make_repository(tmp_path / "repository")
    place = Place(tmp_path, root, ("--repository", str(root)))
    place.run(*place.image("base:1", BASE, DELETING), "--podman-store")
    build = ["-m", "podmanstore.cli", "build", "--platform", "linux/amd64", "--repository", str(root), "--store"]
    done = subprocess.run([command()[0], *build, str(place.store)], capture_output=True, text=True, check=True)
    assert "nothing changed" in done.stdout


def test_links_lead_where_users_see_the_repository(place: Place) -> None:
    """And stay so, whether it is said again or not."""
    place.run(*place.image("base:1", BASE), "--podman-store", "--podman-links-to", "/images")
    place.run(*place.image("other:1", OTHER))
    targets = {
        os.readlink(link)
        for link in (entry / "diff" for entry in (place.store / "overlay").iterdir())
        if link.is_symlink()
    }
    assert len(targets) == 2
    assert all(target.startswith("/images/.layers/") for target in targets)


def test_a_withdrawn_image_leaves_the_store(place: Place) -> None:
    """Its layers stay: users' images may stand on them. Collected despite the store, they leave it too."""
    state = ("--state", str(place.directory / "state"))
    place.run(*place.image("base:1", BASE), "--podman-store")
    place.run(*place.image("other:1", OTHER))
    before = layers(place.store)
    place.run("remove", "registry.example/other:1", *place.where, *state)
    assert names(place.store) == {"registry.example/base:1"}
    assert layers(place.store) == before
    place.run("collect", *place.where, *state, "--grace", "0", "--despite-store")
    assert layers(place.store) < before
    assert check_store(place.store) == []


def test_somebody_elses_store(place: Place) -> None:
    """Is left alone, and refused where ours is asked for: the image is then not published into CVMFS either."""
    index = place.directory / "layers.json"
    index.write_text('[{"id":"' + "1" * 64 + '","created":"2024-01-01T00:00:00Z"}]')
    where = place.store / "overlay-layers/layers.json"
    with publishing(place):
        where.parent.mkdir(parents=True)
        where.write_bytes(index.read_bytes())
    place.run(*place.image("base:1", BASE))
    assert where.read_bytes() == index.read_bytes()
    assert "did not make" in place.run(*place.image("other:1", OTHER), "--podman-store", status=1)
    assert where.read_bytes() == index.read_bytes()
    if place.cvmfs:
        assert not place.cvmfs.is_open
        assert not (place.root / ".metadata/registry.example/other:1").exists()


def publishing(place: Place) -> "Hand":
    return Hand(place.cvmfs)


class Hand:
    """The operator's own transaction, where the repository needs one."""

    def __init__(self, cvmfs: Published | None) -> None:
        self._cvmfs = cvmfs

    def __enter__(self) -> None:
        if self._cvmfs:
            assert self._cvmfs.run("transaction", FQRN).returncode == 0

    def __exit__(self, *_: object) -> None:
        if self._cvmfs:
            assert self._cvmfs.run("publish", FQRN).returncode == 0


def test_a_layer_with_deletions_in_cvmfs(cvmfs: Place) -> None:
    """Stands in the store as itself: no device is needed beside it. Of a raw one the store says why it is left out."""
    cvmfs.run(*cvmfs.image("deleting:1", BASE, DELETING), "--podman-store")
    assert names(cvmfs.store) == {"registry.example/deleting:1"}
    said = cvmfs.run(*cvmfs.image("raw:1", BASE, layer_tar([Whiteout("d/one")])), "--whiteouts", "oci")
    assert "left out: registry.example/raw:1" in said
    assert "cvmfs-podmanstore build" in said
    assert names(cvmfs.store) == {"registry.example/deleting:1"}


def test_a_store_in_cvmfs_has_a_catalog_of_its_own(cvmfs: Place) -> None:
    """Its many small files are not loaded by readers of something else."""
    cvmfs.run(*cvmfs.image("base:1", BASE), "--podman-store")
    assert (cvmfs.store / CATALOG_MARKER).is_file()
    assert check_store(cvmfs.store) == []


def test_a_publication_that_is_refused(cvmfs: Place) -> None:
    """Leaves the store as it was, and the next one has both images."""
    assert cvmfs.cvmfs
    cvmfs.run(*cvmfs.image("base:1", BASE), "--podman-store")
    cvmfs.cvmfs.fail("publish")
    cvmfs.run(*cvmfs.image("other:1", OTHER), status=1)
    assert names(cvmfs.store) == {"registry.example/base:1"}
    cvmfs.cvmfs.fail()
    cvmfs.run(*cvmfs.image("other:1", OTHER))
    assert names(cvmfs.store) == {"registry.example/base:1", "registry.example/other:1"}
    assert check_store(cvmfs.store) == []


def test_a_run_that_ends_before_the_store(tmp_path: Path) -> None:
    """Another build holds the store: the command fails, and the next publication makes it up, though nothing else is
    to be changed."""
    root = make_repository(tmp_path / "repository")
    place = Place(tmp_path, root, ("--repository", str(root)))
    place.run(*place.image("base:1", BASE), "--podman-store")
    arguments = place.image("other:1", OTHER)
    with building(place.store):
        assert "another build is at work" in place.run(*arguments, status=1)
    assert names(place.store) == {"registry.example/base:1"}
    place.run(*arguments)
    assert names(place.store) == {"registry.example/base:1", "registry.example/other:1"}

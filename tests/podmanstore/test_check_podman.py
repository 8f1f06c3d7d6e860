"""What the checker calls good is good for podman, and what podman writes is good for the checker."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from podmanstore.check import Kind, Severity, check_store, examine_store
from tests.engines.podman import PODMANS, Bind, Podman, running_podman
from tests.podmanstore.handmade import Handmade, simple
from tests.podmanstore.planting import PLANTED, Plant

pytestmark = [pytest.mark.root, pytest.mark.engine]

HIDDEN = (".cvmfscatalog", ".wh.gone")
UNLISTED = {Kind.INDEX_MISSING}
"""Warnings with which podman works and shows no images."""

FATAL = frozenset(
    {
        "broken layers", "number for a name", "text for a size", "no time", "image twice", "name twice", "bad image id",
        "no diff digest", "bad digest", "no config", "no manifest", "dangling manifest", "config of no type",
        "other config", "other manifest", "no JSON manifest",
    }
)  # fmt: skip
"""Plants of which a defect says that every command, or `podman images`, fails."""


@pytest.mark.parametrize("version", PODMANS)
def test_podman_takes_a_store_without_defects(short_path: Path, version: str) -> None:
    """It lists the images by name and digest, and mounts every layer of them and no marker."""
    made = Handmade(short_path / "made")
    a, b, c = (made.layer(name, [name, *HIDDEN]) for name in "abc")
    made.image("docker.io/library/one:1", [a, b, c], HIDDEN)
    made.image("example.org/two:1", [a, c], HIDDEN)
    assert check_store(made.write().store) == []
    binds = [Bind(made.repository, read_only=True)]
    with running_podman(version, short_path / "podman", stores=[made.store], binds=binds) as podman:
        images = json.loads(podman.run("images", "--format", "json").stdout)
        seen = {image["Names"][0]: (image["Id"], image["Digest"], image["ReadOnly"]) for image in images}
        assert seen == {image["names"][0]: (image["id"], image["digest"], True) for image in made.images}
        container = podman.run("create", "one:1", "none").stdout.strip()
        root = podman.run("mount", container).stdout.strip()
        assert set(podman.exec("ls", "-A", root).stdout.split()) >= {"a", "b", "c"}
        assert not set(podman.exec("ls", "-A", root).stdout.split()) & set(HIDDEN)


@pytest.mark.parametrize("version", PODMANS)
def test_a_store_that_podman_wrote_has_no_defects(short_path: Path, version: str) -> None:
    """But that other users cannot read it, for it is its user's own."""
    with running_podman(version, short_path / "podman") as podman:
        podman.exec("sh", "-c", "mkdir /tmp/x; cd /tmp/x; echo 1 > f; tar -cf ../x.tar f")
        podman.run("import", "/tmp/x.tar", "localhost/own:1")
        podman.exec("sh", "-c", "printf 'FROM localhost/own:1\\nCOPY f /g\\n' > /tmp/x/Dockerfile")
        podman.run("build", "-t", "localhost/own:2", "/tmp/x")
        checked = examine_store(podman.storage)
    assert {defect.kind for defect in checked.defects} == {Kind.UNREADABLE}, "\n".join(map(str, checked.defects))
    assert (checked.layers, checked.images) == (2, checked.podman4_images)


@contextmanager
def podman_on(version: str, directory: Path) -> Iterator[Podman]:
    """A podman with a store and its repository in the directory, neither of them made yet."""
    for name in ("store", "repository"):
        (directory / name).mkdir()
    store, repository = (Bind(directory / name, read_only=True) for name in ("store", "repository"))
    with running_podman(
        version, directory / "podman", stores=[directory / "store"], binds=[store, repository]
    ) as podman:
        yield podman


def planted(directory: Path, plant: Plant) -> Path:
    """A store with a defect, in the place of the one before; the directories themselves stay, for they are mounted."""
    for name in ("store", "repository"):
        for old in (directory / name).iterdir():
            shutil.rmtree(old)
    plant(made := simple(directory))
    return made.store


@pytest.mark.parametrize("version", PODMANS)
def test_a_warning_does_not_break_podman(short_path: Path, version: str) -> None:
    """With each planted defect that is a warning the image is listed and mounted whole."""
    with podman_on(version, short_path) as podman:
        for name, plant, expected in PLANTED:
            defects = check_store(planted(short_path, plant))
            if any(defect.severity is Severity.ERROR for defect in defects) or expected & UNLISTED:
                continue
            (image, *_) = json.loads(podman.run("images", "--format", "json").stdout) or [None]
            if name == "index of null":
                assert image is None
                continue
            container = podman.run("create", image["Id"], "none").stdout.strip()
            root = podman.run("mount", container).stdout.strip()
            assert "file" in podman.exec("ls", root).stdout, name
            podman.run("rm", container)


@pytest.mark.parametrize("version", PODMANS)
def test_what_is_said_to_break_podman_does(short_path: Path, version: str) -> None:
    """`podman images` fails with each of them, and with an error found it is no surprise."""
    plants = {name: plant for name, plant, _ in PLANTED}
    with podman_on(version, short_path) as podman:
        for name in sorted(FATAL):
            assert any(d.severity is Severity.ERROR for d in check_store(planted(short_path, plants[name]))), name
            assert podman.run("images", check=False).returncode != 0, name

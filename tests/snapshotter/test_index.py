"""The index of what the repositories hold: built, kept up to date, thrown away when it is damaged."""

import sqlite3
import time
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest, chain_id
from cvmfsrepo.oci import Reference
from cvmfsrepo.tree import Notation, encode, make_record
from cvmfsrepo.whiteouts import Markers
from snapshotter.index.store import Index
from tests.publisher.publishing import AMD64
from tests.snapshotter.indexing import Published, chain_of, index_of, threads_named, wait_until_read
from tests.snapshotter.layers import NAME, diff_id_of
from tests.snapshotter.nodes import eventually

REF = "registry.example/group/image:1"


@pytest.fixture
def repository(tmp_path: Path) -> Published:
    """An empty repository."""
    return Published(tmp_path / "repository")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the index is."""
    return tmp_path / "index.sqlite"


def test_an_image_with_its_layers_and_chains(repository: Published, path: Path) -> None:
    """What the manifest, the layers' documents and the config say; nothing of it is asked of the repository again."""
    layers = repository.described("base", "top")
    config = repository.keep_config([diff_id_of(layer) for layer in layers])
    repository.publish(REF, layers, config)
    before = time.time_ns()
    with index_of(path, repository.root) as index:
        wait_until_read(index)
        image = index.find_image(REF)
        layer = index.find_layer(layers[1])
    assert image
    assert (image.reference, image.repository, image.config, image.platform) == (REF, NAME, config, "linux/amd64")
    assert (image.layers, image.chains) == (tuple(layers), (chain_of(layers[:1]), chain_of(layers)))
    assert (image.first_revision, image.manifest, image.problem) == (None, None, "")
    assert before < image.first_seen < time.time_ns()
    assert layer
    assert (layer.diff_id, layer.size, layer.tar_size, layer.markers) == (diff_id_of(layers[1]), 1001, 4096, None)
    assert (layer.repository, layer.first_revision) == (NAME, None)


def test_layers_are_found_by_content(repository: Published, path: Path) -> None:
    """By chain id and by diff id, also where the same tar is there in two compressions; what is unknown is nowhere."""
    layers = repository.described("base", "top")
    again = repository.add("base, compressed anew")
    repository.describe(again, diff_id_of(layers[0]))
    repository.publish(REF, layers)
    repository.publish("registry.example/other:1", [again, layers[1]])
    with index_of(path, repository.root) as index:
        wait_until_read(index)
        found = index.find_layers_of_diff_id(diff_id_of(layers[0]))
        assert sorted(found) == sorted([(NAME, layers[0]), (NAME, again)])
        assert index.find_layer_of_chain(chain_of(layers)) == ((NAME, layers[1]),)
        assert index.find_layer_of_chain(Digest.of(b"unknown")) == ()
        assert index.find_image("registry.example/unknown:1") is None
        assert index.find_layer(Digest.of(b"unknown")) is None


def test_a_record_says_the_diff_id_and_counts_the_markers(repository: Published, path: Path) -> None:
    """Without `layers.json` the tree record does; a deletion and an opaque directory are two markers."""
    layer = repository.add("base", {"etc/.wh.shadow": "", "var/.wh..wh..opq": ""})
    markers = Markers((b"etc/shadow",), (b"var",))
    repository.write_record(layer, encode(make_record(layer, diff_id_of(layer), Notation.OCI, (), markers, ())))
    repository.publish(REF, [layer])
    with index_of(path, repository.root) as index:
        wait_until_read(index)
        known = index.find_layer(layer)
    assert known
    assert (known.diff_id, known.markers, known.tar_size) == (diff_id_of(layer), 2, None)


def test_the_config_says_diff_ids_that_stand_nowhere_else(repository: Published, path: Path) -> None:
    """A layer that DUCC left without `layers.json` is found through the image's config, where that is kept."""
    layers = [repository.add("base"), *repository.described("top")]
    config = repository.keep_config([diff_id_of(layer) for layer in layers])
    repository.publish(REF, layers, config)
    with index_of(path, repository.root) as index:
        wait_until_read(index)
        assert index.find_layer_of_chain(chain_of(layers)) == ((NAME, layers[1]),)
        assert index.find_layers_of_diff_id(diff_id_of(layers[0])) == ((NAME, layers[0]),)


def test_a_diff_id_that_comes_later_completes_the_chain(repository: Published, path: Path) -> None:
    """Chains end at a layer of which nothing is known, and go on when its documents are published."""
    layers = [*repository.described("base"), repository.add("middle"), *repository.described("top")]
    repository.publish(REF, layers)
    with index_of(path, repository.root) as index:
        wait_until_read(index)
        image = index.find_image(REF)
        assert image
        assert image.chains == (chain_of(layers[:1]),)
        repository.describe(layers[1])
        wait_until_read(index)
        assert index.find_layer_of_chain(chain_of(layers)) == ((NAME, layers[2]),)


def test_docker_hub_has_one_name(repository: Published, path: Path) -> None:
    """An image that DUCC keeps under one of the hub's hosts is found by the name that people use, and by its own."""
    repository.publish("registry.hub.docker.com/library/debian:12", repository.described("base"))
    with index_of(path, repository.root) as index:
        wait_until_read(index)
        for name in (
            "debian:12",
            "docker.io/debian:12",
            "docker.io/library/debian:12",
            "registry.hub.docker.com/library/debian:12",
        ):
            image = index.find_image(name)
            assert image
            assert image.reference == "registry.hub.docker.com/library/debian:12"
        found = [image.reference for image in index.walk_images("docker.io/*")]
        assert found == ["registry.hub.docker.com/library/debian:12"]
        assert index.find_image(Reference.parse("debian:13")) is None


def test_a_reference_by_digest(repository: Published, path: Path) -> None:
    """It carries the manifest's digest in its name."""
    digest = Digest.of(b"manifest")
    repository.publish(f"registry.example/a@{digest}", repository.described("base"))
    with index_of(path, repository.root) as index:
        wait_until_read(index)
        image = index.find_image(f"registry.example/a@{digest}")
    assert image
    assert image.manifest == digest


@pytest.mark.slow
def test_many_images_are_walked_in_order(repository: Published, path: Path) -> None:
    """All of them, by name, over several pages; a pattern chooses."""
    layers = repository.described("base")
    for number in range(450):
        repository.publish(f"registry.example/a/{number:03}:1", layers)
    with index_of(path, repository.root) as index:
        wait_until_read(index)
        names = [image.reference for image in index.walk_images()]
        assert names == [f"registry.example/a/{number:03}:1" for number in range(450)]
        assert [image.reference for image in index.walk_images("*/a/00[12]:*")] == names[1:3]


def test_what_is_new_comes_and_what_is_gone_goes(repository: Published, path: Path) -> None:
    """An image that changes, one that comes and one that goes, with the layers that no other image has; but when an
    image was first seen stays known, and it counts again when it comes back."""
    base, own, new = repository.described("base", "own", "new")
    repository.publish(REF, [base, own])
    other = repository.publish("registry.example/other:1", [base])
    with index_of(path, repository.root) as index:
        wait_until_read(index)
        first = index.find_image(other)
        manifest = repository.layout.manifest_json(other)
        text = manifest.read_text()
        manifest.unlink()
        manifest.parent.rmdir()
        repository.publish(REF, [base, new])
        wait_until_read(index)
        image = index.find_image(REF)
        assert image
        assert image.layers == (base, new)
        assert index.find_image(other) is None
        assert (index.find_layer(own), index.find_layer_of_chain(chain_of([base, own]))) == (None, ())
        assert (index.state(NAME).images, index.state(NAME).layers) == (1, 2)
        repository.publish_text("registry.example/other:1", text)
        wait_until_read(index)
        again = index.find_image(other)
    assert first
    assert again
    assert again.first_seen == first.first_seen
    assert index.state(NAME).malformed == 0


def test_several_repositories(tmp_path: Path, path: Path) -> None:
    """A lookup names each repository that has the content; what one loses the other keeps."""
    one, two = Published(tmp_path / "one"), Published(tmp_path / "two")
    for repository in (one, two):
        (layer,) = repository.described("base")
        repository.publish(REF, [layer])
    with index_of(path, one.root, two.root) as index:
        wait_until_read(index)
        wait_until_read(index, f"{NAME}-2")
        assert sorted(index.find_layer_of_chain(chain_of([layer]))) == [(NAME, layer), (f"{NAME}-2", layer)]
        assert [image.repository for image in index.find_images(REF)] == [NAME, f"{NAME}-2"]
        two.layout.manifest_json(Reference.parse(REF)).unlink()
        two.layout.image_metadata(Reference.parse(REF)).rmdir()
        wait_until_read(index, f"{NAME}-2")
        assert index.find_layer_of_chain(chain_of([layer])) == ((NAME, layer),)
    assert threads_named("indexer") == []


_DAMAGES = {
    "no database": b"this is no database" * 500,
    "cut short": b"SQLite format 3\0",
    "empty": b"",
}


@pytest.mark.parametrize("damage", [*_DAMAGES, "other version", "other application", "no tables", "no digest"])
def test_a_damaged_file_is_made_anew(
    repository: Published, path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With one warning, and then it says what it said before."""
    layers = repository.described("base", "top")
    repository.publish(REF, layers)
    with index_of(path, repository.root) as index:
        wait_until_read(index)
    if damage in _DAMAGES:
        path.write_bytes(_DAMAGES[damage])
    else:
        _spoil(path, damage)
    caplog.clear()
    with index_of(path, repository.root) as index:
        eventually(lambda: index.find_layer_of_chain(chain_of(layers)) == ((NAME, layers[1]),))
        wait_until_read(index)
        assert index.find_image(REF)
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == ([] if damage == "empty" else ["index damaged, made anew"])


def _spoil(path: Path, damage: str) -> None:
    statements = {
        "other version": "PRAGMA user_version = 999",
        "other application": "PRAGMA application_id = 1",
        "no tables": "DROP TABLE image_layers",
        "no digest": "UPDATE image_layers SET layer = 'sha256:../../etc'",
    }
    with sqlite3.connect(path) as connection:
        connection.execute(statements[damage])
    connection.close()


def test_damage_while_it_is_used_is_mended_too(repository: Published, path: Path) -> None:
    """Pages that go bad under a running daemon: lookups find nothing, nothing raises, and soon it is there again."""
    layers = repository.described(*(f"layer {number}" for number in range(40)))
    for number in range(400):
        repository.publish(f"registry.example/{number}:1", [layers[number % 40]])
    with index_of(path, repository.root) as index:
        wait_until_read(index)
        index.close()  # so that pages are read from the disk again
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        for layer in layers:
            index.find_layers_of_diff_id(diff_id_of(layer))
        eventually(lambda: all(index.find_layers_of_diff_id(diff_id_of(layer)) for layer in layers))


@pytest.mark.slow
def test_a_file_that_one_made_anew_is_filled_by_all(tmp_path: Path, path: Path) -> None:
    """Two repositories share the file; after damage both are in it again, though nothing in them changed."""
    one, two = Published(tmp_path / "one"), Published(tmp_path / "two")
    for number, repository in enumerate((one, two)):
        repository.publish(f"registry.example/{number}:1", repository.described(f"layer {number}"))
    with index_of(path, one.root, two.root, interval=60) as index:
        eventually(lambda: len(list(index.walk_images())) == 2)
        eventually(lambda: index.state(NAME).complete and index.state(f"{NAME}-2").complete)
        index.close()
        _spoil(path, "no tables")
        eventually(lambda: len(list(index.walk_images())) == 2)


def test_a_place_that_cannot_be_written(repository: Published, tmp_path: Path) -> None:
    """A directory where the index should be: nothing is found, and the state says why."""
    repository.publish(REF, repository.described("base"))
    (tmp_path / "index.sqlite" / "x").mkdir(parents=True)
    with index_of(tmp_path / "index.sqlite", repository.root) as index:
        eventually(lambda: index.state(NAME).problem)
        assert index.find_image(REF) is None
        assert not index.state(NAME).complete


def test_an_index_that_was_never_made_answers_too(tmp_path: Path) -> None:
    """As a command sees it that finds none."""
    index = Index(tmp_path / "none.sqlite")
    assert index.find_image(REF) is None
    assert (list(index.walk_images()), index.malformed(NAME), index.state(NAME).complete) == ([], [], False)
    assert not (tmp_path / "none.sqlite").exists()


def test_chains_are_oci_chains(repository: Published, path: Path, tmp_path: Path) -> None:
    """Of an image that our publisher published: what containerd asks for is found."""
    from publisher.opening import open_source
    from publisher.publishing.publish import publish_image
    from tests.images.ocilayout import write_image
    from tests.images.tarlayer import File, Whiteout, layer_tar

    tars = [layer_tar([File("a", b"a"), File("b", b"b")]), layer_tar([Whiteout("a")]), layer_tar([File("c", b"c")])]
    image = write_image(tmp_path / "layout", tars, REF)
    publish_image(open_source(image.source, AMD64), repository.root, name=Reference.parse(REF), durable=False)
    with index_of(path, repository.root) as index:
        wait_until_read(index)
        for number, layer in enumerate(image.layers):
            chain = chain_id([Digest.parse(diff_id) for diff_id in image.diff_ids[: number + 1]])
            assert index.find_layer_of_chain(chain) == ((NAME, Digest.parse(layer)),)
        found = index.find_image(REF)
        assert found
        assert (str(found.config), found.platform) == (image.config, "linux/amd64")
        marked = index.find_layer(Digest.parse(image.layers[1]))
    assert marked
    assert marked.markers == 1

"""Where configs and original manifests come from."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.oci import parse_manifest
from cvmfsrepo.repository import Image as Published
from cvmfsrepo.repository import Repository
from podmanstore.configs import Cache, fetch_documents, find_documents, made_manifest
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import File, layer_tar
from tests.podmanstore.repositories import DUCC, Registry, Shelf, reference

pytestmark = pytest.mark.root

LAYER = [File("a", b"a")]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def published(shelf: Shelf, name: str = "image:1") -> tuple[Repository, Published]:
    repository = Repository("unpacked.example", shelf.layout)
    return repository, repository.get_image(reference(name))


def put_into_podman_store(shelf: Shelf, image: Image, content: bytes) -> None:
    """As DUCC does."""
    name = "=" + base64.b64encode(image.config.encode()).decode()
    directory = shelf.root / "podmanStore/overlay-images" / image.config.removeprefix("sha256:")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(content)


def test_our_publisher_keeps_everything(shelf: Shelf) -> None:
    """Config and manifest are what the registry has."""
    image = shelf.publish("image:1", LAYER)
    found = find_documents(*published(shelf), shelf.cache)
    assert found is not None
    assert found.config == image.blob(image.config).read_bytes()
    assert (found.manifest, found.is_original) == (image.blob(image.manifest).read_bytes(), True)


def test_duccs_store_has_configs(shelf: Shelf) -> None:
    """Verified by their digests; the manifest is then made from what DUCC kept."""
    image = shelf.publish("image:1", LAYER, form=DUCC)
    config = image.blob(image.config).read_bytes()
    put_into_podman_store(shelf, image, config + b" ")
    assert find_documents(*published(shelf), shelf.cache) is None
    put_into_podman_store(shelf, image, config)
    found = find_documents(*published(shelf), shelf.cache)
    assert found is not None
    assert (found.config, found.is_original) == (config, False)
    manifest = parse_manifest(found.manifest)
    assert [str(layer.digest) for layer in manifest.layers] == list(image.layers)


def test_a_made_manifest_is_spelled_as_specified(shelf: Shelf) -> None:
    """What DUCC wrote with capital keys is the same document again, but for its bytes."""
    image = shelf.publish("image:1", LAYER, form=DUCC)
    _, known = published(shelf)
    assert json.loads(made_manifest(known.manifest)) == json.loads(image.blob(image.manifest).read_bytes())


def test_a_made_manifest_has_media_types(tmp_path: Path) -> None:
    """DUCC keeps none where an OCI manifest had none; podman cannot read one without."""
    kind = "application/vnd.docker.container.image.v1+json"
    digest = "sha256:" + 64 * "0"
    text = {"Config": {"Digest": digest, "Size": 1, "MediaType": kind}, "Layers": [{"Digest": digest, "Size": 2}]}
    made = json.loads(made_manifest(parse_manifest(json.dumps(text).encode())))
    assert made["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert made["layers"][0]["mediaType"] == "application/vnd.docker.image.rootfs.diff.tar.gzip"


def test_a_config_is_fetched_once(shelf: Shelf) -> None:
    """With its manifest; later builds find both."""
    image = shelf.publish("image:1", LAYER, form=DUCC)
    repository, known = published(shelf)
    fetched = fetch_documents(Registry(image), known, shelf.cache)
    assert fetched.is_original
    assert find_documents(repository, known, shelf.cache) == fetched
    assert {path.stat().st_mode & 0o777 for path in shelf.cache.directory.iterdir()} == {0o644}


def test_an_index_is_kept(shelf: Shelf) -> None:
    """podman finds an image by the digest of the index that led to it, too."""
    image = shelf.publish("image:1", LAYER, form=DUCC)
    repository, known = published(shelf)
    fetched = replace(Registry(image)(known.reference, known.manifest.config), indexes=(b'{"manifests": []}',))
    fetch_documents(lambda *_: fetched, known, shelf.cache)
    found = find_documents(repository, known, shelf.cache)
    assert found is not None
    assert (found.is_original, found.indexes) == (True, fetched.indexes)


def test_another_config_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    """A registry may give out anything."""
    shelf.publish("image:1", LAYER, form=DUCC)
    other = write_image(tmp_path / "other", [layer_tar([File("b")])], "other")
    with pytest.raises(DataLoss, match="was not what the registry gave out"):
        fetch_documents(Registry(other), published(shelf)[1], shelf.cache)
    assert not shelf.cache.directory.exists()


def test_another_manifest_is_not_taken(shelf: Shelf, tmp_path: Path) -> None:
    """The tag means another image by now: the config is good, the manifest is not."""
    image = shelf.publish("image:1", LAYER, form=DUCC)
    other = write_image(tmp_path / "other", [layer_tar([File("b")])], "other")
    registry = Registry(image, other.blob(other.manifest).read_bytes())
    fetched = fetch_documents(registry, published(shelf)[1], shelf.cache)
    assert not fetched.is_original
    assert fetched.config == image.blob(image.config).read_bytes()


def test_an_old_pointer_is_not_believed(shelf: Shelf) -> None:
    """DUCC published another image under the name, and left the pointer as it was."""
    shelf.publish("image:1", LAYER)
    newer = shelf.publish("image:1", [File("b")], form=DUCC)
    put_into_podman_store(shelf, newer, newer.blob(newer.config).read_bytes())
    found = find_documents(*published(shelf), shelf.cache)
    assert found is not None
    assert not found.is_original
    assert [str(layer.digest) for layer in parse_manifest(found.manifest).layers] == list(newer.layers)


def test_a_damaged_blob_is_said(shelf: Shelf) -> None:
    """Unless another place has it."""
    image = shelf.publish("image:1", LAYER)
    config = image.blob(image.config).read_bytes()
    shelf.layout.blob(Digest.of(config)).write_bytes(b"{}")
    with pytest.raises(DataLoss, match="not what its digest promises"):
        find_documents(*published(shelf), shelf.cache)
    shelf.cache.keep(config)
    found = find_documents(*published(shelf), shelf.cache)
    assert found is not None
    assert found.config == config


def test_a_damaged_cache_is_no_cache(tmp_path: Path) -> None:
    """What is read is verified."""
    cache = Cache(tmp_path / "configs")
    cache.keep(b"{}")
    assert cache.find(Digest.of(b"{}")) == b"{}"
    (cache.directory / Digest.of(b"{}").hex).write_bytes(b"[]")
    assert cache.find(Digest.of(b"{}")) is None


def test_a_link_in_the_store_is_not_followed(shelf: Shelf, tmp_path: Path) -> None:
    """It could lead anywhere on the node."""
    image = shelf.publish("image:1", LAYER, form=DUCC)
    put_into_podman_store(shelf, image, b"")
    (file,) = (shelf.root / "podmanStore/overlay-images").glob("*/=*")
    file.unlink()
    (tmp_path / "outside").write_bytes(image.blob(image.config).read_bytes())
    file.symlink_to(tmp_path / "outside")
    assert find_documents(*published(shelf), shelf.cache) is None

"""The layouts are what other tools take for OCI layouts."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.engines import debs
from tests.images.ocilayout import Compression, Image, read_image, read_layers, write_image
from tests.images.tarlayer import File, layer_tar

LAYERS = [layer_tar([File("a", b"1")]), layer_tar([File("b", b"2")]), layer_tar([])]


def test_every_blob_has_the_digest_of_its_name(tmp_path: Path) -> None:
    """The layout is content-addressed throughout, and manifest, config and index point at what is there."""
    image = write_image(tmp_path, LAYERS, "one", ["gzip", "zstd", "none"])
    for blob in (tmp_path / "blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    manifest = json.loads(image.blob(image.manifest).read_bytes())
    assert [layer["digest"] for layer in manifest["layers"]] == list(image.layers)
    assert [layer["size"] for layer in manifest["layers"]] == [image.blob(d).stat().st_size for d in image.layers]
    assert json.loads(image.blob(image.config).read_bytes())["rootfs"]["diff_ids"] == list(image.diff_ids)
    assert read_layers(image) == LAYERS


def test_images_share_a_layout(tmp_path: Path) -> None:
    """Writing one more keeps the others; writing a reference again replaces it."""
    one = write_image(tmp_path, LAYERS[:1], "one")
    write_image(tmp_path, LAYERS[:2], "two")
    two = write_image(tmp_path, LAYERS, "two")
    assert read_image(tmp_path, "one") == one
    assert read_image(tmp_path, "two") == two
    with pytest.raises(LookupError, match="'three'"):
        read_image(tmp_path, "three")


def test_equal_images_have_equal_digests(tmp_path: Path) -> None:
    """Nothing of the clock or the place is in an image."""
    first, second = (write_image(tmp_path / name, LAYERS, "x", config={"Cmd": ["sh"]}) for name in "ab")
    assert first.manifest == second.manifest


def test_compressions_must_match_the_layers(tmp_path: Path) -> None:
    """One name for all, or one for each: anything else is a mistake in the test that asks."""
    with pytest.raises(ValueError, match="3 layers"):
        write_image(tmp_path, LAYERS, "x", ["gzip"])


def test_docker_media_types_are_docker_s_throughout(tmp_path: Path) -> None:
    """Manifest, config and layers of a schema 2 image carry that family's names, and nothing of OCI's."""
    image = write_image(tmp_path, LAYERS, "x", media_types="docker")
    manifest = json.loads(image.blob(image.manifest).read_bytes())
    types = [
        manifest["mediaType"],
        manifest["config"]["mediaType"],
        *(item["mediaType"] for item in manifest["layers"]),
    ]
    assert types[0] == "application/vnd.docker.distribution.manifest.v2+json"
    assert all(name.startswith("application/vnd.docker.") for name in types)


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_skopeo_understands_the_layout(tmp_path: Path, compression: Compression) -> None:
    """A tool of the trade finds the same manifest and layers, however they are compressed."""
    image: Image = write_image(tmp_path, LAYERS, "x", compression)
    said = json.loads(debs.SKOPEO.tool("skopeo").run("inspect", "--no-tags", image.source))
    assert said["Digest"] == image.manifest
    assert said["Layers"] == list(image.layers)

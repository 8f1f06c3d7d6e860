"""The indices: keys and values as containers/storage has them, and what is refused."""

import json
from pathlib import Path

import pytest

from cvmfsrepo.errors import DataLoss, FailedPrecondition
from podmanstore.records import (
    IMAGES_JSON,
    LAYERS_JSON,
    OURS,
    UNKNOWN_TIME,
    ImageRecord,
    LayerRecord,
    encode_index,
    read_images,
    read_layers,
)

LAYER = LayerRecord(
    id="n1", parent="n0", metadata=OURS + "x", created=UNKNOWN_TIME, compressed_digest="sha256:c", compressed_size=5,
    diff_digest="sha256:d", diff_size=9, compression=2,
)  # fmt: skip
IMAGE = ImageRecord(
    id="i", digest="sha256:m", names=("a/b:1",), layer="n1", big_data_names=("manifest",),
    big_data_sizes={"manifest": 3}, big_data_digests={"manifest": "sha256:m"}, created="2024-01-02T03:04:05Z",
)  # fmt: skip


def write(store: Path, index: str, content: bytes) -> None:
    (store / index).parent.mkdir(parents=True, exist_ok=True)
    (store / index).write_bytes(content)


def test_a_layer_has_the_keys_that_podman_reads() -> None:
    """In the order in which containers/storage writes them; `compression` is a number."""
    assert list(json.loads(encode_index([LAYER]))[0].items()) == [
        ("id", "n1"),
        ("parent", "n0"),
        ("metadata", OURS + "x"),
        ("created", "0001-01-01T00:00:00Z"),
        ("compressed-diff-digest", "sha256:c"),
        ("compressed-size", 5),
        ("diff-digest", "sha256:d"),
        ("diff-size", 9),
        ("compression", 2),
    ]


def test_an_image_has_the_keys_that_podman_reads() -> None:
    """`layer` is the topmost one."""
    assert list(json.loads(encode_index([IMAGE]))[0].items()) == [
        ("id", "i"),
        ("digest", "sha256:m"),
        ("names", ["a/b:1"]),
        ("layer", "n1"),
        ("big-data-names", ["manifest"]),
        ("big-data-sizes", {"manifest": 3}),
        ("big-data-digests", {"manifest": "sha256:m"}),
        ("created", "2024-01-02T03:04:05Z"),
    ]


def test_what_is_not_known_is_not_said() -> None:
    """An empty size would be taken for one; an empty parent for a layer's id."""
    assert json.loads(encode_index([LayerRecord(id="x", created="t")])) == [{"id": "x", "created": "t"}]
    assert encode_index([]) == b"[]"


def test_an_index_is_read_back(tmp_path: Path) -> None:
    """Whole; where there is none, or an empty one, a store lists nothing."""
    assert read_layers(tmp_path) == ()
    assert read_images(tmp_path) == ()
    write(tmp_path, LAYERS_JSON, encode_index([LAYER]))
    write(tmp_path, IMAGES_JSON, encode_index([IMAGE]))
    assert read_layers(tmp_path) == (LAYER,)
    assert read_images(tmp_path) == (IMAGE,)
    write(tmp_path, LAYERS_JSON, b"")
    assert read_layers(tmp_path) == ()


@pytest.mark.parametrize("content", [b"[", b'{"id": 1}', b"\xff", b"[" * 100_000, b'[{"created": ""}]'])
def test_a_damaged_index(tmp_path: Path, content: bytes) -> None:
    """Is an error that says what to do, for layers that it listed would leave the store otherwise."""
    write(tmp_path, LAYERS_JSON, content)
    with pytest.raises(DataLoss, match="remove it and build again"):
        read_layers(tmp_path)


def test_a_store_that_somebody_else_made(tmp_path: Path) -> None:
    """Is refused: its layers would be taken for ours."""
    write(tmp_path, LAYERS_JSON, encode_index([LayerRecord(id="theirs", created="")]))
    with pytest.raises(FailedPrecondition, match="'theirs', which this command did not make; name another directory"):
        read_layers(tmp_path)


def test_a_storage_that_podman_writes_to(tmp_path: Path) -> None:
    """Is refused though it has no layers yet."""
    (tmp_path / "storage.lock").touch()
    with pytest.raises(FailedPrecondition, match="podman's own storage"):
        read_layers(tmp_path)

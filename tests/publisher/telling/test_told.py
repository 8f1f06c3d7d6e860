"""What a publication tells, in its order."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from publisher.cli.main import command
from tests.images.ocilayout import write_image
from tests.images.tarlayer import File, layer_tar

pytestmark = pytest.mark.root

REF = "registry.example/group/image:1"


def told(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_publication_is_told(tmp_path: Path) -> None:
    """Each layer's start and end with one id, then what readers see; all values are text. Nothing new tells nothing."""
    image = write_image(tmp_path / "image", [layer_tar([File("a")]), layer_tar([File("b")])], REF)
    (tmp_path / "repository").mkdir()
    words = ["image", image.source, "--repository", str(tmp_path / "repository"), "--flat", "--layers", "1"]
    words += ["--notify", str(tmp_path / "told")]
    assert CliRunner().invoke(command, words).exit_code == 0
    lines = told(tmp_path / "told")
    start, end = "start_layer_conversion", "end_layer_conversion"
    assert [line["action"] for line in lines] == [
        *(start, end) * 2, "publish_layer", "publish_layer", "publish_flat_image"
    ]  # fmt: skip
    assert [line["layer"] for line in lines[:4:2]] == list(image.layers)
    assert lines[0]["id"] == lines[1]["id"] != lines[2]["id"]
    assert {line["image"] for line in lines} == {REF}
    assert all(isinstance(value, str) for line in lines for value in line.values())
    assert CliRunner().invoke(command, words).exit_code == 0
    assert told(tmp_path / "told") == lines


def test_a_failure_is_told(tmp_path: Path) -> None:
    """With its reason, for the layer and for the image."""
    image = write_image(tmp_path / "image", [layer_tar([File("a")])], REF)
    blob = image.blob(image.layers[0])
    blob.write_bytes(blob.read_bytes()[:-3])
    (tmp_path / "repository").mkdir()
    words = ["image", image.source, "--repository", str(tmp_path / "repository"), "--notify", str(tmp_path / "told")]
    assert CliRunner().invoke(command, words).exit_code == 1
    _, end, published = told(tmp_path / "told")
    assert (end["status"], published["status"]) == ("error", "error")
    assert "bytes" in end["error"]
    assert end["error"] == published["error"]


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    """Before anything is read."""
    words = ["image", "oci:nowhere", "--repository", str(tmp_path), "--notify", "ftp://here/there"]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 1
    assert "ftp" in done.output

"""The paths are DUCC's to the letter, and no link text leads out of the repository."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.layout import Layout, diff_id_target, flat_target, layer_of_target
from cvmfsrepo.oci import Reference

LAYOUT = Layout(Path("/cvmfs/unpacked.cern.ch"))
HEX = "ab" + "0" * 62
LAYER = Digest(HEX)
digests = st.binary().map(Digest.of)


def test_layer_paths() -> None:
    """A layer's directory is its compressed digest below the first two digits."""
    base = f"/cvmfs/unpacked.cern.ch/.layers/ab/{HEX}"
    assert str(LAYOUT.layerfs(LAYER)) == f"{base}/layerfs"
    assert str(LAYOUT.layers_json(LAYER)) == f"{base}/.metadata/layers.json"
    assert str(LAYOUT.origin_json(LAYER)) == f"{base}/.metadata/origin.json"
    assert str(LAYOUT.tree_record(LAYER)) == f"{base}/.metadata/tree.v1"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("registry.hub.docker.com/library/debian:12", "registry.hub.docker.com/library/debian:12/manifest.json"),
        ("localhost:5000/a/b/c", "localhost:5000/a/b/c:latest/manifest.json"),
        (f"host.org/a@sha256:{HEX}", f"host.org/a@sha256:{HEX}/manifest.json"),
    ],
)
def test_image_paths(text: str, path: str) -> None:
    """An image's directory is its reference as it is written, slashes of the repository's name included."""
    assert str(LAYOUT.manifest_json(Reference.parse(text))) == f"/cvmfs/unpacked.cern.ch/.metadata/{path}"


def test_paths_of_our_own() -> None:
    """Blobs and diff id links stand below `.metadata`, where no registry is called so."""
    assert str(LAYOUT.blob(LAYER)).endswith(f"/.metadata/blobs/sha256/ab/{HEX}")
    assert str(LAYOUT.diff_id_link(LAYER)).endswith(f"/.metadata/diffid/ab/{HEX}")


@given(digests, digests)
def test_diff_id_link_leads_to_its_layer(diff_id: Digest, layer: Digest) -> None:
    """The text, read from where the link stands, names the layer's directory; parsed, it gives the digest back."""
    parts = (LAYOUT.diff_id_link(diff_id).parent / diff_id_target(layer)).parts
    plain: list[str] = []
    for part in parts:
        plain = plain[:-1] if part == ".." else [*plain, part]
    assert Path(*plain) == LAYOUT.layer(layer)
    assert layer_of_target(diff_id_target(layer)) == layer


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", ".", "..", "x", HEX, f"/cvmfs/other/.layers/ab/{HEX}", f"../../../.layers/ab/{HEX}/"),
        *(f"../../../.layers/cd/{HEX}", f"../../../../.layers/ab/{HEX}", f"../../../.layers/ab/../ab/{HEX}"),
        *(f"../../../.layers/ab/{HEX}/layerfs", f"../../../.layers//ab/{HEX}", f"./../../../.layers/ab/{HEX}"),
        *(f"../../../.layers/ab/{HEX.upper()}", f"../../../.layers/ab/{HEX}\n", f"../../../.layers/ab/{HEX[:-1]}\0"),
        "../" * 2000 + HEX,
    ],
)
def test_hostile_link_text_is_refused(text: str) -> None:
    """Whoever could write a link must not choose what a node serves as this diff id."""
    with pytest.raises(InvalidArgument, match=r"^diff id link "):
        layer_of_target(text)


@given(st.text())
def test_link_text_never_raises_another_error(text: str) -> None:
    """Any text is a layer's or InvalidArgument."""
    with pytest.raises(InvalidArgument):
        layer_of_target(text)


@pytest.mark.parametrize("text", ["registry.example/debian:12", "localhost:5000/a/b/c", f"host.org/a@sha256:{HEX}"])
def test_public_link_leads_to_the_flat_tree(text: str) -> None:
    """An image's public name is its reference as it is written; the link's text, read from there, names the tree."""
    link = LAYOUT.public_link(Reference.parse(text))
    assert str(link).startswith(f"/cvmfs/unpacked.cern.ch/{text}")
    parts = (link.parent / flat_target(Reference.parse(text), LAYER)).parts
    plain: list[str] = []
    for part in parts:
        plain = plain[:-1] if part == ".." else [*plain, part]
    assert Path(*plain) == LAYOUT.flat(LAYER)

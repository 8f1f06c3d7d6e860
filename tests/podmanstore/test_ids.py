"""Names of layers, links and documents: fixed for ever, for users' own images hold them."""

import pytest

from podmanstore.ids import LINK_LENGTH, big_data_name, chain_ids, held_id, layer_id, link_name, shim_id
from tests.podmanstore.holding import sha

A, B = "a" * 64, "b" * 64


def test_a_base_layer_is_named_by_its_diff_id() -> None:
    """As a pull names it: not by the blob, and not hashed."""
    assert layer_id("", A) == A


def test_a_layer_on_a_parent_hashes_both() -> None:
    """Hex digits joined by a plus, without an algorithm's name: containers/image's rule and not OCI's chain id."""
    assert layer_id(A, B) == sha(f"{A}+{B}")
    assert chain_ids([A, B, A]) == [A, sha(f"{A}+{B}"), sha(f"{sha(f'{A}+{B}')}+{A}")]
    assert chain_ids([]) == []


def test_ids_that_no_pull_asks_for() -> None:
    """What stands for a layer by itself and for a shim never has the id of a layer on a parent."""
    assert held_id(A) == sha(f"cvmfs-podmanstore layer sha256:{A}")
    assert shim_id(A) == sha(f"cvmfs-podmanstore shim {A}")
    assert len({held_id(A), shim_id(A), layer_id("", A)}) == 3


def test_link_names_do_not_change() -> None:
    """A user's own layers keep them in their files; short, for podman 4 has one page for all of a stack."""
    assert link_name(A) == "77QFJ7T24D"
    assert len(link_name(B)) == LINK_LENGTH


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("manifest", "manifest"),
        ("abc.1", "abc.1"),
        ("sha256:ab", "=c2hhMjU2OmFi"),
        ("manifest-sha256:ab", "=bWFuaWZlc3Qtc2hhMjU2OmFi"),
        ("Upper", "=VXBwZXI="),
    ],
)
def test_files_of_documents(key: str, name: str) -> None:
    """A plain key is its file's name, any other is base64 with its padding."""
    assert big_data_name(key) == name

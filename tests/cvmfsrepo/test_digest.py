"""A digest is parsed or refused; nothing else ever becomes part of a path."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfsrepo.digest import Digest, chain_id
from cvmfsrepo.errors import InvalidArgument

HEX = "0123456789abcdef" * 4
BAD_HEX = [
    "",
    "a" * 63,
    "a" * 65,
    "A" * 64,
    "g" * 64,
    HEX + "\n",
    "\n" + HEX,
    "٣" * 64,
    "../" * 21 + "a",
    "a" * 63 + "\0",
]


@pytest.mark.parametrize(
    "text",
    [
        *(f"sha256:{digits}" for digits in BAD_HEX),
        *("x", ":", HEX, f"SHA256:{HEX}", f"sha512:{HEX}", f" sha256:{HEX}", f"sha256:{HEX}:", f"sha256::{HEX}"),
        *(f"sha256:{HEX} ", f"sha256:{HEX}@sha256:{HEX}", "sha256:../../etc", f"sha256 :{HEX}", f":{HEX}"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """What is not exactly `sha256:<64 hex>` is InvalidArgument, naming the input that the caller named."""
    with pytest.raises(InvalidArgument, match=r"^layer label "):
        Digest.parse(text, "layer label")


@pytest.mark.parametrize("digits", BAD_HEX)
def test_hex_cannot_be_smuggled_in(digits: str) -> None:
    """The constructor checks as well: a Digest in hand is always good for a path."""
    with pytest.raises(InvalidArgument):
        Digest(digits)


@given(st.text())
def test_text_parses_back_or_is_refused(text: str) -> None:
    """No text makes another error than InvalidArgument, and what is accepted is spelled the same again."""
    try:
        assert str(Digest.parse(text)) == text
    except InvalidArgument:
        pass


def test_round_trip_order_and_hash() -> None:
    """Digests are values: equal, hashable, ordered by their digits."""
    one, two = Digest.of(b""), Digest.parse(f"sha256:{hashlib.sha256(b'').hexdigest()}")
    assert {one: 1}[two] == 1
    assert sorted([Digest("b" * 64), Digest("a" * 64)])[0].hex == "a" * 64


def test_chain_id_is_oci_s() -> None:
    """One layer: its diff id; more: the digest of `<chain> <diff id>`, base first."""
    a, b, c = (Digest.of(name) for name in (b"a", b"b", b"c"))
    ab = Digest.of(f"{a} {b}".encode())
    assert chain_id([a]) == a
    assert chain_id(iter([a, b, c])) == Digest.of(f"{ab} {c}".encode())
    with pytest.raises(InvalidArgument, match="empty"):
        chain_id([])

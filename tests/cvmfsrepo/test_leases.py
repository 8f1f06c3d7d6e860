"""The format of leases: what is written is read, and nothing else is."""

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.leases import lease_of, parse_leases

LEASE = lease_of("n1", 1_800_000_000, frozenset({Digest.of(b"b"), Digest.of(b"a")}))


def test_there_and_back() -> None:
    """Several nodes may stand in one feed; the same digests always give the same bytes."""
    other = lease_of("n2", 1, frozenset())
    assert parse_leases(LEASE.encode() + other.encode(), "feed") == (LEASE, other)
    assert LEASE.encode().count(b"\n") == 1
    assert list(LEASE.digest_texts) == sorted(LEASE.digest_texts)


def test_keys_may_be_added() -> None:
    """By a later minor change."""
    assert parse_leases(LEASE.encode().replace(b"{", b'{"more":1,', 1), "feed") == (LEASE,)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"{}", b"[]", LEASE.encode()[:-20], LEASE.encode().replace(b'"version":1', b'"version":2'),
        LEASE.encode().replace(b"cvmfs-leases", b"other"), LEASE.encode().replace(b"sha256:", b"sha512:"), b"\xff",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(content: bytes) -> None:
    """All of the feed: what a node uses must never be taken for unused."""
    with pytest.raises(DataLoss, match="the feed"):
        parse_leases(content, "the feed")

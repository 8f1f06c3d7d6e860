"""The address of the monitoring port: what is one, and what is refused before anything starts."""

import re

import pytest

from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.web import parse_address
from snapshotter.config import Config, check


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9400", ("127.0.0.1", 9400)),
        ("localhost:1", ("localhost", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("node-1.example.org:9400", ("node-1.example.org", 9400)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """A name or an address, and a port; that of IPv6 in brackets."""
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        ":9400", "9400", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:65536", "127.0.0.1:٣",
        "::1:9400", "[::1]", "[]:1", "[127.0.0.1]:1", "http://h:1", "h:1/metrics", "a b:1", "h: 1", "unix:/run/x",
        "127.0.0.1:" + "9" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    """Is refused with the configuration, in a sentence that shows the form."""
    with pytest.raises(InvalidArgument, match=re.escape("write HOST:PORT, such as 127.0.0.1:9400")):
        check(Config(metrics_address=text))

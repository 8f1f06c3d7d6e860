"""Where leases come from, when they end, and that nothing is guessed where they cannot be read."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from cvmfsrepo.leases import lease_of
from publisher.collecting.leasing import DAY, leased_digests

NOW = 2_000_000_000
A, B = Digest.of(b"a"), Digest.of(b"b")


class _Feed(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/leases":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(
                lease_of("n1", NOW, frozenset({A})).encode() + lease_of("n2", NOW, frozenset({B})).encode()
            )
        else:
            self.send_error(503)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def feed() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Feed) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def read(*sources: str | Path) -> dict[Digest, str]:
    return leased_digests(map(str, sources), NOW, 14, lambda message: pytest.fail(message))


def test_files_directories_and_feeds(tmp_path: Path, feed: str) -> None:
    """Of a directory the *.json files: what a node is about to write begins with a dot."""
    (tmp_path / "n1.json").write_bytes(lease_of("n1", NOW, frozenset({A})).encode())
    (tmp_path / ".new-x").write_bytes(b"half")
    assert read(tmp_path) == read(tmp_path / "n1.json") == {A: "n1"}
    assert read(f"{feed}/leases") == {A: "n1", B: "n2"}


def test_an_old_lease_protects_nothing_and_is_told(tmp_path: Path) -> None:
    """By its own time, not by the file's; one day before its end it still does."""
    told = list[str]()
    (tmp_path / "n1.json").write_bytes(lease_of("n1", int(NOW - 15 * DAY), frozenset({A})).encode())
    (tmp_path / "n2.json").write_bytes(lease_of("n2", int(NOW - 13 * DAY), frozenset({B})).encode())
    assert leased_digests([str(tmp_path)], NOW, 14, told.append) == {B: "n2"}
    assert told == ["lease of node 'n1' is 15 days old and protects nothing any more"]


@pytest.mark.parametrize("source", ["none", "empty", "bad", "{feed}/none", "ftp://localhost/x", "http://127.0.0.1:1/x"])
def test_what_cannot_be_read_stops(tmp_path: Path, feed: str, source: str) -> None:
    """A directory without leases may be a mount that is not there."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").write_text("{")
    with pytest.raises(ContractError):
        read(source.format(feed=feed) if "://" in source or "feed" in source else tmp_path / source)

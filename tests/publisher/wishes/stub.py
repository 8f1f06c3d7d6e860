"""A registry of several images over HTTP on the loopback: manifests by tag and digest, blobs, tags and catalogue."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cvmfsrepo.digest import Digest
from tests.images.ocilayout import Image


@dataclass(slots=True)
class Stub:
    """`images` and `indexes` by `repository:tag`; `statuses` answers what a path contains with a status, `garbage` with
    nonsense."""

    address: str = ""
    images: dict[str, Image] = field(default_factory=dict)
    indexes: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    garbage: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, bytes, str]:
        for part, status in self.statuses.items():
            if part in path:
                return status, b"{}", ""
        if any(part in path for part in self.garbage):
            return 200, b"\x00nonsense", ""
        if path.startswith("/v2/_catalog"):
            names = sorted({name.partition(":")[0] for name in self.images})
            return 200, json.dumps({"repositories": names}).encode(), ""
        repository, _, rest = path.removeprefix("/v2/").partition("/tags/list")
        if rest or path.endswith("/tags/list"):
            tags = [name.partition(":")[2] for name in self.images if name.startswith(f"{repository}:")]
            return 200, json.dumps({"name": repository, "tags": tags}).encode(), ""
        return self._object(path)

    def _object(self, path: str) -> tuple[int, bytes, str]:
        kind = "/manifests/" if "/manifests/" in path else "/blobs/"
        repository, _, name = path.removeprefix("/v2/").partition(kind)
        for key, index in self.indexes.items():
            digest = str(Digest.of(index))
            if key == f"{repository}:{name}" or (key.startswith(f"{repository}:") and name == digest):
                return 200, index, digest
        tagged = self.images.get(f"{repository}:{name}")
        digest = tagged.manifest if tagged else name
        mine = (image for key, image in self.images.items() if key.startswith(f"{repository}:"))
        paths = (image.blob(digest) for image in ((tagged,) if tagged else mine))
        found = next((path for path in paths if path.is_file()), None)
        return (200, found.read_bytes(), digest) if found else (404, b"{}", "")


@contextmanager
def running(stub: Stub) -> Iterator[Stub]:
    """Serves until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _answers(stub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.address = f"127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answers(stub: Stub) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # as registries do; headers and body are written one after the other

        def do_GET(self) -> None:
            stub.requests.append(f"{self.command} {self.path}")
            status, content, digest = stub.answer(self.path)
            self.send_response(status)
            if digest:
                self.send_header("Docker-Content-Digest", digest)
            if status == 429:
                self.send_header("Retry-After", "120")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of the base class
            pass

    return Answers

"""A registry of one repository over HTTP on the loopback, which can be told to fail in each way a registry does."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.images.ocilayout import Image

NAME = "group/image"
LOGIN = base64.b64encode(b"user:word").decode()


@dataclass(slots=True)
class Behaviour:
    """`statuses` answers a path's end with a status, `stumbles` as often as it says and then no more, with
    `retry_after`; blobs are cut (`cuts` times) or held after so many bytes; `ranges` gives the rest of a blob;
    `basic` or `token` asks for a login, and `tokens` counts the ones given out."""

    stumbles: dict[str, list[int]] = field(default_factory=dict)
    retry_after: str = ""
    cuts: int = 1000
    ranges: bool = False
    statuses: dict[str, int] = field(default_factory=dict)
    cut_after: int | None = None
    hold_after: int | None = None
    basic: bool = False
    token: bool = False
    tokens: int = 0
    requests: list[str] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Stub:
    """A running registry."""

    address: str
    behaviour: Behaviour

    @property
    def source(self) -> str:
        return f"docker://{self.address}/{NAME}:1"


@contextmanager
def stub_registry(image: Image) -> Iterator[Stub]:
    """Serves the image of a layout as `group/image:1` until the block ends."""
    behaviour = Behaviour()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _answers(image, behaviour))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that was killed is no news
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Stub(f"127.0.0.1:{server.server_port}", behaviour)
    finally:
        behaviour.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _answers(image: Image, behaviour: Behaviour) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            behaviour.requests.append(self.path)
            if self.path.startswith("/token"):
                behaviour.tokens += 1
                self._send(200, b'{"token": "t%d"}' % behaviour.tokens)
                return
            status = next((s for end, s in behaviour.statuses.items() if self.path.endswith(end)), 200)
            for end, statuses in behaviour.stumbles.items():
                status = statuses.pop(0) if statuses and self.path.endswith(end) else status
            path = _find(image, self.path)
            if self._is_stranger():
                self._send(401, b"{}")
            elif status != 200 or path is None:
                self._send(status if status != 200 else 404, b'{"errors": [{"message": "as told"}]}')
            elif behaviour.ranges and (wanted := self.headers.get("Range")):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                self._send(206, path.read_bytes()[start:], True, start)
            else:
                self._send(200, path.read_bytes(), "/blobs/" in self.path)

        do_HEAD = do_GET

        def _is_stranger(self) -> bool:
            wanted = f"Bearer t{behaviour.tokens}" if behaviour.token else f"Basic {LOGIN}"
            return (behaviour.token or behaviour.basic) and self.headers.get("Authorization") != wanted

        def _send(self, status: int, content: bytes, is_blob: bool = False, start: int = 0) -> None:
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{start + len(content)}")
            if behaviour.retry_after and status in (429, 503):
                self.send_header("Retry-After", behaviour.retry_after)
            if status == 401:
                realm = f'Bearer realm="http://{self.headers["Host"]}/token",service="stub",scope="pull"'
                self.send_header("WWW-Authenticate", 'Basic realm="stub"' if behaviour.basic else realm)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "HEAD":
                return
            cut = behaviour.cut_after if is_blob and behaviour.cuts > 0 else None
            behaviour.cuts -= cut is not None
            hold = behaviour.hold_after if is_blob else None
            if hold is not None and len(content) > hold:
                self.wfile.write(content[:hold])
                self.wfile.flush()
                behaviour.held.set()
                behaviour.released.wait(60)
                self.close_connection = True
                return
            self.wfile.write(content[:cut])
            self.close_connection = cut is not None

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of the base class
            pass

    return Answers


def _find(image: Image, path: str) -> Path | None:
    prefix = f"/v2/{NAME}/"
    kind, _, name = path.removeprefix(prefix).partition("/")
    digest = image.manifest if (kind, name) == ("manifests", "1") else name
    found = image.blob(digest)
    return found if path.startswith(prefix) and name and found.is_file() else None

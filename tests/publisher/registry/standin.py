"""A registry on the loopback that answers each path as a test says, with or without TLS, and remembers what it was
asked and by which connection."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.images.ocilayout import Image

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True)
class Answer:
    """`length` is the Content-Length, where it is not that of the content."""

    content: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; `connection` counts from 0."""

    method: str
    path: str
    headers: Mapping[str, str]
    connection: int
    body: bytes = b""

    @property
    def authorization(self) -> str:
        return self.headers.get("Authorization", "")


@dataclass(slots=True)
class Standin:
    """`answers` by path, or by method and path; what is not there is 404. A function makes an answer of a request.
    Where one is cut short, its connection is closed when `before_close` is set."""

    address: str = ""
    answers: dict[str, Answer | Callable[[Asked], Answer]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    before_close: threading.Event | None = None

    @property
    def lines(self) -> list[str]:
        """What was asked, in its order."""
        return [f"{asked.method} {asked.path}" for asked in self.asked]

    def serve(self, image: Image, name: str = "group/image", tag: str = "1") -> None:
        """Manifest and blobs of an image, as registries give them."""
        manifest = image.blob(image.manifest).read_bytes()
        headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": image.manifest}
        for reference in (tag, image.manifest):
            self.answers[f"/v2/{name}/manifests/{reference}"] = Answer(manifest, headers=headers)
        for digest in (image.config, *image.layers):
            self.answers[f"/v2/{name}/blobs/{digest}"] = Answer(image.blob(digest).read_bytes())

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        found = self.answers.get(f"{asked.method} {asked.path}") or self.answers.get(asked.path)
        if found is None:
            return Answer(b'{"errors": []}', 404)
        return found if isinstance(found, Answer) else found(asked)


def listed(key: str, *names: str, following: str = "", **headers: str) -> Answer:
    """One page of a list."""
    link = {"Link": f'<{following}>; rel="next"'} if following else {}
    return Answer(json.dumps({key: names}).encode(), headers={"Content-Type": "application/json", **link, **headers})


@contextmanager
def standing(standin: Standin, tls: ssl.SSLContext | None = None) -> Iterator[Standin]:
    """Serves until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _answering(standin))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who does not trust us is no news
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    standin.address = f"127.0.0.1:{server.server_port}"
    try:
        yield standin
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answering(standin: Standin) -> type[BaseHTTPRequestHandler]:
    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # as registries do; headers and body are written one after the other

        def setup(self) -> None:
            super().setup()
            self._connection, standin.connections = standin.connections, standin.connections + 1

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(self.command, self.path, dict(self.headers.items()), self._connection, body)
            answer = standin.answer(asked)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            length = len(answer.content) if answer.length is None else answer.length
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD" and answer.status != 304:
                self.wfile.write(answer.content)
                self.close_connection = length != len(answer.content)
                if self.close_connection and standin.before_close:
                    self.wfile.flush()
                    standin.before_close.wait(60)

        do_HEAD = do_POST = do_CONNECT = do_GET

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of the base class
            pass

    return Answering

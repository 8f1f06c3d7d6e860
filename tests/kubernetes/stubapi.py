"""An API server of one node, on the loopback with TLS: it keeps labels and remembers what was asked of it."""

import http.server
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NODE = "node-1.example.org"
TOKEN = "a token of the node's pod"


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass
class StubApi:
    """`labels` are the node's; `refusal` is what is answered instead, status and message, while it is set."""

    port: int
    account: Path
    """As a pod has it: `token` and `ca.crt`."""
    labels: dict[str, str] = field(default_factory=lambda: {"kubernetes.io/hostname": NODE})
    refusal: tuple[int, str] | None = None
    asked: list[Asked] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What the kubelet tells a pod."""
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    def answer(self, asked: Asked) -> tuple[int, object]:
        """As the real one merges a patch: None removes."""
        self.asked.append(asked)
        if self.refusal:
            status, message = self.refusal
            return status, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message}
        for key, value in asked.body["metadata"]["labels"].items():
            if value is None:
                self.labels.pop(key, None)
            else:
                self.labels[key] = value
        metadata = {"name": NODE, "labels": self.labels, "managedFields": []}
        return 200, {"kind": "Node", "apiVersion": "v1", "metadata": metadata, "spec": {}, "status": {}}


def make_certificate(directory: Path) -> None:
    """One for 127.0.0.1 that signs itself: `tls.key` and `ca.crt`."""
    program = shutil.which("openssl")
    if not program:
        pytest.skip("needs openssl, for a certificate")
    subprocess.run(
        [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "tls.key", "-out", "ca.crt"],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip


@contextmanager
def stub_api(directory: Path) -> Iterator[StubApi]:
    """Until the end of the block; `directory` becomes the account's."""
    directory.mkdir(exist_ok=True)
    make_certificate(directory)
    (directory / "token").write_text(f"{TOKEN}\n")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Request)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(directory / "ca.crt", directory / "tls.key")
    server.socket = trust.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    api = _Request.api = StubApi(server.server_address[1], directory)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Request(http.server.BaseHTTPRequestHandler):
    api: StubApi

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, found = self.api.answer(Asked(self.command, self.path, dict(self.headers), body))
        content = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing."""

"""The port for monitoring: three pages over HTTP, read-only, without access control and without encryption.

Whoever can reach the port can read them: image names are not among what they tell, repositories and counts are.
A client cannot harm more than this page: few threads, little to read, and little time for both.
"""

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

from cvmfsrepo.errors import FailedPrecondition, InvalidArgument

AT_ONE_TIME = 16
"""Connections; one more is closed at once. Each has its thread: a silent one holds up no probe."""

SECONDS = 5.0
"""For a whole request and its answer."""

_ADVICE = "write HOST:PORT, such as 127.0.0.1:9400 or [::1]:9400"
_MOST_DIGITS = 5

Page = Callable[[str], tuple[HTTPStatus, str, bytes]]
"""What the request's Accept says -> status, content type, content."""


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`; an address of IPv6 is in brackets. InvalidArgument where it is none."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    if not colon or not host or (":" in host) != is_bracketed or any(c.isspace() or c in "/[]" for c in host):
        raise InvalidArgument("metrics-address", text, "is not host:port", _ADVICE)
    if not (port.isascii() and port.isdigit()) or len(port) > _MOST_DIGITS or int(port) > 65535:
        raise InvalidArgument("metrics-address", text, f"has the port {port!r}, which is none", _ADVICE)
    return host, int(port)


@contextlib.contextmanager
def served_pages(address: str, pages: Mapping[str, Page]) -> Iterator[str]:
    """Serves the pages, by path, until the end; yields where: a port of 0 becomes one that is free.
    FailedPrecondition where the address cannot be had."""
    host, port = parse_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        server = _Server(family, (str(place[0]), port), pages)
    except OSError as error:
        remedy = "take another port; under systemd the unit has no network: see docs/metrics.md"
        raise FailedPrecondition("metrics-address", address, f"cannot be had ({error.strerror})", remedy) from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"{shown}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(http.server.HTTPServer):
    """Takes connections on one thread and answers them on others."""

    def __init__(self, family: int, place: tuple[str, int], pages: Mapping[str, Page]) -> None:
        self.address_family = family
        self.pages = pages
        self._threads = ThreadPoolExecutor(AT_ONE_TIME, "metrics")
        self._room = threading.BoundedSemaphore(AT_ONE_TIME)
        super().__init__(place, _Request)

    def server_bind(self) -> None:
        """Without the look-up of the host's name that the base class does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def server_close(self) -> None:
        super().server_close()
        self._threads.shutdown(wait=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            self._threads.submit(self._answer, request, client_address)
        else:
            self.shutdown_request(request)

    def _answer(self, request: Any, client_address: Any) -> None:
        end = threading.Timer(SECONDS, _end, (request,))
        end.daemon = True
        end.start()
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client went away, or its time was over
        finally:
            end.cancel()
            self.shutdown_request(request)
            self._room.release()


class _Request(http.server.BaseHTTPRequestHandler):
    """One request; the connection ends with it."""

    server: _Server
    server_version, sys_version = "cvmfs-snapshotter", ""
    timeout = SECONDS

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0], self._not_found)
        status, content_type, content = page(self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def _not_found(self, accept: str) -> tuple[HTTPStatus, str, bytes]:
        return HTTPStatus.NOT_FOUND, "text/plain", f"there are {', '.join(self.server.pages)}\n".encode()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: a scrape every few seconds is no event."""


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

"""A small port over HTTP, without encryption: pages that are read, and places that take what is posted.

Whoever can reach the port can read its pages. A client cannot harm more than that: few threads, little to read, and
little time for both. http.server of the standard library is enough, for what it lacks against hostile clients is a
bound on threads and on time, and both stand here.
"""

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from io import BufferedIOBase
from typing import Any

from cvmfsrepo.errors import FailedPrecondition, InvalidArgument

AT_ONE_TIME = 16
"""Connections; one more is closed at once. Each has its thread: a silent one holds up no probe."""

SECONDS = 5.0
"""For a whole request and its answer."""

_ADVICE = "write HOST:PORT, such as 127.0.0.1:9400 or [::1]:9400"
_MOST_DIGITS = 5
_PASSED_OVER = 16 << 20
"""Bytes that a client may still send to a place that did not want them, so that it gets to read the answer."""

MONITORING = "metrics-address"

Answer = tuple[HTTPStatus, str, bytes]
"""Status, content type, content."""

Page = Callable[[str], Answer]
"""What the request's Accept says -> the answer."""


@dataclass(frozen=True, slots=True)
class Posted:
    """What is posted: its headers, their names in lower case, and `length`, the bytes of its body, None where it does
    not say. `read` gives the body once; it may be less where the client went away."""

    headers: Mapping[str, str]
    length: int | None
    read: Callable[[], bytes]


Place = Callable[[Posted], Answer]


def parse_address(text: str, thing: str = MONITORING) -> tuple[str, int]:
    """Host and port of `host:port`; an address of IPv6 is in brackets. InvalidArgument, about `thing`, where it is
    none."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    if not colon or not host or (":" in host) != is_bracketed or any(c.isspace() or c in "/[]" for c in host):
        raise InvalidArgument(thing, text, "is not host:port", _ADVICE)
    if not (port.isascii() and port.isdigit()) or len(port) > _MOST_DIGITS or int(port) > 65535:
        raise InvalidArgument(thing, text, f"has the port {port!r}, which is none", _ADVICE)
    return host, int(port)


@contextlib.contextmanager
def served_pages(
    address: str, pages: Mapping[str, Page], places: Mapping[str, Place] | None = None, thing: str = MONITORING
) -> Iterator[str]:
    """Serves the pages, by path, and takes what is posted to the places, until the end; yields where: a port of 0
    becomes one that is free. FailedPrecondition, about `thing`, where the address cannot be had."""
    host, port = parse_address(address, thing)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        server = _Server(family, (str(place[0]), port), pages, places or {})
    except OSError as error:
        remedy = "take another port"
        remedy += "; under systemd the unit has no network: see docs/metrics.md" if thing == MONITORING else ""
        raise FailedPrecondition(thing, address, f"cannot be had ({error.strerror})", remedy) from None
    thread = threading.Thread(target=server.serve_forever, name=thing, daemon=True)
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"{shown}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(http.server.HTTPServer):
    """Takes connections on one thread and answers them on others."""

    def __init__(
        self, family: int, place: tuple[str, int], pages: Mapping[str, Page], places: Mapping[str, Place]
    ) -> None:
        self.address_family = family
        self.pages, self.places = pages, places
        self._threads = ThreadPoolExecutor(AT_ONE_TIME, "web")
        self._room = threading.BoundedSemaphore(AT_ONE_TIME)
        super().__init__(place, _Request)

    def server_bind(self) -> None:
        """Without the look-up of the host's name that the base class does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def server_close(self) -> None:
        """What was posted is answered first: it may have been kept already."""
        super().server_close()
        self._threads.shutdown(wait=bool(self.places))

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
        self._send(page(self.headers.get("Accept", "")))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """A body that the place did not want is read and thrown away: a connection that is closed on it is reset, and
        the client never reads why it was refused."""
        place = self.server.places.get(self.path.partition("?")[0])
        length = _length(self.headers.get("Content-Length"))
        body = _Body(self.rfile, length or 0)
        self._send(
            place(Posted({name.lower(): text for name, text in self.headers.items()}, length, body.read))
            if place
            else self._not_found("")
        )
        self.wfile.flush()
        body.pass_over(_PASSED_OVER)

    def _send(self, answer: Answer) -> None:
        status, content_type, content = answer
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _not_found(self, accept: str) -> Answer:
        there = ", ".join([*self.server.pages, *(f"{path} for POST" for path in self.server.places)])
        return HTTPStatus.NOT_FOUND, "text/plain", f"there are {there}\n".encode()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: a scrape every few seconds is no event."""


@dataclass(slots=True)
class _Body:
    """What is left of a request's body."""

    stream: BufferedIOBase
    left: int

    def read(self) -> bytes:
        content = self.stream.read(self.left)
        self.left = 0
        return content

    def pass_over(self, most: int) -> None:
        most = min(most, self.left)
        while most > 0 and (chunk := self.stream.read(min(most, 1 << 16))):
            most -= len(chunk)


def _length(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 16 else None


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

"""The stand-in's control socket: a JSON object a line, an object back, with `error` in it if that went wrong.

The classes below are what can be said: {"do": "clear", "path": "/.layers"} is a `Clear`, {"do": "fault", "kind": …} a
`SwitchOn`.
"""

import json
import os
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cvmfsrepo.faults import Fault, Kind

if TYPE_CHECKING:
    from cvmfsrepo.standin import StandIn


class Request(msgspec.Struct, tag_field="do", tag=str.lower, forbid_unknown_fields=True):
    """One object: `do` says which of the following."""


class Counters(Request):
    """Operations so far, by name and by path."""


class Reset(Request):
    """Count from nothing."""


class Held(Request):
    """How many calls a fault holds now."""


class Clear(Request):
    """Switch off the faults that were switched on with this path, or all."""

    path: str | None = None


class Publish(Request):
    """A new revision, the next if none is named, seen `after` so many seconds: paths hidden, and shown again."""

    revision: int | None = None
    hide: list[str] = []
    show: list[str] = []
    after: float = 0.0


class SwitchOn(Request, tag="fault"):
    """Switch a fault on; see there."""

    kind: Kind
    path: str = "/"
    seconds: float | None = None
    operations: list[str] = []


_decode = msgspec.json.Decoder(Counters | Reset | Held | Clear | Publish | SwitchOn).decode


def answer(standin: "StandIn", line: bytes) -> dict[str, Any]:
    """One request on one line."""
    try:
        request = _decode(line)
        return _answer(standin, request)
    except ValueError as error:
        known = "say counters, reset, fault, clear, held or publish, in one JSON object a line"
        return {"error": f"request {line!r}: not understood ({error}); {known}"}
    except OSError as error:
        return {"error": str(error)}


def _answer(standin: "StandIn", request: Request) -> dict[str, Any]:
    match request:
        case Counters():
            return standin.counters.read()
        case Held():
            return {"held": standin.faults.held}
        case Reset():
            standin.counters.reset()
        case SwitchOn(kind, path, seconds, operations):
            standin.faults.add(Fault(kind, wire(path), seconds, frozenset(operations)))
        case Clear(path):
            standin.faults.clear(path and wire(path))
        case Publish(revision, hide, show, after):
            hidden, shown = frozenset(map(wire, hide)), frozenset(map(wire, show))
            _later(after, lambda: standin.publish(revision, hidden, shown))
    return {}


def wire(path: str) -> str:
    """A path as os.fsdecode gives it, the way libfuse sends it to us: a character a byte."""
    if not path.startswith("/"):
        raise ValueError(f"path {path!r} does not begin with /, the repository's root")
    return os.fsencode(path).decode("latin-1")


def _later(seconds: float, work: Callable[[], None]) -> None:
    if seconds <= 0:
        return work()
    timer = threading.Timer(seconds, work)
    timer.daemon = True
    timer.start()
    return None


def listen(standin: "StandIn", address: Path) -> None:
    """Answer on the control socket, for root alone; the next start replaces the socket's file."""

    class Conversation(socketserver.StreamRequestHandler):
        """One client's requests, a line each."""

        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(json.dumps(answer(standin, line)).encode() + b"\n")

    address.unlink(missing_ok=True)
    server = socketserver.ThreadingUnixStreamServer(str(address), Conversation)
    server.daemon_threads = True
    address.chmod(0o600)
    threading.Thread(target=server.serve_forever, name="control", daemon=True).start()

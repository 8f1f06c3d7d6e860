"""The stand-in's control socket: a JSON object a line, an object back, `error` in it if it was not understood.

    {"do": "counters"}                                        operations so far, by name and by path
    {"do": "reset"}                                           count from nothing
    {"do": "fault", "kind": …, "path": …, "seconds": …, "operations": […]}    switch a fault on; all but kind may lack
    {"do": "clear", "path": …}                                switch off what was switched on with this path, or all
    {"do": "held"}                                            how many calls wait now
    {"do": "publish", "revision": …, "hide": […], "show": […], "after": …}    a new revision, seen after that many seconds
"""

import json
import os
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmfsrepo.faults import Fault, Kind

if TYPE_CHECKING:
    from cvmfsrepo.standin import StandIn

KNOWN = "say counters, reset, fault, clear, held or publish"


def answer(standin: "StandIn", line: bytes) -> dict[str, Any]:
    """One request."""
    try:
        request = json.loads(line)
    except ValueError as error:
        return {"error": f"request {line!r}: not JSON ({error}); send one object a line"}
    try:
        return _answer(standin, request)
    except (ValueError, TypeError, LookupError) as error:
        return {"error": f"request {request!r}: not known ({error}); {KNOWN}"}


def _answer(standin: "StandIn", request: object) -> dict[str, Any]:
    match request:
        case {"do": "counters"}:
            return standin.counters.read()
        case {"do": "reset"}:
            standin.counters.reset()
        case {"do": "fault", "kind": str(kind), **rest}:
            standin.faults.add(parse_fault(kind, **rest))
        case {"do": "clear", **rest}:
            standin.faults.clear(wire(rest["path"]) if "path" in rest else None)
        case {"do": "held"}:
            return {"held": standin.faults.held}
        case {"do": "publish", **rest}:
            _later(float(rest.pop("after", 0)), _publication(standin, **rest))
        case _:
            raise ValueError("no such thing to do")
    return {}


def parse_fault(kind: str, path: str = "/", seconds: float | None = None, operations: tuple[str, ...] = ()) -> Fault:
    """A fault as JSON has it; TypeError or ValueError for anything odd."""
    length = None if seconds is None else float(seconds)
    return Fault(Kind(kind), wire(path), length, frozenset(operations))


def wire(path: str) -> str:
    """A path as os.fsdecode gives it, the way libfuse sends it to us: a character a byte."""
    if not path.startswith("/"):
        raise ValueError(f"path {path!r} does not begin at the repository's root with /")
    return os.fsencode(path).decode("latin-1")


def _publication(
    standin: "StandIn", revision: int | None = None, hide: tuple[str, ...] = (), show: tuple[str, ...] = ()
) -> Callable[[], None]:
    """Checked now, to be carried out when its time has come."""
    if revision is not None and type(revision) is not int:
        raise ValueError(f"revision {revision!r} is no whole number")
    hidden, shown = frozenset(map(wire, hide)), frozenset(map(wire, show))
    return lambda: standin.publish(revision, hidden, shown)


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

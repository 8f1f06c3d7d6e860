"""What watches the daemon from outside: a scraper of its pages, and the socket that systemd would have."""

import contextlib
import http.client
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.snapshotter.daemon import Daemon

_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a scrape."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a page."""

    status: int
    content_type: str
    text: str


def pages_of(daemon: Daemon) -> str:
    """Where the daemon's pages are, as its log says."""
    return next(str(line["metrics"]) for line in reversed(daemon.log_lines()) if line.get("msg") == "serving")


def ask(address: str, path: str, accept: str = "") -> Answer:
    """A page."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path, headers={"Accept": accept} if accept else {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers["Content-Type"] or "", answer.read().decode())
    finally:
        connection.close()


def scrape(address: str) -> list[Sample]:
    """All samples of /metrics; a line that is none fails."""
    answer = ask(address, "/metrics")
    assert answer.status == 200
    return parse_samples(answer.text)


def parse_samples(text: str) -> list[Sample]:
    """The samples of the text format."""
    samples = list[Sample]()
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        found = _SAMPLE.match(line)
        assert found, line
        samples.append(Sample(found[1], dict(_LABEL.findall(found[2] or "")), float(found[3])))
    return samples


def value(samples: list[Sample], name: str, **labels: str) -> float | None:
    """The one sample of a name (without the prefix) with at least these labels; None where there is none."""
    found = [
        sample.value
        for sample in samples
        if sample.name == f"cvmfs_snapshotter_{name}" and labels.items() <= sample.labels.items()
    ]
    assert len(found) <= 1, (name, labels)
    return found[0] if found else None


@dataclass(slots=True)
class NotifySocket:
    """systemd's end of sd_notify: what was said, in order."""

    address: str
    listener: socket.socket
    said: list[dict[str, str]] = field(default_factory=list)

    def hear(self, key: str, containing: str) -> None:
        """Waits for it unless it was said already: a repository may answer before the daemon is ready, or after."""
        if not any(containing in message.get(key, "\0") for message in self.said):
            self.wait_for(key, containing)

    def wait_for(self, key: str, containing: str = "", seconds: float = 15.0) -> dict[str, str]:
        """The next datagram that has the key with such a value; those before it are noted too."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.listener.settimeout(left)
            try:
                text = self.listener.recv(65536).decode()
            except TimeoutError:
                break
            message = dict(line.split("=", 1) for line in text.split("\n"))
            self.said.append(message)
            if containing in message.get(key, "\0"):
                return message
        raise AssertionError(f"never said {key}={containing}: {self.said}")

    def drain(self) -> None:
        """Forgets what was said."""
        self.listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.listener.recv(65536):
                pass
        self.said.clear()


@contextlib.contextmanager
def notify_socket(path: Path) -> Iterator[NotifySocket]:
    """A socket to be named in NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        yield NotifySocket(str(path), listener)

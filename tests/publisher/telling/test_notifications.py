"""Notifications in DUCC's words reach a file and an HTTP endpoint, and never stop a publication."""

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cvmfsrepo.errors import InvalidArgument
from publisher.telling.events import Action, Event
from publisher.telling.notifications import NotificationEndpoint, NotificationFile, notification

EVENT = Event(
    action=Action.END_LAYER,
    id="i",
    at=datetime(2026, 3, 5, 14, 7, 9, 45_000, UTC),
    elapsed=1.5,
    size=0,
    status="ok",
)


@contextmanager
def endpoint(*answers: int) -> Iterator[tuple[str, list[bytes]]]:
    """A server on loopback that gives these statuses in turn, then 200; the bodies it got."""
    got: list[bytes] = []
    left = list(answers)

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(left.pop(0) if left else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            pass

    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", got
        finally:
            server.shutdown()
            thread.join()


def test_a_pipe_that_nobody_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Is not waited for, and is one line in the log."""
    os.mkfifo(tmp_path / "pipe")
    telling = threading.Thread(target=NotificationFile(tmp_path / "pipe").tell, args=(EVENT,), daemon=True)
    telling.start()
    telling.join(60)
    assert not telling.is_alive()
    (record,) = caplog.records
    assert record.getMessage().startswith("notifications cannot be written to")


def test_a_notification_is_one_line_of_strings_in_ducc_s_layout() -> None:
    """The day is padded with a space, a size of nothing is told, an absent error is left out."""
    line = notification(EVENT)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "action": "end_layer_conversion",
        "id": "i",
        "time": " 5 Mar 2026 - 14:07:09.045",
        "time_elapsed_s": "1.500",
        "size_bytes": "0",
        "status": "ok",
    }


def test_two_writers_of_one_file_tear_no_line(tmp_path: Path) -> None:
    """Each line is whole however the writers alternate."""
    path = tmp_path / "notifications"
    event = Event(action=Action.END_RUN, error="e" * 10_000)

    def write() -> None:
        for _ in range(100):
            NotificationFile(path).tell(event)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_bytes().splitlines()
    assert len(lines) == 200
    assert all(json.loads(line)["error"] == event.error for line in lines)


def test_a_file_that_cannot_be_written_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And nothing is raised."""
    caplog.set_level(logging.WARNING)
    teller = NotificationFile(tmp_path / "absent" / "notifications")
    teller.tell(EVENT)
    teller.tell(EVENT)
    assert len(caplog.records) == 1


def test_an_endpoint_gets_each_event_again_until_it_takes_it() -> None:
    """Two refusals, then the third try is taken."""
    with endpoint(503, 500) as (url, got):
        NotificationEndpoint(url, pause=0).tell(EVENT)
    assert got == [notification(EVENT)] * 3


def test_an_endpoint_that_fails_gets_few_tries_and_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Three tries for the first event, one for the second; an event that is taken ends the failure."""
    caplog.set_level(logging.WARNING)
    with endpoint(503, 503, 503, 503) as (url, got):
        teller = NotificationEndpoint(url, pause=0)
        teller.tell(EVENT)
        teller.tell(EVENT)
        assert len(got) == 4
        assert len(caplog.records) == 1
        teller.tell(EVENT)
        assert len(got) == 5


@pytest.mark.parametrize("url", ["file:///etc/passwd", "example.org", "http://"])
def test_an_endpoint_is_a_web_address(url: str) -> None:
    """Anything else is refused before a publication begins."""
    with pytest.raises(InvalidArgument, match="is no web address"):
        NotificationEndpoint(url)

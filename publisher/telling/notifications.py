"""Notifications as DUCC writes them: one JSON object a line, every value a string, to a file or an HTTP endpoint."""

import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from cvmfsrepo.errors import InvalidArgument
from publisher.telling.events import Event

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

log = logging.getLogger(__name__)


def notification(event: Event) -> bytes:
    """One line, with its end; a field that means nothing for the event is left out."""
    fields = {
        "action": event.action.value,
        "id": event.id,
        "time": ducc_time(event.at),
        "time_elapsed_s": "" if event.elapsed is None else f"{event.elapsed:.3f}",
        "size_bytes": "" if event.size is None else str(event.size),
        "image": event.image,
        "layer": event.layer,
        "status": event.status,
        "error": event.error,
    }
    return json.dumps({name: value for name, value in fields.items() if value}).encode() + b"\n"


def ducc_time(at: datetime) -> str:
    """Go's layout `_2 Jan 2006 - 15:04:05.000`, in English whatever the locale."""
    return f"{at.day:2d} {MONTHS[at.month - 1]} {at.year} - {at:%H:%M:%S}.{at.microsecond // 1000:03d}"


@dataclass(slots=True)
class NotificationFile:
    """Appends to a file that other programs may append to as well: each line is one write, so no line is torn."""

    path: Path
    _failing: bool = False
    _torn: bool = False

    def tell(self, event: Event) -> None:
        """A failure is logged when it begins, not for each event."""
        try:
            self._append(notification(event))
            self._failing = False
        except OSError as error:
            if not self._failing:
                log.warning("notifications cannot be written to %s: %s", self.path, error)
            self._failing = True

    def _append(self, line: bytes) -> None:
        line = b"\n" + line if self._torn else line
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe may have no reader
        descriptor = os.open(self.path, flags, 0o644)
        try:
            written = os.write(descriptor, line)
        finally:
            os.close(descriptor)
        self._torn = written < len(line)
        if self._torn:
            raise OSError("only a part of the line was written; is the disk full?")


@dataclass(slots=True)
class NotificationEndpoint:
    """POSTs each notification. `timeout` and `pause` are seconds; an endpoint that has failed gets one try an event
    until it answers again, so that a dead one costs a publication little."""

    url: str
    tries: int = 3
    timeout: float = 5
    pause: float = 0.5
    _failing: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise InvalidArgument("notification endpoint", self.url, "is no web address", "give http:// or https://")

    def tell(self, event: Event) -> None:
        """A failure is logged when it begins, not for each event."""
        error = self._deliver(notification(event), 1 if self._failing else self.tries)
        if error is not None and not self._failing:
            log.warning("notifications do not reach %s: %s", urlsplit(self.url).hostname, error)
        self._failing = error is not None

    def _deliver(self, line: bytes, tries: int) -> Exception | None:
        last: Exception | None = None
        for attempt in range(tries):
            if attempt:
                time.sleep(self.pause)
            try:
                self._post(line)
                return None
            except urllib.error.HTTPError as error:
                error.close()  # it is the answer, with its connection
                last = error
            except (OSError, http.client.HTTPException) as error:
                last = error
        return last

    def _post(self, line: bytes) -> None:
        request = urllib.request.Request(self.url, line, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=self.timeout):
            pass

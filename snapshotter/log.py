"""Logging as JSON lines on standard error, one event a line, for journald and whoever reads it with jq.

Every line holds `time`, `level`, `msg` (containerd's names for them) and `logger`; the fields of the event follow. A
line is ASCII and holds no line break, whatever a label or a file name contains: other text is escaped by JSON's rules.
Keys are a contract with those who search for them: they are changed like an API.
"""

import json
import logging
import math
import sys
from collections.abc import Mapping, Set
from datetime import UTC, datetime

_RESERVED = ("time", "level", "msg", "logger", "error")
_DEEPEST = 5

LEVELS = ("debug", "info", "warning", "error")


def configure(level: str) -> None:
    """Sends the whole process's log to standard error, from this level on; a second call replaces the first.

    `level` is one of LEVELS; anything else is a ValueError.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r}: unknown; use one of {', '.join(LEVELS)}")
    handler = _Handler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def event(logger: logging.Logger, level: int, message: str, /, **fields: object) -> None:
    """Logs a constant message with what varies as fields; costs next to nothing below the logger's level."""
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={"fields": fields}, stacklevel=2)


class JsonLines(logging.Formatter):
    """A record as one JSON object. A field that has a reserved name gets an underscore behind it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        line: dict[str, object] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            "logger": record.name,
        }
        fields = getattr(record, "fields", {})
        for key, value in fields.items() if isinstance(fields, Mapping) else ():
            line[f"{key}_" if key in _RESERVED else str(key)] = plain(value)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, allow_nan=False)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with nine digits, of which a float gives about seven."""
    whole = math.floor(seconds)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{int((seconds - whole) * 1e9):09}Z"


def plain(value: object, depth: int = 0) -> object:
    """A value that JSON can hold: bytes as text with escapes, whatever is too deep or unknown as its str()."""
    match value:
        case None | bool() | str():
            return value
        case int():
            bits = value.bit_length()
            return int(value) if bits < 64 else f"<integer of {bits} bits>"
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes() | bytearray():
            return value.decode("utf-8", "backslashreplace")
        case _ if depth >= _DEEPEST:
            return f"<{type(value).__name__}>"
        case Mapping():
            return {str(key): plain(item, depth + 1) for key, item in value.items()}
        case list() | tuple() | Set():
            return [plain(item, depth + 1) for item in value]
    return str(value)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic in stubs only
    """A stream handler whose own failures are log lines too, not tracebacks between them."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by logging inside its except clause, for a value whose str() fails and the like."""
        kind = sys.exc_info()[0]
        line = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "msg": "an event could not be logged",
            "logger": record.name,
            "reason": kind.__name__ if kind else "",
            "where": f"{record.pathname}:{record.lineno}",
        }
        try:
            self.stream.write(json.dumps(line) + self.terminator)
        except (OSError, ValueError):
            pass  # the stream is closed or full: there is nowhere left to say so

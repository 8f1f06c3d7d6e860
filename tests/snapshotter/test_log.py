"""The log: JSON lines that nothing can break."""

import io
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter import log

LOGGER = logging.getLogger("tests.log")


class Unspeakable:
    """A value that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.fixture(autouse=True)
def _own_root_logger() -> Iterator[None]:
    """The root logger is put back after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """What was logged: lines of ASCII, each an object."""
    written = capsys.readouterr().err
    assert written.isascii()
    return [json.loads(line) for line in written.splitlines()]


def test_an_event_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Time, level, message and logger come first, then the fields as they were given."""
    log.configure("info")
    log.event(LOGGER, logging.INFO, "remote layer", key="k", layers=3, hit=True, parent=None)
    (line,) = lines(capsys)
    assert list(line)[:4] == ["time", "level", "msg", "logger"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", str(line.pop("time")))
    assert line == {
        "level": "info", "msg": "remote layer", "logger": "tests.log",
        "key": "k", "layers": 3, "hit": True, "parent": None,
    }  # fmt: skip


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing below the configured level is written; an unknown level is refused by name."""
    log.configure("warning")
    log.event(LOGGER, logging.INFO, "quiet")
    log.event(LOGGER, logging.WARNING, "loud")
    assert [line["msg"] for line in lines(capsys)] == ["loud"]
    with pytest.raises(ValueError, match="log level 'verbose': unknown; use one of debug, info"):
        log.configure("verbose")


def test_configuring_again_replaces(capsys: pytest.CaptureFixture[str]) -> None:
    """Two calls do not write each line twice."""
    log.configure("debug")
    log.configure("info")
    log.event(LOGGER, logging.INFO, "once")
    assert len(lines(capsys)) == 1


def test_plain_logging_calls_and_exceptions_come_out_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Libraries log with arguments and tracebacks, and warn; all of it is one line each."""
    log.configure("info")
    try:
        raise OSError(5, "Input/output error")
    except OSError:
        LOGGER.exception("cannot read %s", "x")
    warnings.simplefilter("always")
    warnings.warn("old", stacklevel=1)
    first, second = lines(capsys)
    assert first["msg"] == "cannot read x"
    assert "OSError: [Errno 5]" in str(first["error"])
    assert (second["logger"], second["level"]) == ("py.warnings", "warning")


def test_odd_values_are_written_readably(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes, paths that are not UTF-8, infinities, huge numbers, exceptions, sets and cycles all have a form."""
    log.configure("info")
    cycle: list[object] = []
    cycle.append(cycle)
    log.event(
        LOGGER, logging.INFO, "line\nbreak", raw=b"a\xff\n", path=Path("/a\udcff"), inf=float("inf"), big=10**5000,
        error=OSError(2, "gone"), level="mine", some={"x"}, cycle=cycle, nested={1: [b"b"]},
    )  # fmt: skip
    (line,) = lines(capsys)
    assert line["msg"] == "line\nbreak"
    assert (line["raw"], line["path"], line["inf"]) == ("a\\xff\n", "/a\udcff", "inf")
    assert line["big"] == "<integer of 16610 bits>"
    assert (line["error_"], line["level_"]) == ("[Errno 2] gone", "mine")
    assert (line["some"], line["nested"]) == (["x"], {"1": ["b"]})
    assert line["cycle"] == [[[[["<list>"]]]]]


def test_an_event_that_cannot_be_shown_is_still_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A value whose str() fails, or arguments that do not fit the message, cost the event but not the log."""
    log.configure("info")
    log.event(LOGGER, logging.ERROR, "lost", value=Unspeakable())
    LOGGER.info("%d", "x")
    first, second = lines(capsys)
    assert (first["msg"], first["reason"]) == ("an event could not be logged", "RuntimeError")
    assert (second["reason"], second["level"]) == ("TypeError", "info")
    assert "test_log.py" in str(first["where"])


def test_a_closed_stream_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """When standard error is gone the program goes on."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log.configure("info")
    stream.close()
    log.event(LOGGER, logging.INFO, "to nobody")


def test_timestamps() -> None:
    """Nine digits, UTC, and no rounding up into the next second."""
    assert log.timestamp(0) == "1970-01-01T00:00:00.000000000Z"
    assert log.timestamp(1.5) == "1970-01-01T00:00:01.500000000Z"
    assert log.timestamp(1700000000.9999995).startswith("2023-11-14T22:13:20.99999")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@given(message=st.text(st.characters()), fields=st.dictionaries(st.text(st.characters()), VALUES))
def test_every_event_is_one_valid_line(message: str, fields: dict[str, object]) -> None:
    """Whatever is logged, a strict JSON reader gets one object from one line of ASCII."""
    record = logging.LogRecord("n", logging.INFO, "p", 1, message, (), None)
    record.fields = fields
    line = log.JsonLines().format(record)
    assert line.isascii()
    assert "\n" not in line

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(line, parse_constant=refuse)["msg"] == message


def test_the_log_goes_to_standard_error_only() -> None:
    """Standard output stays free for what a command prints."""
    script = "import logging; from snapshotter import log; log.configure('info'); logging.getLogger('x').info('y')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert json.loads(done.stderr)["msg"] == "y"

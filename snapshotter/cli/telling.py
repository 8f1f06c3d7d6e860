"""How far a long command is: a line on a terminal's standard error that is written over, nothing for a program."""

import sys
import time
from types import TracebackType
from typing import Self

from snapshotter.cli.output import printable

_STEP = 0.2
"""Seconds between two lines."""


class Telling:
    """A context manager; the line is gone at its end."""

    def __init__(self) -> None:
        self._is_seen = sys.stderr.isatty()
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._is_seen and self._last:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if self._is_seen and now - self._last >= _STEP:
            self._last = now
            sys.stderr.write(f"\r\033[K{printable(text)[:100]}")
            sys.stderr.flush()

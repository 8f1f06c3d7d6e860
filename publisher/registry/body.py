"""A blob as a stream, over as many connections as it takes."""

import io
from collections.abc import Callable
from typing import NoReturn

from publisher.registry.wire import Response, interrupt
from publisher.unpacking.stream import CHUNK

RESUMES = 5
"""Times that one blob may break off."""


class Body(io.RawIOBase):
    """A response's content. Where the connection breaks, `resume` is asked for the rest, with the bytes that are there
    and the number of breaks; a blob that is broken for good is told by `lost`."""

    def __init__(
        self, response: Response, lost: Callable[[OSError], NoReturn], resume: Callable[[int, int], Response | None]
    ) -> None:
        super().__init__()
        self._response, self._lost, self._resume = response, lost, resume
        self._chunks, self._rest = response.iter_content(CHUNK), memoryview(b"")
        self._count = self._broken = 0
        self._interrupted = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """At most one chunk of the response."""
        while not self._rest:
            try:
                chunk = next(self._chunks, None)
            except OSError as error:
                self._go_on(error)
                continue
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
            self._count += len(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def interrupt(self) -> None:
        """Makes a read fail that another thread is in, and each one after it."""
        self._interrupted = True
        interrupt(self._response)

    def close(self) -> None:
        """Waits for no thread that still reads, as the response's own end would."""
        self.interrupt()
        self._response.close()
        super().close()

    def _go_on(self, error: OSError) -> None:
        if self._interrupted:
            raise error
        self._broken += 1
        rest = self._resume(self._count, self._broken) if self._broken <= RESUMES else None
        if rest is None:
            self._lost(error)
        self._response.close()
        self._response, self._chunks = rest, rest.iter_content(CHUNK)

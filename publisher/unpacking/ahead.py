"""Work that runs ahead of whoever needs its results: the next pieces of a layer are decompressed and hashed, which
Python does without its lock, while files of the last ones are being made."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final

PIECES: Final = 8
"""Pieces that may be ready and not taken: with pieces of 1 MiB, so many MiB for each layer."""
_LOOK: Final = 0.1
"""Seconds after which a producer that finds no room looks whether anybody still wants its pieces."""
_GRACE: Final = 5.0
"""Seconds that a producer gets to end when its source was told to give nothing more."""


class Ahead:
    """The pieces of an iterator, made by a thread of its own. It has to be stopped; `interrupt` makes the iterator's
    source give nothing more to a thread that waits for it."""

    def __init__(self, pieces: Iterator[bytes], interrupt: Callable[[], None] = lambda: None) -> None:
        self._pieces, self._interrupt = pieces, interrupt
        self._ready = queue.Queue[bytes | BaseException](PIECES)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)
        self._thread.start()
        self._last: bytes | BaseException | None = None

    def take(self) -> bytes:
        """The next piece; b"" at the end. What the iterator raises is raised here, after the pieces before it."""
        if self._last is None:
            found = self._ready.get()
            if found == b"" or isinstance(found, BaseException):
                self._last = found
        else:
            found = self._last
        if isinstance(found, BaseException):
            raise found
        return found

    def stop(self) -> None:
        """Nobody wants more pieces. The thread ends with the one that it is at; one that waits for a source that does
        not answer is left behind: a command that is told to end must not wait for a registry."""
        self._stopped.set()
        self._thread.join(_LOOK)
        if self._thread.is_alive():
            self._interrupt()
            self._thread.join(_GRACE)

    def _run(self) -> None:
        try:
            for piece in self._pieces:
                if piece and not self._put(piece):
                    return
        except BaseException as error:  # noqa: BLE001 - whoever takes the next piece raises it
            self._put(error)
            return
        self._put(b"")

    def _put(self, found: bytes | BaseException) -> bool:
        while not self._stopped.is_set():
            try:
                self._ready.put(found, timeout=_LOOK)
                return True
            except queue.Full:
                pass
        return False

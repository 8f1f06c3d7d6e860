"""How far a publication is, for a person who looks at it: bytes, rate and layers. Nothing where nobody looks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn


class Listener(Protocol):
    """What a publication tells while it runs."""

    def begin(self, layers: int, size: int) -> None:
        """So many layers of so many compressed bytes are to be read."""

    def advance(self, count: int) -> None:
        """Bytes of a layer were read."""

    def layer_done(self) -> None:
        """A layer is unpacked and verified."""


class Silent:
    """Tells nobody."""

    def begin(self, layers: int, size: int) -> None:
        pass

    def advance(self, count: int) -> None:
        pass

    def layer_done(self) -> None:
        pass


class Bar:
    """A line that moves on a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._layers = self._done = 0

    def begin(self, layers: int, size: int) -> None:
        self._layers = layers
        self._task = self._progress.add_task("publishing", total=size, layers=f"0/{layers} layers")

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, count)

    def layer_done(self) -> None:
        self._done += 1
        if self._task is not None:
            self._progress.update(self._task, layers=f"{self._done}/{self._layers} layers")


@contextmanager
def shown(console: Console) -> Iterator[Listener]:
    """A bar on the console while the block runs; silence where it is no terminal."""
    if not console.is_terminal:
        yield Silent()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TextColumn("{task.fields[layers]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress)

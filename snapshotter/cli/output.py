"""What a command shows: tables for people, one JSON document for machines, progress on standard error.

JSON has the fields of the value that is shown, by their names in `snapshotter.admin.values` and its like: they are
changed like an API. Times in it are integer nanoseconds since 1970, sizes are bytes, what is not known is null.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
import msgspec

if TYPE_CHECKING:  # rich is slow to import, and --help and --json need not wait for it
    from rich.table import Table

_NOT_A_TERMINAL = 100_000
"""Columns of what is read by a program: no line is broken."""

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_SECOND = 10**9


class Output:
    """One command's output; `as_json` is its option --json."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, value: object, print_it: Callable[[], object]) -> None:
        """The value as JSON, or what `print_it` prints of it."""
        if self.as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
        else:
            print_it()

    def line(self, text: str = "") -> None:
        """A line that is never broken nor coloured: it may hold names that somebody else chose."""
        click.echo(printable(text))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table; columns whose name begins with > are numbers. On a terminal long cells are folded, not cut."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            right = column.startswith(">")
            table.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self._print(table)

    def facts(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Names and what they are, one a line, aligned."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, what in pairs:
            table.add_row(Text(name), Text(printable(what)))
        self._print(table)

    def progress(self, text: str) -> None:
        """A line on standard error."""
        click.echo(printable(text), err=True)

    def _print(self, table: "Table") -> None:
        """On a terminal as it comes; for a program without the blanks that fill a column."""
        from rich.console import Console

        if sys.stdout.isatty():
            Console(highlight=False).print(table)
            return
        console = Console(highlight=False, width=_NOT_A_TERMINAL, color_system=None)
        with console.capture() as captured:
            console.print(table)
        for line in captured.get().splitlines():
            click.echo(line.rstrip())


def printable(text: str) -> str:
    """The text without what would steer a terminal: names come from labels and repositories."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def size(count: int | None) -> str:
    """Bytes for people, in powers of 1000."""
    if count is None:
        return "unknown"
    amount, unit = float(count), 0
    while amount >= 999.95 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{count} B" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"


def moment(nanoseconds: int | None) -> str:
    """A time for people, in UTC; "-" where there is none."""
    return f"{datetime.fromtimestamp(nanoseconds // _SECOND, UTC):%Y-%m-%d %H:%M:%S} UTC" if nanoseconds else "-"


def ago(nanoseconds: int | None) -> str:
    """How long ago a time is."""
    return f"{duration(max(0, time.time_ns() - nanoseconds))} ago" if nanoseconds else "never"


def duration(nanoseconds: int) -> str:
    """A length of time in its two largest units."""
    seconds = nanoseconds // _SECOND
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    shown = [f"{number} {unit}" for number, unit in parts]
    first = next((at for at, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(shown[first : first + 2])


def counted(number: int, thing: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def short(digest: str) -> str:
    """The first digits of a digest, for tables."""
    return digest.removeprefix("sha256:")[:12] or "-"

"""How the commands show many things to people."""

import io
import shutil
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from publisher.collecting.plan import Fate

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")


def size(count: float) -> str:
    """Bytes in the largest unit that leaves a whole number; of 1000."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def table_of(things: Sequence[Fate]) -> str:
    """One line a thing."""
    rows = [(thing.fate, thing.kind, thing.name, size(thing.bytes), thing.reason) for thing in things]
    return table(("", "WHAT", "NAME", "SIZE", "WHY"), rows, right="SIZE")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> str:
    """One line a row, with the column `right` aligned there; long cells are only broken on a terminal."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", justify="right" if column == right else "left")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100_000
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(made)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def age(seconds: float) -> str:
    """In the largest unit of which it is two or more: `90 s`, `25 h`, `9 d`."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"

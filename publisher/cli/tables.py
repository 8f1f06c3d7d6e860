"""How things that go or stay are shown to people."""

import io
import shutil
import sys
from collections.abc import Sequence

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
    """One line a thing; long names are only broken on a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "WHAT", "NAME"):
        table.add_column(column, overflow="fold")
    table.add_column("SIZE", justify="right")
    table.add_column("WHY", overflow="fold")
    for thing in things:
        row = (thing.fate, thing.kind, thing.name, size(thing.bytes), thing.reason)
        table.add_row(*(Text(cell) for cell in row))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100_000
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

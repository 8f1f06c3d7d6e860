"""The table: on a terminal, as JSON, and in a page between its markers."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.table import Table

from tests.bench.samples import Result

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
COLUMNS = ("", "peer", "ours", "ratio", "target", "reached")


class Machine(msgspec.Struct, frozen=True):
    """Where and when: numbers of two machines are not to be compared."""

    date: str
    processor: str
    cores: int
    kernel: str
    load: float


def this_machine() -> Machine:
    names = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]  # fmt: skip
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        processor=names[0] if names else platform.machine(),
        cores=os.cpu_count() or 1,
        kernel=platform.release().partition("-")[0],
        load=round(os.getloadavg()[1], 1),
    )


def table(results: Sequence[Result]) -> Table:
    """For a terminal."""
    shown = Table(box=None, pad_edge=False)
    for number, column in enumerate(COLUMNS):
        shown.add_column(column, justify="left" if number in (0, 5) else "right")
    for result in results:
        *cells, reached = _cells(result)
        style = {"yes": "green", "no": "bold red"}.get(reached, "")
        shown.add_row(*cells, f"[{style}]{reached}[/]" if style else reached)
    return shown


def markdown(results: Sequence[Result], machine: Machine) -> str:
    where = f"{machine.cores} cores of {machine.processor}, Linux {machine.kernel}"
    lines = [
        f"{machine.date}, {where}, mean load {machine.load} during the last 5 minutes of it.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(_cells(result))} |" for result in results),
    ]
    return "\n".join(lines)


def as_json(results: Sequence[Result], machine: Machine) -> bytes:
    """Seconds and bytes, unrounded."""
    rows = [
        {
            "name": result.row.name, "unit": result.row.unit, "peer": result.peer, "ours": result.ours,
            "ratio": result.ratio, "target": result.row.target, "reached": result.reached,
        }
        for result in results
    ]  # fmt: skip
    document = msgspec.json.encode({"machine": machine, "rows": msgspec.to_builtins(rows)})
    return msgspec.json.format(document) + b"\n"


def replace_table(page: Path, text: str) -> None:
    """Puts a text between the markers of a page; what stands around them stays."""
    content = page.read_text()
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise ValueError(f"page {str(page)!r}: has not one {BEGIN} and one {END}; put them where the table belongs")
    before, _, rest = content.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


def _cells(result: Result) -> tuple[str, ...]:
    target = result.row.target
    wanted = []
    if target and target.ratio is not None:
        wanted.append(f"≤ {target.ratio:g}")
    if target and target.value is not None:
        wanted.append(f"≤ {_value(target.value, result.row.unit)}")
    return (
        result.row.name,
        "–" if result.peer is None else _value(result.peer, result.row.unit),
        _value(result.ours, result.row.unit),
        "–" if result.ratio is None else f"{result.ratio:.3g}" if result.ratio < 0.1 else f"{result.ratio:.2f}",
        ", ".join(wanted),
        {None: "", True: "yes", False: "no"}[result.reached],
    )


def _value(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 10**6:.0f} MB"
    for factor, name in ((1, "s"), (1e-3, "ms")):
        if value >= factor:
            return f"{value / factor:.3g} {name}"
    return f"{value * 1e6:.0f} µs"

"""What was measured, by row and by server, and what it comes to."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Unit = Literal["s", "B"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a row has to reach: `ratio` of ours to the peer at most, or an absolute `value` (s, B) at most."""

    ratio: float | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what is measured, in seconds or bytes, and its target if it has one."""

    name: str
    unit: Unit = "s"
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A row's medians, ours and those of what it is measured beside; `ratio` is the median of the rounds' ratios, for
    both had the same machine in one."""

    row: Row
    peer: float | None
    ours: float
    ratio: float | None

    @property
    def reached(self) -> bool | None:
        """None where there is no target."""
        if self.row.target is None:
            return None
        by_value = self.row.target.value is None or self.ours <= self.row.target.value
        by_ratio = self.row.target.ratio is None or (self.ratio is not None and self.ratio <= self.row.target.ratio)
        return by_value and by_ratio


class Samples:
    """Values by row; the n-th of each server is of the same round."""

    def __init__(self) -> None:
        self._values: defaultdict[Row, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, row: Row, server: str, value: float) -> None:
        self._values[row][server].append(value)

    def results(self, rows: Sequence[Row]) -> list[Result]:
        """Of those rows that were measured."""
        return [self._result(row) for row in rows if row in self._values]

    def _result(self, row: Row) -> Result:
        measured = self._values[row]
        ours, peer = measured["ours"], next((values for name, values in measured.items() if name != "ours"), [])
        ratios = [a / b for a, b in zip(ours, peer, strict=True)] if peer else []
        return Result(row, median(peer) if peer else None, median(ours), median(ratios) if ratios else None)

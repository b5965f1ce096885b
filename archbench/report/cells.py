"""A table of the page as typed cells: what a template needs, and nothing of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archbench.report.labels import UNDEFINED, format_value

METHODS = {"logit_delong": " (DeLong)", "wilson": " (Wilson)"}  # of intervals; percentiles need no word


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What is shown.
        sort: What the column is sorted by; None sorts last.
        sub: A second, smaller line.
        reason: Why the value is undefined; shown as a tooltip and as a note below the table.
        interval: (value, low, high) to be drawn on the table's axis.
        tone: good, bad, even, open, warn, struck or "": colour and mark of a verdict.
    """

    text: str
    sort: float | str | None = None
    sub: str = ""
    reason: str | None = None
    interval: tuple[float, float, float] | None = None
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """A column heading; `hint` explains it in a tooltip and in the legend of the table."""

    title: str
    hint: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table with its caption; the first cell of a row is its heading."""

    identifier: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False
    compact: bool = False

    @property
    def notes(self) -> list[str]:
        """The reasons of undefined values, each once, in order of appearance."""
        return list(dict.fromkeys(cell.reason for row in self.rows for cell in row if cell.reason))

    @property
    def axis(self) -> tuple[float, float] | None:
        """Common axis of the intervals drawn in the cells: their range, a little wider."""
        ends = [end for row in self.rows for cell in row if cell.interval for end in cell.interval]
        if not ends:
            return None
        low, high = min(ends), max(ends)
        margin = max(0.04 * (high - low), 0.005)
        return low - margin, high + margin

    @property
    def drawn_columns(self) -> set[int]:
        """The columns in which intervals are drawn."""
        return {k for row in self.rows for k, cell in enumerate(row) if cell.interval}

    def positions(self, cell: Cell) -> tuple[float, float, float] | None:
        """Value, low and high of a cell's interval as positions from 0 to 100 on the axis."""
        if cell.interval is None or self.axis is None:
            return None
        low, high = self.axis
        value, left, right = (round(100 * (x - low) / (high - low), 2) for x in cell.interval)
        return value, left, right


def undefined_cell(reason: str) -> Cell:
    """A cell without a value: an en dash and why."""
    return Cell(text=UNDEFINED, reason=reason)


def number_cell(value: float | None, text: str, *, reason: str, sub: str = "") -> Cell:
    """A cell with a number, or an en dash with the reason."""
    return undefined_cell(reason) if value is None else Cell(text=text, sort=value, sub=sub)


def record_cell(
    record: Mapping[str, Any] | None, *, draw: bool = False, digits: int = 3, absent: str = "not computed"
) -> Cell:
    """A metric record as value with its interval below; undefined ones as an en dash with the reason."""
    if record is None:
        return undefined_cell(absent)
    value, low, high = record.get("value"), record.get("low"), record.get("high")
    if value is None:
        return undefined_cell(record.get("reason") or "undefined")
    sub = "" if low is None or high is None else f"{format_value(low, digits)} to {format_value(high, digits)}"
    sub += METHODS.get(str(record.get("method")), "") if sub else ""
    interval = (value, low, high) if draw and low is not None and high is not None else None
    return Cell(text=format_value(value, digits), sort=value, sub=sub, interval=interval)

"""Forest plot: the primary metric of every model with its interval, its rank, and how often it comes first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from archbench.report.collect import DatasetResult
from archbench.report.figures import GRID_COLOR, OKABE_ITO, Panel, wrap
from archbench.report.labels import format_interval, format_share, metric_label
from archbench.report.quality_figures import ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

BLUE, ORANGE, GREEN = OKABE_ITO[0], OKABE_ITO[1], OKABE_ITO[2]
BAND_COLOR = "#e4e4e4"


@dataclass(frozen=True)
class _Row:
    """A model in the plot: its record and its row of comparison.json."""

    name: str
    is_ensemble: bool
    record: Mapping[str, Any]
    rank: Mapping[str, Any]


def forest_panel(dataset: DatasetResult, *, narrow: bool = False) -> Panel | None:
    """Values with intervals, ranks with intervals and the share of first places; None without a value.

    Args:
        narrow: For a phone: values above ranks instead of beside them.
    """
    ranks = {row["model"]: row for row in (dataset.comparison or {}).get("models") or []}
    rows = [
        _Row(model.name, model.is_ensemble, record, ranks.get(model.name) or {})
        for model in ranked(dataset)
        if (record := model.record(dataset.primary)) is not None and record.get("value") is not None
    ]
    if not rows:
        return None
    with_ranks = len(rows) > 1 and any(row.rank.get("mean_rank") is not None for row in rows)
    longest = max(len(line) for row in rows for line in wrap(row.name, 24).split("\n"))
    lines = sum(1 + 0.6 * wrap(row.name, 24).count("\n") for row in rows)
    height = 0.95 + 0.34 * lines
    if narrow:
        width, height = 3.7, height * (2 if with_ranks else 1)
    else:
        width = 0.085 * longest + (8.3 if with_ranks else 4.6)
    label = metric_label(dataset.primary)
    words = "; ".join(f"{row.name} {format_interval(row.record)}" for row in rows)
    return Panel(
        f"{label.long[:1].upper()}{label.long[1:]}",
        f"Forest plot of the {label.long} with intervals: {words}.",
        partial(_draw, dataset=dataset, rows=rows, with_ranks=with_ranks, narrow=narrow),
        width=width,
        height=height,
    )


def _draw(figure: FigureBase, *, dataset: DatasetResult, rows: Sequence[_Row], with_ranks: bool, narrow: bool) -> None:
    if not with_ranks:
        values = figure.subplots()
        parts = [values]
    elif narrow:
        values, ranks = figure.subplots(2, 1)
        parts = [values, ranks]
    else:
        values, ranks, first = figure.subplots(1, 3, sharey=True, width_ratios=[3.0, 2.0, 1.2])
        parts = [values, ranks, first]
        _draw_first(first, rows)
    _draw_values(values, dataset, rows)
    if with_ranks:
        _draw_ranks(ranks, rows)
    for axes in parts if narrow else parts[:1]:
        axes.set_yticks(range(len(rows)), [wrap(row.name, 20 if narrow else 24) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
    for axes in parts:
        axes.grid(axis="x", color=GRID_COLOR, linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)


def _draw_values(axes: Axes, dataset: DatasetResult, rows: Sequence[_Row]) -> None:
    label = metric_label(dataset.primary)
    delta = (dataset.comparison or {}).get("delta")
    best = rows[0].record["value"]
    if delta is not None and len(rows) > 1:
        low, high = label.bounds
        left, right = max(best - delta, -math.inf if low is None else low), min(best + delta, high or math.inf)
        axes.axvspan(left, right, color=BAND_COLOR, linewidth=0, zorder=0)
    for place, row in enumerate(rows):
        _interval(axes, place, row.record["value"], row.record, row.is_ensemble, BLUE)
    ends = [end for row in rows for key in ("low", "value", "high") if (end := row.record.get(key)) is not None]
    chance = label.chance
    if chance is not None and min(ends) - chance < 0.6 * (max(ends) - min(ends)):
        axes.axvline(chance, color="#777777", linewidth=0.8, linestyle=":")
    axes.margins(x=0.06)
    axes.set_xlabel(f"{label.short}, {100 * dataset.confidence:g} % interval")


def _draw_ranks(axes: Axes, rows: Sequence[_Row]) -> None:
    for place, row in enumerate(rows):
        if row.rank.get("mean_rank") is not None:
            bounds = {"low": row.rank.get("rank_low"), "high": row.rank.get("rank_high")}
            _interval(axes, place, row.rank["mean_rank"], bounds, row.is_ensemble, ORANGE)
    axes.set_xlim(0.6, len(rows) + 0.4)
    axes.set_xticks(range(1, len(rows) + 1) if len(rows) <= 8 else range(1, len(rows) + 1, 2))
    axes.set_xlabel("rank, 1 is best")


def _draw_first(axes: Axes, rows: Sequence[_Row]) -> None:
    shares = [row.rank.get("p_rank1") or 0.0 for row in rows]
    axes.barh(range(len(rows)), shares, height=0.5, color=GREEN)
    for place, row in enumerate(rows):
        share = row.rank.get("p_rank1")
        text = "not ranked" if share is None else format_share(share)
        text += " (tie)" if share and row.rank.get("tied_with") else ""
        axes.annotate(text, (share or 0.0, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(0, 1.6)
    axes.set_xticks([0, 0.5, 1], ["0", "", "100 %"])
    axes.set_xlabel("comes first in")


def _interval(axes: Axes, place: float, value: float, bounds: Mapping[str, Any], hollow: bool, color: str) -> None:
    """A dot with its interval; hollow for the ensemble."""
    low, high = bounds.get("low"), bounds.get("high")
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
    axes.plot([value], [place], "o", color=color, markersize=6.5, markerfacecolor="white" if hollow else color)

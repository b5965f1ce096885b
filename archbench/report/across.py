"""Several datasets in one study: each model's primary metric on each, its mean rank, and what may be concluded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from archbench.report.cells import Cell, Column, Table, record_cell, undefined_cell
from archbench.report.collect import DatasetResult, StudyResult
from archbench.report.figures import GRID_COLOR, OKABE_ITO, Panel, wrap
from archbench.report.labels import format_p, metric_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

    from archbench.significance import CriticalDifference

ACROSS = 4
MIDDLE = 3.6  # inches of the scale of a critical-difference diagram


@dataclass(frozen=True)
class MeanRank:
    """Mean rank of a model over the datasets, its interval over their patients, or why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """As a metric record."""
        return {"value": self.value, "low": self.low, "high": self.high, "reason": self.reason}


def mean_ranks(datasets: Sequence[DatasetResult], *, confidence: float) -> dict[str, MeanRank]:
    """Return the mean rank of every model, best first; undefined for a model that one dataset lacks.

    The datasets' patients are independent, so the distribution of the mean rank is the convolution of the
    distributions over the redrawn patients of each.
    """
    rows = [{row["model"]: row for row in (d.comparison or {}).get("models") or []} for d in datasets]
    names = list(dict.fromkeys(model.name for dataset in datasets for model in dataset.models))
    whole = [name for name in names if all((of.get(name) or {}).get("mean_rank") is not None for of in rows)]
    same = all(set(_placed(of)) == set(whole) for of in rows)
    found = {}
    for name in names:
        if name not in whole:
            found[name] = MeanRank(None, reason="not ranked on every dataset")
        elif not same:
            found[name] = MeanRank(None, reason="the datasets rank different models: ranks among them don't compare")
        else:
            found[name] = _mean_rank([of[name] for of in rows], confidence)
    return dict(sorted(found.items(), key=lambda item: math.inf if item[1].value is None else item[1].value))


def _placed(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [name for name, row in rows.items() if row.get("mean_rank") is not None]


def _mean_rank(rows: Sequence[Mapping[str, Any]], confidence: float) -> MeanRank:
    import numpy as np

    value = fmean(row["mean_rank"] for row in rows)
    if not all(row.get("rank_shares") for row in rows):
        return MeanRank(value)
    total = np.ones(1)  # chance of each sum of ranks, in half steps above one a dataset
    for row in rows:
        chances = np.zeros(round(2 * max(map(float, row["rank_shares"]))) - 1)
        for rank, share in row["rank_shares"].items():
            chances[round(2 * float(rank)) - 2] = share
        total = np.convolve(total, chances)
    cumulated, tail = np.cumsum(total), (1.0 - confidence) / 2.0
    ends = [int(np.searchsorted(cumulated, level * cumulated[-1] - 1e-12)) for level in (tail, 1.0 - tail)]
    low, high = (1.0 + end / (2.0 * len(rows)) for end in ends)
    return MeanRank(value, low, high)


def across_view(study: StudyResult) -> dict[str, Any] | None:
    """What the page shows of several datasets together; None with one."""
    datasets = study.datasets
    if len(datasets) < 2:
        return None
    ranks = mean_ranks(datasets, confidence=datasets[0].confidence)
    difference, reason = _critical_difference(datasets, list(ranks))
    return {
        "table": _across_table(study, ranks),
        "panel": _across_panel(datasets, list(ranks), narrow=False),
        "narrow": _across_panel(datasets, list(ranks), narrow=True),
        "difference": _difference_panel(difference) if difference else None,
        "p": format_p(difference.p) if difference else "",
        "no_difference": reason,
        "several_metrics": len({dataset.primary for dataset in datasets}) > 1,
    }


def _across_table(study: StudyResult, ranks: Mapping[str, MeanRank]) -> Table:
    columns = [
        Column("Model", numeric=False),
        *(Column(f"{d.name}, {metric_label(d.primary).short}", metric_label(d.primary).long) for d in study.datasets),
        Column("Mean rank", "over the datasets, 1 is best; its interval is over the patients of these datasets"),
    ]
    rows = []
    for name, rank in ranks.items():
        cells = [_value_cell(dataset, name) for dataset in study.datasets]
        shown = record_cell(rank.record, digits=1)
        rows.append([Cell(name, name.lower()), *cells, shown])
    phantom = "Phantom data. " if study.phantom else ""
    text = f"{phantom}Study {study.name}: the primary metric on every dataset, best mean rank first."
    return Table("across", text, columns, rows, sortable=True)


def _value_cell(dataset: DatasetResult, name: str) -> Cell:
    model = dataset.find(name)
    if model is None or model.metrics is None:
        return undefined_cell("no result on this dataset")
    return record_cell(model.record(dataset.primary))


def _across_panel(datasets: Sequence[DatasetResult], names: Sequence[str], *, narrow: bool) -> Panel:
    columns = 1 if narrow else min(ACROSS, len(datasets))
    rows = math.ceil(len(datasets) / columns)
    longest = max(len(line) for name in names for line in wrap(name, 20).split("\n"))
    return Panel(
        "Across datasets",
        f"Forest plots of {', '.join(names)} on {', '.join(dataset.name for dataset in datasets)}.",
        partial(_draw, datasets=datasets, names=names, rows=rows, columns=columns),
        width=3.7 if narrow else 0.085 * longest + 2.35 * columns + 0.3,
        height=rows * (1.05 + 0.3 * len(names)),
    )


def _draw(
    figure: FigureBase, *, datasets: Sequence[DatasetResult], names: Sequence[str], rows: int, columns: int
) -> None:
    parts = list(figure.subplots(rows, columns, sharey=True, squeeze=False).ravel())
    for axes, dataset in zip(parts, datasets, strict=False):
        for place, name in enumerate(names):
            model = dataset.find(name)
            record = model.record(dataset.primary) if model else None
            if record is not None and record.get("value") is not None:
                _interval(axes, place, record)
        axes.set_title(wrap(dataset.name, 26), fontsize=9)
        axes.set_xlabel(metric_label(dataset.primary).short)
        axes.grid(axis="x", color=GRID_COLOR, linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    for axes in parts[len(datasets) :]:
        axes.set_axis_off()
    parts[0].set_yticks(range(len(names)), [wrap(name, 20) for name in names])
    parts[0].set_ylim(len(names) - 0.4, -0.6)


def _interval(axes: Axes, place: float, record: Mapping[str, Any]) -> None:
    if record.get("low") is not None and record.get("high") is not None:
        axes.plot([record["low"], record["high"]], [place, place], color=OKABE_ITO[0], linewidth=2.2)
    axes.plot([record["value"]], [place], "o", color=OKABE_ITO[0], markersize=6)


def _critical_difference(
    datasets: Sequence[DatasetResult], names: Sequence[str]
) -> tuple[CriticalDifference | None, str]:
    """The critical difference of the models that have a value everywhere, or why there is none."""
    import numpy as np

    from archbench.significance import critical_difference

    values = {}
    for name in names:
        found = [_gain(dataset, name) for dataset in datasets]
        if all(value is not None for value in found):
            values[name] = np.array(found, dtype=np.float64)
    try:
        return critical_difference(values, greater_is_better=True), ""
    except ValueError as error:
        return None, f"{error}."


def _gain(dataset: DatasetResult, name: str) -> float | None:
    """The primary metric with the sign that makes more better."""
    model = dataset.find(name)
    value = ((model.record(dataset.primary) if model else None) or {}).get("value")
    return None if value is None else (-value if metric_label(dataset.primary).lower_is_better else value)


def _difference_panel(found: CriticalDifference) -> Panel:
    names = list(found.mean_ranks)
    words = ", ".join(f"{name} {rank:.2f}" for name, rank in found.mean_ranks.items())
    half = math.ceil(len(names) / 2)
    return Panel(
        "Critical difference",
        f"Critical-difference diagram, mean ranks: {words}; critical difference {found.difference:.2f}.",
        partial(_draw_difference, found=found),
        width=MIDDLE + 2 * _side(names),
        height=0.9 + 0.24 * (half + 1) + 0.15 * len(found.groups),
    )


def _side(names: Sequence[str]) -> float:
    """Room for the longest name with its rank beside the diagram, inches."""
    return 0.3 + 0.073 * (max(map(len, names)) + 9)


def _draw_difference(figure: FigureBase, *, found: CriticalDifference) -> None:
    axes = figure.subplots()
    names, places = list(found.mean_ranks), list(found.mean_ranks.values())
    k, half, bars = len(names), math.ceil(len(names) / 2), 0.6 * len(found.groups)
    margin = _side(names) / MIDDLE * (max(k, 1 + found.difference) - 1)
    write = partial(axes.text, fontsize=8.5, in_layout=False)
    axes.plot([1, k], [0, 0], color="black", linewidth=1.2)
    for rank in range(1, k + 1):
        axes.plot([rank, rank], [0, 0.25], color="black", linewidth=1)
        write(rank, 0.35, str(rank), ha="center", va="bottom")
    for number, (name, place) in enumerate(zip(names, places, strict=True)):
        left = number < half
        depth = -(bars + 0.9 + (number if left else k - 1 - number))
        end = 1 - 0.1 * margin if left else k + 0.1 * margin
        axes.plot([place, place, end], [0, depth, depth], color="#555555", linewidth=0.9)
        write(end, depth, f" {name} ({place:.2f}) ", ha="right" if left else "left", va="center")
    for number, group in enumerate(found.groups):
        ends = [found.mean_ranks[group[0]], found.mean_ranks[group[-1]]]
        axes.plot(ends, [-0.5 - 0.6 * number] * 2, color=OKABE_ITO[0], linewidth=4, solid_capstyle="round")
    axes.plot([1, 1 + found.difference], [1.7, 1.7], color=OKABE_ITO[1], linewidth=2)
    write(1 + found.difference / 2, 1.8, f"critical difference {found.difference:.2f}", ha="center", va="bottom")
    axes.set(xlim=(1 - margin, max(k, 1 + found.difference) + margin), ylim=(-(bars + half + 0.6), 2.9))
    axes.set_axis_off()

"""Calibration of every class or label by itself: table with slope and intercept, pictures with bands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from archbench.report.cells import Cell, Column, Table, number_cell, record_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.figures import OKABE_ITO, Panel, wrap
from archbench.report.labels import format_value
from archbench.report.quality_figures import MIN_BIN_CASES
from archbench.report.quality_tables import caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

STATES = {"raw": "before", "calibrated": "after"}
MAX_QUESTIONS = 20
ACROSS = 5
RAW_COLOR, CALIBRATED_COLOR = OKABE_ITO[1], OKABE_ITO[0]
_COLUMNS = (
    Column("Class or label", numeric=False),
    Column("Calibration", numeric=False),
    Column("ECE", "expected calibration error; marked where its interval lies above the null floor"),
    Column("Null floor", "ECE that a perfectly calibrated model would show with so many cases"),
    Column("MCE", "largest error of a bin"),
    Column("Brier", "mean squared error of the probability; smaller is better"),
    Column("Log loss", "smaller is better"),
    Column("Slope", "1 is perfect, below 1 too extreme; marked where the interval leaves out 1"),
    Column(
        "Intercept", "0 is perfect, above 0 too low; calibration in the large; marked where the interval excludes 0"
    ),
)


def question_table(dataset: DatasetResult, model: ModelResult) -> Table | None:
    """ECE with its null floor, MCE, Brier, log loss, slope and intercept of each question, before and after."""
    found = (model.calibration or {}).get("table") or {}
    questions = {"mean over all": found.get("macro") or {}, **(found.get("questions") or {})}
    rows = [
        _question_row(name, word, values[state])
        for name, values in questions.items()
        for state, word in STATES.items()
        if values.get(state)
    ]
    if not rows:
        return None
    text = f"{model.name}, calibration of each by itself, fitted on other patients."
    identifier = f"questions-{dataset.name}-{model.name}"
    return Table(identifier, caption(dataset, text), _COLUMNS, rows, sortable=True)


def _question_row(name: str, state: str, values: Mapping[str, Any]) -> list[Cell]:
    floor = values.get("null_floor")
    of_mean = "of each class or label alone, not of their mean" if name == "mean over all" else "not computed"
    return [
        Cell(name, name.lower()),
        Cell(state, state),
        _marked(values.get("ece"), lambda low, _: floor is not None and low > floor),
        number_cell(floor, format_value(floor), reason="not computed"),
        *(record_cell(values.get(key)) for key in ("mce", "brier", "log_loss")),
        _marked(values.get("slope"), lambda low, high: not low <= 1 <= high, digits=2, absent=of_mean),
        _marked(values.get("intercept"), lambda low, high: not low <= 0 <= high, digits=2, absent=of_mean),
    ]


def _marked(record: Mapping[str, Any] | None, off: Any, *, digits: int = 3, absent: str = "not computed") -> Cell:
    """A record, marked where its interval says that it is off."""
    cell = record_cell(record, digits=digits, absent=absent)
    if not record or cell.reason or record.get("low") is None or record.get("high") is None:
        return cell
    return replace(cell, tone="warn") if off(record["low"], record["high"]) else cell


def question_panel(model: ModelResult) -> Panel | None:
    """Reliability of each question of a model, before and after, with patient-clustered bands after."""
    questions = ((model.calibration or {}).get("table") or {}).get("questions") or {}
    shown = {name: of for name, of in questions.items() if (of.get("raw") or {}).get("bins")}
    if not shown:
        return None
    chosen = dict(list(shown.items())[:MAX_QUESTIONS])
    columns = min(ACROSS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    rest = f" (the first {MAX_QUESTIONS} of {len(shown)})" if len(shown) > len(chosen) else ""
    return Panel(
        f"{model.name}{rest}",
        f"Reliability of {model.name} for {', '.join(chosen)}: observed share against stated probability.",
        partial(_draw_questions, questions=chosen, rows=rows, columns=columns),
        width=0.35 + 1.95 * columns,
        height=0.65 + 2.05 * rows,
    )


def _draw_questions(figure: FigureBase, *, questions: Mapping[str, Any], rows: int, columns: int) -> None:
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    parts = list(grid.ravel())
    for axes, (name, values) in zip(parts, questions.items(), strict=False):
        axes.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, linestyle=":")
        _curve(axes, (values.get("raw") or {}).get("bins") or [], RAW_COLOR, "s", "before")
        _curve(axes, (values.get("calibrated") or {}).get("bins") or [], CALIBRATED_COLOR, "o", "after", band=True)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_title(wrap(name, 24), fontsize=8.5)
    for axes in parts[len(questions) :]:
        axes.set_axis_off()
    handles, labels = parts[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    figure.supxlabel("stated probability", fontsize=9)
    figure.supylabel("observed share", fontsize=9)


def _curve(
    axes: Axes, bins: Sequence[Mapping[str, Any]], color: str, marker: str, label: str, *, band: bool = False
) -> None:
    shown = [b for b in bins if b["n_cases"] >= MIN_BIN_CASES]
    x = [b["predicted"] for b in shown]
    if band:
        low, high = ([math.nan if b.get(key) is None else b[key] for b in shown] for key in ("low", "high"))
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    observed = [b["observed"] for b in shown]
    axes.plot(x, observed, color=color, marker=marker, markersize=3.5, linewidth=1.1, label=label)

"""Decision curves: what deciding by a model is worth against treating all or none (Vickers and Elkin, 2006)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from archbench.report.cells import Cell, Column, Table, undefined_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.figures import GRID_COLOR, Line, Panel, line_styles
from archbench.report.labels import format_value
from archbench.report.quality_figures import ranked_drawn
from archbench.report.quality_tables import caption

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

MAX_QUESTIONS = 20


def curve_of(model: ModelResult, question: str) -> dict[str, Any] | None:
    """Thresholds and net benefit of a model for a question, or None."""
    curve = (model.metrics or {}).get("decision_curve") or {}
    values = (curve.get("questions") or {}).get(question)
    return {**values, "thresholds": curve["thresholds"]} if values else None


def questions_of(dataset: DatasetResult) -> list[str]:
    """Every question that some model has a decision curve of; the clinical cut of an ordinal task first."""
    names: dict[str, None] = {}
    for model in ranked_drawn(dataset):
        names.update(dict.fromkeys(((model.metrics or {}).get("decision_curve") or {}).get("questions") or {}))
    return sorted(names, key=lambda name: not name.endswith(" or worse"))


def decision_panels(dataset: DatasetResult) -> list[Panel]:
    """One panel per question: net benefit of every model, of treating all and of treating none."""
    styles = line_styles([model.name for model in dataset.models])
    panels = []
    for question in questions_of(dataset)[:MAX_QUESTIONS]:
        curves = {m.name: curve for m in ranked_drawn(dataset) if (curve := curve_of(m, question))}
        alt = f"Decision curves for {question}: net benefit against threshold of {', '.join(curves)}."
        draw = partial(_draw, curves=curves, styles=styles)
        panels.append(Panel(question, alt, draw, width=2.85, height=2.75))
    return panels


def _draw(figure: FigureBase, *, curves: Mapping[str, Mapping[str, Any]], styles: Mapping[str, Line]) -> None:
    axes = figure.subplots()
    first = next(iter(curves.values()))
    shown = [(*curve["model"], curve["prevalence"]) for curve in curves.values()]
    top = max(v for values in (*shown, next(iter(curves.values())).get("high") or []) for v in values if v is not None)
    axes.axhline(0, color="#555555", linewidth=0.9)
    axes.plot(first["thresholds"], _numbers(first["all"]), color="#555555", linewidth=0.9, linestyle="--")
    for k, (name, curve) in enumerate(curves.items()):
        x, style = curve["thresholds"], styles[name]
        if not k:
            low, high = _numbers(curve.get("low") or []), _numbers(curve.get("high") or [])
            if low and high:
                axes.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0)
        axes.plot(x, _numbers(curve["model"]), color=style.color, linestyle=style.linestyle, linewidth=1.5)
    axes.set_ylim(-0.18 * max(top, 0.01), 1.04 * max(top, 0.01))
    axes.set_xlim(0, max(first["thresholds"]))
    axes.grid(color=GRID_COLOR, linewidth=0.6)
    axes.set_xlabel("threshold probability")
    axes.set_ylabel("net benefit")


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def useful_table(dataset: DatasetResult) -> Table | None:
    """The thresholds at which a model is worth more than treating all or none, by the lower end of its band."""
    questions = questions_of(dataset)
    models = [m for m in ranked_drawn(dataset) if ((m.metrics or {}).get("decision_curve") or {}).get("questions")]
    if not questions:
        return None
    columns = [Column("Question", numeric=False), *(Column(model.name) for model in models)]
    rows = [
        [Cell(question, question.lower()), *(_useful_cell(curve_of(model, question)) for model in models)]
        for question in questions
    ]
    text = (
        "the longest range of thresholds in which deciding by the model is worth more than treating all or none, by "
        "the lower end of its interval; below it the largest gain there."
    )
    return Table(f"benefit-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def _useful_cell(curve: Mapping[str, Any] | None) -> Cell:
    if curve is None:
        return undefined_cell("no decision curve of it")
    better = [
        low is not None and every is not None and low > max(every, 0.0)
        for low, every in zip(curve.get("low") or [], curve["all"], strict=False)
    ]
    start, end = longest_run(better)
    if start == end:
        return Cell("nowhere", 0.0)
    thresholds = curve["thresholds"]
    gain = max(curve["model"][k] - max(curve["all"][k], 0.0) for k in range(start, end))
    words = f"{format_value(thresholds[start], 2)} to {format_value(thresholds[end - 1], 2)}"
    return Cell(words, thresholds[end - 1] - thresholds[start], sub=f"up to +{format_value(gain)}")


def longest_run(flags: Sequence[bool]) -> tuple[int, int]:
    """Start and end (exclusive) of the longest run of true values; (0, 0) if there is none."""
    best = start = 0, 0
    for k, flag in enumerate(flags):
        start = (start[0], k + 1) if flag else (k + 1, k + 1)
        if start[1] - start[0] > best[1] - best[0]:
            best = start
    return best

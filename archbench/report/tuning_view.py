"""What a hyper-parameter search bought, and the models trained on all data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from archbench.report.cells import Cell, Column, Table, number_cell, undefined_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.figures import GRID_COLOR, OKABE_ITO, Panel
from archbench.report.labels import format_count, format_duration, format_value, metric_label
from archbench.report.quality_tables import caption

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase


def tuned_models(dataset: DatasetResult) -> list[ModelResult]:
    """The models whose hyper-parameters were searched."""
    return [model for model in dataset.models if model.tuning]


def search_panels(dataset: DatasetResult) -> list[Panel]:
    """One panel per searched model: the best of the first n trials, a line per fold."""
    panels = []
    for model in tuned_models(dataset):
        metric = metric_label(str(model.tuning[0].get("metric"))).long
        alt = f"Search of {model.name}: best validation {metric} among the first n trials, {len(model.tuning)} folds."
        panels.append(Panel(model.name, alt, partial(_draw_search, searches=model.tuning), width=3.6, height=3.0))
    return panels


def _draw_search(figure: FigureBase, *, searches: Sequence[Mapping[str, Any]]) -> None:
    axes = figure.subplots()
    for k, found in enumerate(searches):
        color = OKABE_ITO[k % len(OKABE_ITO)]
        points = [(n, t["value"]) for n, t in enumerate(found["trials"], start=1) if t.get("value") is not None]
        axes.plot([n for n, _ in points], [v for _, v in points], ".", color="#999999", markersize=4)
        curve = [(n, v) for n, v in enumerate(found["best_of_n"], start=1) if v is not None]
        x, y = [n for n, _ in curve], [v for _, v in curve]
        axes.step(x, y, where="post", color=color, linewidth=1.4, label=f"fold {found.get('fold', k)}")
        if found.get("untuned_value") is not None:
            axes.axhline(found["untuned_value"], color=color, linestyle="--", linewidth=0.8)
    axes.set_xlabel("trials")
    axes.set_ylabel(f"validation {metric_label(str(searches[0].get('metric'))).short}")
    axes.locator_params(axis="x", integer=True)
    axes.grid(color=GRID_COLOR, linewidth=0.6)
    figure.legend(loc="outside upper center", ncols=min(len(searches), 3))


def search_table(dataset: DatasetResult) -> Table | None:
    """Trials, the recipe's own value, the best one and the values that gave it, fold by fold."""
    searches = [(model, found) for model in tuned_models(dataset) for found in model.tuning]
    if not searches:
        return None
    columns = [
        Column("Model", numeric=False),
        Column("Fold"),
        Column("Trials", "that ended, of the budget; the same budget for every model"),
        Column("Untuned", "validation value of the recipe's own values"),
        Column("Best", "validation value of the best trial: chosen on it, so too good"),
        Column("Bought", "best less untuned, in the direction that is better"),
        Column("Values found", numeric=False),
    ]
    rows = [_search_row(model, found) for model, found in searches]
    means = {model.name: gains for model in tuned_models(dataset) if (gains := _gains(model))}
    words = ", ".join(f"{name} {format_value(fmean(gains))}" for name, gains in means.items())
    text = "the search on the validation part of each fold; test cases took no part."
    text += f" Bought, mean over the folds: {words}." if words else ""
    return Table(f"search-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def _search_row(model: ModelResult, found: Mapping[str, Any]) -> list[Cell]:
    untuned, best, gain = found.get("untuned_value"), found.get("best_value"), _gain(found)
    trials = f"{format_count(found.get('trials_run'))} of {format_count(found.get('budget'))}"
    values = ", ".join(f"{key} {_plain(value)}" for key, value in _flat(found.get("training") or {}))
    no_start = "the searched range leaves out the recipe's own values"
    return [
        Cell(model.name, model.name.lower()),
        Cell(str(found.get("fold", "")), found.get("fold")),
        Cell(trials, found.get("trials_run")),
        number_cell(untuned, format_value(untuned), reason=no_start),
        number_cell(best, format_value(best), reason="no trial ended"),
        number_cell(gain, format_value(gain), reason=no_start),
        Cell(values, values),
    ]


def _gain(found: Mapping[str, Any]) -> float | None:
    untuned, best = found.get("untuned_value"), found.get("best_value")
    if untuned is None or best is None:
        return None
    return float(best - untuned) if found.get("maximize", True) else float(untuned - best)


def _gains(model: ModelResult) -> list[float]:
    return [gain for found in model.tuning if (gain := _gain(found)) is not None]


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """{"asl": {"clip": .1}} as [("asl.clip", .1)]."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else [(f"{before}{key}", value)]
    return found


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def final_table(dataset: DatasetResult) -> Table | None:
    """The models trained on all data, marked as not evaluated."""
    shown = [(model, model.final) for model in dataset.models if model.final]
    if not shown:
        return None
    columns = [
        Column("Model", numeric=False),
        Column("Evaluated", numeric=False),
        Column("Cases"),
        Column("Patients"),
        Column("Epochs", "median best epoch of the folds, which stand below"),
        Column("Training"),
        Column("Weights", numeric=False),
    ]
    rows = []
    for model, final in shown:
        folds = ", ".join(str(epoch) for epoch in final.get("best_epochs_of_folds") or [])
        seconds = final.get("train_seconds")
        rows.append(
            [
                Cell(model.name, model.name.lower()),
                Cell("not evaluated", "not evaluated", tone="warn"),
                Cell(format_count(final.get("cases")), final.get("cases")),
                Cell(format_count(final.get("patients")), final.get("patients")),
                Cell(format_count(final.get("epochs")), final.get("epochs"), sub=folds),
                undefined_cell("not recorded") if seconds is None else Cell(format_duration(seconds), seconds),
                Cell(f"{dataset.name}/{model.name}/final/best.safetensors"),
            ]
        )
    text = (
        "models trained on all cases. None is left to evaluate them on: no value on this page is theirs; those of "
        "the folds speak for the recipe."
    )
    return Table(f"final-{dataset.name}", caption(dataset, text), columns, rows)

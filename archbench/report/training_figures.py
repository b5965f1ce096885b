"""Training curves: losses and the watched metric, one line per job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.figures import GRID_COLOR, OKABE_ITO, Panel
from archbench.report.labels import METRIC_LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase


def training_panels(dataset: DatasetResult) -> list[Panel]:
    """One panel per trained model: losses above, the watched metric below, one line per job."""
    panels = []
    for model in dataset.models:
        histories = [run.history for run in model.runs if run.history.get("epoch")]
        if not histories:
            continue
        alt = f"Training of {model.name}: losses and validation metric by epoch, {len(histories)} jobs."
        panels.append(Panel(model.name, alt, partial(_draw_training, model=model), width=3.4, height=3.6))
    return panels


def _draw_training(figure: FigureBase, *, model: ModelResult) -> None:
    loss, score = figure.subplots(2, 1, sharex=True)
    watched = _watched_metric(model)
    first = True
    for run in model.runs:
        epochs = run.history.get("epoch") or []
        for key, color, label in (
            ("train_loss", OKABE_ITO[0], "training"),
            ("val_loss", OKABE_ITO[1], "validation"),
        ):
            _plot(loss, epochs, run.history.get(key), color, label if first else None)
        if watched is not None:
            _plot(score, epochs, run.history.get(watched), OKABE_ITO[2], None)
            _mark_best(score, run.history, watched, (run.settings or {}).get("best_epoch"))
        first = False
    loss.set_ylabel("loss")
    name = (watched or "val_metric").removeprefix("val_")
    score.set_ylabel(METRIC_LABELS[name].short if name in METRIC_LABELS else name)
    score.set_xlabel("epoch (dot: the epoch that was kept)")
    score.xaxis.get_major_locator().set_params(integer=True)
    for axes in (loss, score):
        axes.grid(color=GRID_COLOR, linewidth=0.6)
    figure.legend(loc="outside upper center", ncols=2)


def _watched_metric(model: ModelResult) -> str | None:
    keys = [key for run in model.runs for key in run.history]
    return next((key for key in keys if key.startswith("val_") and key != "val_loss"), None)


def _plot(axes: Axes, epochs: Sequence[Any], values: Sequence[Any] | None, color: str, label: str | None) -> None:
    if values:
        shown = [float("nan") if v is None else v for v in values]
        axes.plot(epochs, shown, color=color, linewidth=1.1, alpha=0.8, label=label)


def _mark_best(axes: Axes, history: Mapping[str, Sequence[Any]], key: str, best_epoch: float | None) -> None:
    epochs = list(history.get("epoch") or [])
    if best_epoch is None or best_epoch not in epochs:
        return
    value = history[key][epochs.index(best_epoch)]
    if value is not None:
        axes.plot([best_epoch], [value], "o", color=OKABE_ITO[2], markersize=5, markeredgecolor="black")

"""Figures of cost: accuracy against latency with the Pareto front, and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.figures import GRID_COLOR, OKABE_ITO, Line, Panel, line_styles, wrap
from archbench.report.labels import METRIC_LABELS, format_ms, format_value, metric_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase


@dataclass(frozen=True)
class Point:
    """One model in the plane of latency and quality; `measured` is false for a sum over members."""

    name: str
    latency_ms: float
    p95_ms: float | None
    value: float
    low: float | None
    high: float | None
    measured: bool = True


def pareto_points(dataset: DatasetResult) -> list[Point]:
    """The models with both a primary metric and a latency (ONNX Runtime, batch 1)."""
    points = []
    for model in dataset.evaluated:
        record, timing = model.record(dataset.primary), dataset.latency(model.name)
        if record is None or record["value"] is None:
            continue
        low, high = record.get("low"), record.get("high")
        if timing is not None:
            p95 = timing.get("p95_ms")
            points.append(Point(model.name, timing["median_ms"], p95, record["value"], low, high))
        elif model.is_ensemble and (total := ensemble_latency_ms(dataset)) is not None:
            points.append(Point(model.name, total, None, record["value"], low, high, measured=False))
    return points


def ensemble_latency_ms(dataset: DatasetResult) -> float | None:
    """Sum of the members' latencies; None unless two or more members, all timed, are used."""
    ensemble = dataset.ensemble
    members = (ensemble.decision or {}).get("members", []) if ensemble else []
    rows = [dataset.latency(name) for name in members]
    if len(rows) < 2 or any(row is None for row in rows):
        return None
    return float(sum(row["median_ms"] for row in rows if row))


def pareto_front(points: Sequence[Point], *, lower_is_better: bool = False) -> list[Point]:
    """The points that no other beats in both quality and latency, by rising latency."""
    sign = -1 if lower_is_better else 1
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.latency_ms, -sign * p.value)):
        if not front or sign * point.value > sign * front[-1].value:
            front.append(point)
    return front


def pareto_panel(dataset: DatasetResult, *, width: float = 7.2, height: float = 4.4) -> Panel | None:
    """Quality against latency with intervals and the Pareto front; None if nothing was timed."""
    points = pareto_points(dataset)
    if not points:
        return None
    label = metric_label(dataset.primary)
    listed = "; ".join(
        f"{p.name} {label.short} {format_value(p.value)} at {format_ms(p.latency_ms)} ms" for p in points
    )
    front = pareto_front(points, lower_is_better=label.lower_is_better)
    alt = f"{label.long} against latency. {listed}. Pareto front: {', '.join(p.name for p in front)}."
    styles = line_styles([model.name for model in dataset.models])
    draw = partial(_draw_pareto, points=points, front=front, styles=styles, metric=label.long)
    return Panel(f"Accuracy against latency, {dataset.name}", alt, draw, width, height)


def _draw_pareto(
    figure: FigureBase, *, points: Sequence[Point], front: Sequence[Point], styles: dict[str, Line], metric: str
) -> None:
    axes = figure.subplots()
    axes.step(
        [p.latency_ms for p in front],
        [p.value for p in front],
        where="post",
        color="#777777",
        linewidth=1.1,
        zorder=1,
    )
    for point in points:
        _draw_point(axes, point, styles[point.name])
    _set_latency_axis(axes, points)
    axes.set_ylabel(wrap(metric, 34))
    axes.grid(color=GRID_COLOR, linewidth=0.6)
    axes.margins(y=0.1)
    _label_points(figure, axes, points)


def _draw_point(axes: Axes, point: Point, style: Line) -> None:
    low = 0.0 if point.low is None else max(0.0, point.value - point.low)
    high = 0.0 if point.high is None else max(0.0, point.high - point.value)
    right = 0.0 if point.p95_ms is None else max(0.0, point.p95_ms - point.latency_ms)
    axes.errorbar(
        [point.latency_ms],
        [point.value],
        yerr=[[low], [high]],
        xerr=[[0.0], [right]],
        color=style.color,
        marker=style.marker,
        markersize=7,
        markerfacecolor=style.color if point.measured else "white",
        linewidth=1.2,
        capsize=2.5,
        zorder=3,
    )


def _set_latency_axis(axes: Axes, points: Sequence[Point]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low = min(p.latency_ms for p in points)
    high = max(max(p.latency_ms, p.p95_ms or 0) for p in points)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.35, high * 1.6)
    ticks = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5)]
    axes.xaxis.set_major_locator(FixedLocator([t for t in ticks if low / 1.35 <= t <= high * 1.6]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("ms per image, batch 1, ONNX Runtime (log scale)")


# Where a label may stand around its point: shift in points, and how it is anchored there.
_PLACES = (
    (7, 6, "left", "bottom"),
    (7, -6, "left", "top"),
    (-7, 6, "right", "bottom"),
    (-7, -6, "right", "top"),
    (7, 20, "left", "bottom"),
    (7, -20, "left", "top"),
    (-7, 20, "right", "bottom"),
    (-7, -20, "right", "top"),
    (7, 36, "left", "bottom"),
    (7, -36, "left", "top"),
    (-7, 36, "right", "bottom"),
    (-7, -36, "right", "top"),
)


def _label_points(figure: FigureBase, axes: Axes, points: Sequence[Point]) -> None:
    """Write each name where it covers the fewest other names and points, inside the axes."""
    from matplotlib.figure import Figure

    if isinstance(figure, Figure):
        figure.draw_without_rendering()
    scale = 72 / axes.figure.dpi
    inside = axes.get_window_extent()
    frame = (inside.x0 * scale, inside.y0 * scale, inside.x1 * scale, inside.y1 * scale)
    places = [axes.transData.transform((p.latency_ms, p.value)) * scale for p in points]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    taken += [_bar_box(axes, point, scale) for point in points]
    for point, (x, y) in zip(points, places, strict=True):
        text = point.name if point.measured else f"{point.name} (sum of members)"
        boxes = [_label_box(x, y, len(text), place) for place in _PLACES]
        costs = [sum(_overlap(box, other) for other in taken) + 3 * _outside(box, frame) for box in boxes]
        best = int(np.argmin([cost + 0.01 * k for k, cost in enumerate(costs)]))
        dx, dy, ha, va = _PLACES[best]
        taken.append(boxes[best])
        far = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.6} if abs(dy) > 10 else None
        axes.annotate(
            text,
            (point.latency_ms, point.value),
            (dx, dy),
            textcoords="offset points",
            ha=ha,
            va=va,
            fontsize=8.5,
            color="black",
            arrowprops=far,
            zorder=4,
        )


def _bar_box(axes: Axes, point: Point, scale: float) -> tuple[float, ...]:
    """The vertical interval of a point as a thin box, in points."""
    low = point.value if point.low is None else point.low
    high = point.value if point.high is None else point.high
    (x, bottom), (_, top) = axes.transData.transform([(point.latency_ms, low), (point.latency_ms, high)]) * scale
    return x - 1.5, bottom, x + 1.5, top


def _label_box(x: float, y: float, letters: int, place: tuple[int, int, str, str]) -> tuple[float, ...]:
    dx, dy, ha, va = place
    width, height = 5.3 * letters, 11.0
    left = x + dx - (width if ha == "right" else 0)
    bottom = y + dy - (height if va == "top" else 0)
    return left, bottom, left + width, bottom + height


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _outside(box: tuple[float, ...], frame: tuple[float, ...]) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return area - _overlap(box, frame)


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

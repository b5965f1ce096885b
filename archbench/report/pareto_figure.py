"""Accuracy against latency: which models no other beats in both, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from archbench.report.collect import DatasetResult
from archbench.report.figures import GRID_COLOR, Line, Panel, line_styles, wrap
from archbench.report.labels import format_ms, format_value, metric_label
from archbench.report.timing import runtime_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

MAX_NAMED_POINTS = 7
MAX_NARROW_LETTERS = 16


@dataclass(frozen=True)
class Point:
    """One model in the plane of latency and quality, each with its interval; a sum over members is not `measured`."""

    name: str
    latency_ms: float
    latency_low_ms: float | None
    latency_high_ms: float | None
    value: float
    low: float | None
    high: float | None
    measured: bool = True


def pareto_points(dataset: DatasetResult) -> list[Point]:
    """The models with both a primary metric and a latency (the headline's runtime, batch 1)."""
    points = []
    for model in dataset.evaluated:
        record, timing = model.record(dataset.primary), dataset.latency(model.name)
        if record is None or record["value"] is None:
            continue
        low, high = record.get("low"), record.get("high")
        if timing is not None:
            latency = (timing["median_ms"], timing.get("low_ms"), timing.get("high_ms"))
            points.append(Point(model.name, *latency, record["value"], low, high))
        elif model.is_ensemble and (total := ensemble_latency_ms(dataset)) is not None:
            points.append(Point(model.name, total, None, None, record["value"], low, high, measured=False))
    return points


def ensemble_latency_ms(dataset: DatasetResult) -> float | None:
    """Sum of the members' latencies; None unless two or more members, all timed, are used."""
    ensemble = dataset.ensemble
    members = ensemble.members if ensemble else []
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


def pareto_panel(dataset: DatasetResult, *, narrow: bool = False) -> Panel | None:
    """Quality against latency with intervals and the Pareto front; None if nothing was timed.

    Few models carry their names; many carry numbers, with a list of names beside the axes, or
    below them where the picture is narrow.
    """
    points = pareto_points(dataset)
    if not points:
        return None
    listed_apart = len(points) > MAX_NAMED_POINTS or (narrow and max(len(p.name) for p in points) > MAX_NARROW_LETTERS)
    width, height = (3.6, 3.8) if narrow else (7.2, 4.4)
    if listed_apart and narrow:
        height += 0.19 * len(points)
    elif listed_apart:
        width += 0.5 + 0.075 * max(len(p.name) for p in points)
    label = metric_label(dataset.primary)
    listed = "; ".join(
        f"{p.name} {label.short} {format_value(p.value)} at {format_ms(p.latency_ms)} ms" for p in points
    )
    front = pareto_front(points, lower_is_better=label.lower_is_better)
    alt = f"{label.long} against latency. {listed}. Pareto front: {', '.join(p.name for p in front)}."
    styles = line_styles([model.name for model in dataset.models])
    draw = partial(_draw_pareto, points=points, front=front, styles=styles, metric=label.long)
    draw = partial(draw, listing=("below" if narrow else "beside") if listed_apart else "")
    draw = partial(draw, runtime=runtime_name(dataset.headline_runtime), unit=dataset.unit)
    disturbed = " (timing disturbed)" if dataset.timing_disturbed else ""
    return Panel(f"Accuracy against latency, {dataset.name}{disturbed}", alt, draw, width, height)


def _draw_pareto(
    figure: FigureBase,
    *,
    points: Sequence[Point],
    front: Sequence[Point],
    styles: dict[str, Line],
    metric: str,
    listing: str,
    runtime: str,
    unit: str,
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
    texts = [_text_of(point) for point in points]
    if listing:
        points = sorted(points, key=lambda p: p.latency_ms)
        names = [f"{k}  {_text_of(point)}" for k, point in enumerate(points, 1)]
        texts = [str(k) for k in range(1, len(points) + 1)]
    for point in points:
        _draw_point(axes, point, styles[point.name])
    if listing:
        handles = [_legend_mark(point, styles[point.name], name) for point, name in zip(points, names, strict=True)]
        figure.legend(handles=handles, loc=f"outside {'lower' if listing == 'below' else 'right'} center")
    _set_latency_axis(axes, points, runtime=runtime, unit=unit)
    axes.set_ylabel(wrap(metric, 34))
    axes.grid(color=GRID_COLOR, linewidth=0.6)
    axes.margins(y=0.1)
    _label_points(figure, axes, points, texts)


def _text_of(point: Point) -> str:
    return point.name if point.measured else f"{point.name} (sum of members)"


def _legend_mark(point: Point, style: Line, name: str) -> Any:
    from matplotlib.lines import Line2D

    fill = style.color if point.measured else "white"
    return Line2D(
        [], [], color=style.color, marker=style.marker, markerfacecolor=fill, markersize=6, linestyle="", label=name
    )


def _draw_point(axes: Axes, point: Point, style: Line) -> None:
    low = 0.0 if point.low is None else max(0.0, point.value - point.low)
    high = 0.0 if point.high is None else max(0.0, point.high - point.value)
    left = 0.0 if point.latency_low_ms is None else max(0.0, point.latency_ms - point.latency_low_ms)
    right = 0.0 if point.latency_high_ms is None else max(0.0, point.latency_high_ms - point.latency_ms)
    axes.errorbar(
        [point.latency_ms],
        [point.value],
        yerr=[[low], [high]],
        xerr=[[left], [right]],
        color=style.color,
        marker=style.marker,
        markersize=7,
        markerfacecolor=style.color if point.measured else "white",
        linewidth=1.2,
        capsize=2.5,
        zorder=3,
    )


def _set_latency_axis(axes: Axes, points: Sequence[Point], *, runtime: str, unit: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low = min(p.latency_low_ms or p.latency_ms for p in points)
    high = max(p.latency_high_ms or p.latency_ms for p in points)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.35, high * 1.6)
    ticks = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5)]
    axes.xaxis.set_major_locator(FixedLocator([t for t in ticks if low / 1.35 <= t <= high * 1.6]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(f"ms per {unit} (log scale)\n{runtime}, batch 1")


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


def _label_points(figure: FigureBase, axes: Axes, points: Sequence[Point], texts: Sequence[str]) -> None:
    """Write each text where it covers the fewest other names and points, inside the axes."""
    figure.get_figure(root=True).draw_without_rendering()  # so that the places on paper are known
    scale = 72 / axes.figure.dpi
    inside = axes.get_window_extent()
    frame = (inside.x0 * scale, inside.y0 * scale, inside.x1 * scale, inside.y1 * scale)
    places = [axes.transData.transform((p.latency_ms, p.value)) * scale for p in points]
    taken: list[tuple[float, ...]] = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    taken += [_bar_box(axes, point, scale) for point in points]
    for point, text, (x, y) in zip(points, texts, places, strict=True):
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

"""Pictures of the timing: accuracy against throughput, memory and size, and where the time of an image goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.figures import GRID_COLOR, OKABE_ITO, Line, Panel, line_styles, wrap
from archbench.report.labels import format_ms, format_value, metric_label
from archbench.report.timing import contender_of, peak_memory_mib, runtime_name

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

MAX_BARS = 16
STAGES = (("decode_ms", "decode"), ("preprocess_ms", "preprocess"), ("model_ms", "model"))
STAGE_COLORS = (OKABE_ITO[4], OKABE_ITO[5], OKABE_ITO[0])


@dataclass(frozen=True)
class Spot:
    """A model in the plane of a cost and quality: (value, low, high) of both."""

    name: str
    cost: tuple[float, float | None, float | None]
    quality: tuple[float, float | None, float | None]


@dataclass(frozen=True)
class Trade:
    """A cost that quality is drawn against.

    Attributes:
        axis: Label; {unit} stands for image or volume.
        cost: The cost of a model with its interval, None if unknown.
        more_is_better: Whether a large value is wanted (throughput).
    """

    title: str
    axis: str
    cost: Callable[[DatasetResult, ModelResult], tuple[float, float | None, float | None] | None]
    more_is_better: bool = False


def _throughput(dataset: DatasetResult, model: ModelResult) -> tuple[float, float | None, float | None] | None:
    rows = [
        row
        for row in (dataset.timing or {}).get("results", [])
        if (row["model"], row["runtime"]) == (model.name, dataset.headline_runtime)
    ]
    if not rows:
        return None
    best = max(rows, key=lambda row: row["throughput_img_per_s"])
    return best["throughput_img_per_s"], best.get("throughput_low"), best.get("throughput_high")


def _memory(dataset: DatasetResult, model: ModelResult) -> tuple[float, float | None, float | None] | None:
    value = peak_memory_mib(contender_of(dataset, model.name, dataset.headline_runtime))
    return None if value is None else (value, None, None)


def _size(dataset: DatasetResult, model: ModelResult) -> tuple[float, float | None, float | None] | None:
    value = (model.export or {}).get("onnx_bytes")
    return None if value is None else (value / 2**20, None, None)


TRADES = (
    Trade("throughput", "{unit}s / s at the best batch", _throughput, more_is_better=True),
    Trade("memory", "peak memory of the process at batch 1, MiB", _memory),
    Trade("size", "ONNX file, MiB", _size),
)


def spots_of(dataset: DatasetResult, trade: Trade) -> list[Spot]:
    """The drawn models whose quality and cost are both known."""
    spots = []
    for model in dataset.drawn:
        record, cost = model.record(dataset.primary), trade.cost(dataset, model)
        if record is not None and record["value"] is not None and cost is not None:
            spots.append(Spot(model.name, cost, (record["value"], record.get("low"), record.get("high"))))
    return spots


def front_of(spots: Sequence[Spot], *, more_is_better: bool, lower_is_better: bool) -> list[Spot]:
    """The spots that no other beats in both, from the cheapest to the best."""
    cost, quality = (-1 if more_is_better else 1), (-1 if lower_is_better else 1)
    front: list[Spot] = []
    for spot in sorted(spots, key=lambda s: (cost * s.cost[0], -quality * s.quality[0])):
        if not front or quality * spot.quality[0] > quality * front[-1].quality[0]:
            front.append(spot)
    return front


def trade_panels(dataset: DatasetResult) -> list[Panel]:
    """Quality against throughput, memory and size, each with its Pareto front."""
    label, styles = metric_label(dataset.primary), line_styles([model.name for model in dataset.models])
    panels = []
    for trade in TRADES:
        spots = spots_of(dataset, trade)
        if len(spots) < 2:
            continue
        front = front_of(spots, more_is_better=trade.more_is_better, lower_is_better=label.lower_is_better)
        listed = "; ".join(f"{s.name} {format_value(s.quality[0])} at {s.cost[0]:.3g}" for s in spots)
        axis = trade.axis.format(unit=dataset.unit)
        alt = f"{label.long} against {axis}. {listed}. Pareto front: {', '.join(s.name for s in front)}."
        draw = partial(_draw_trade, spots=spots, front=front, styles=styles, axis=axis, metric=label.short)
        panels.append(Panel(f"{label.short} against {trade.title}, {dataset.name}", alt, draw))
    return panels


def _draw_trade(
    figure: FigureBase,
    *,
    spots: Sequence[Spot],
    front: Sequence[Spot],
    styles: dict[str, Line],
    axis: str,
    metric: str,
) -> None:
    axes = figure.subplots()
    xs, ys = [s.cost[0] for s in front], [s.quality[0] for s in front]
    axes.step(xs, ys, where="post", color="#777777", linewidth=1.0, zorder=1)
    for spot in spots:
        style = styles[spot.name]
        axes.errorbar(
            spot.cost[0],
            spot.quality[0],
            xerr=_bar(spot.cost),
            yerr=_bar(spot.quality),
            color=style.color,
            marker=style.marker,
            markersize=6,
            linewidth=1.3,
            capsize=2,
            zorder=3,
        )
    _set_log_axis(axes, spots)
    axes.set_xlabel(wrap(axis, 40))
    axes.set_ylabel(metric)
    axes.grid(color=GRID_COLOR, linewidth=0.6)


def _bar(value: tuple[float, float | None, float | None]) -> list[list[float]] | None:
    middle, low, high = value
    return None if low is None or high is None else [[max(0.0, middle - low)], [max(0.0, high - middle)]]


def _set_log_axis(axes: Any, spots: Sequence[Spot]) -> None:
    """A logarithmic axis with at most six round ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low = min(min(s.cost[0], s.cost[1] or s.cost[0]) for s in spots) / 1.3
    high = max(max(s.cost[0], s.cost[2] or s.cost[0]) for s in spots) * 1.3
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in range(-3, 8) for m in steps if low <= m * 10.0**e <= high]
        if 2 <= len(ticks) <= 6:
            break
    axes.xaxis.set_major_locator(FixedLocator(ticks or [spots[0].cost[0]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}".replace(",", "\u202f")))


def stages_panel(dataset: DatasetResult, *, narrow: bool = False) -> Panel | None:
    """Stacked bars: decoding, preprocessing and the model, for each model and runtime; None if not timed."""
    rows = ((dataset.timing or {}).get("stages") or [])[:MAX_BARS]
    if not rows:
        return None
    listed = "; ".join(
        f"{row['model']} in {runtime_name(row['runtime'])}: "
        + ", ".join(f"{name} {format_ms(row[key])} ms" for key, name in STAGES)
        for row in rows
    )
    alt = f"Where the time of one {dataset.unit} goes, from file to answer. {listed}."
    width, height = (3.6, 1.3 + 0.42 * len(rows)) if narrow else (7.2, 1.1 + 0.32 * len(rows))
    draw = partial(_draw_stages, rows=rows, letters=16 if narrow else 38, unit=dataset.unit)
    return Panel(f"Where the time goes, {dataset.name}", alt, draw, width, height)


def _draw_stages(figure: FigureBase, *, rows: Sequence[dict[str, Any]], letters: int, unit: str) -> None:
    axes = figure.subplots()
    names = [f"{row['model']}, {runtime_name(row['runtime'])}" for row in rows]
    starts = [0.0] * len(rows)
    for (key, name), color in zip(STAGES, STAGE_COLORS, strict=True):
        widths = [row[key] for row in rows]
        axes.barh(range(len(rows)), widths, left=starts, color=color, label=name, height=0.66)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.set_yticks(range(len(rows)), [wrap(name, letters) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel(wrap(f"ms per {unit}, from file to answer (medians of the steps)", 2 * letters))
    axes.grid(axis="x", color=GRID_COLOR, linewidth=0.6)
    figure.legend(loc="outside upper right", ncols=3)

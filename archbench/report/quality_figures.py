"""Figures of quality: classes, confusion, ROC and precision-recall curves, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.figures import GRID_COLOR, OKABE_ITO, Line, Panel, line_styles, wrap
from archbench.report.labels import format_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

# A bin with fewer cases says nothing, and its line would draw the eye.
MIN_BIN_CASES = 5
BLUE, ORANGE = OKABE_ITO[0], OKABE_ITO[1]
Bands = Mapping[str, Mapping[str, Mapping[str, Any]]]


def class_distribution_panel(dataset: DatasetResult) -> Panel | None:
    """Cases and patients per class."""
    classes = (dataset.audit or {}).get("classes") or []
    if not classes:
        return None
    counts = ", ".join(f"{c['name']} {c['n_cases']} cases of {c['n_patients']} patients" for c in classes)
    height = 0.9 + 0.42 * len(classes)
    return Panel(
        title=f"Classes of {dataset.name}",
        alt=f"Bar chart of the cases per class: {counts}.",
        draw=partial(_draw_classes, classes=classes),
        width=5.0,
        height=height,
    )


def _draw_classes(figure: FigureBase, *, classes: Sequence[Mapping[str, Any]]) -> None:
    axes = figure.subplots()
    places = np.arange(len(classes))
    cases = [c["n_cases"] for c in classes]
    patients = [c["n_patients"] for c in classes]
    axes.barh(places - 0.18, cases, height=0.34, color=BLUE, label="cases")
    axes.barh(places + 0.18, patients, height=0.34, color=OKABE_ITO[5], label="patients")
    for values, shift in ((cases, -0.18), (patients, 0.18)):
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                str(value), (value, place + shift), (3, 0), textcoords="offset points", va="center", fontsize=8
            )
    axes.set_yticks(places, [wrap(c["name"], 26) for c in classes])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max([*cases, 1]))
    axes.set_xlabel("count")
    figure.legend(loc="outside upper right", ncols=2)


def confusion_panels(dataset: DatasetResult) -> list[Panel]:
    """One confusion matrix per model: rows are the truth, colour the share of the row."""
    panels = []
    for model in ranked_drawn(dataset):
        panels += _grouped_panels(dataset, model)
        matrix = np.array((model.metrics or {}).get("confusion_matrix") or [], dtype=float)
        if matrix.ndim != 2 or not matrix.size:
            continue
        classes = list((model.metrics or {})["classes"])
        panels.append(_confusion_panel(model.name, matrix, classes))
    return panels


def _grouped_panels(dataset: DatasetResult, model: ModelResult) -> list[Panel]:
    """Of labels one matrix each, of the best model; of zones one each, and that of the risk classes."""
    metrics = model.metrics or {}
    panels = []
    if dataset.outputs == "labels" and model is ranked_drawn(dataset)[0]:
        for name, matrix in (metrics.get("confusion_matrices") or {}).items():
            panels.append(
                _confusion_panel(f"{model.name}: {name}", np.array(matrix, dtype=float), ["absent", "present"])
            )
    for name, values in (metrics.get("per_zone") or {}).items():
        matrix = np.array(values["confusion_matrix"], dtype=float)
        panels.append(_confusion_panel(f"{model.name}: {name}", matrix, list(metrics["classes"])))
    if metrics.get("risk"):
        risk = metrics["risk"]
        matrix = np.array(risk["confusion_matrix"], dtype=float)
        panels.append(_confusion_panel(f"{model.name}: risk class", matrix, list(risk["classes"])))
    return panels


def _confusion_panel(name: str, matrix: np.ndarray, classes: list[str]) -> Panel:
    k = len(classes)
    cell = 0.5 if k <= 6 else (0.4 if k <= 10 else 0.22)
    longest = max(len(line) for c in classes for line in wrap(c, 18).split("\n"))
    side = k * cell + 0.075 * longest + 0.4
    totals = matrix.sum(axis=1)
    found = [
        f"{c} {format_share(matrix[i, i] / totals[i])} of {totals[i]:.0f}" for i, c in enumerate(classes) if totals[i]
    ]
    return Panel(
        title=name,
        alt=f"Confusion matrix of {name}. Found: {', '.join(found)}.",
        draw=partial(_draw_confusion, matrix=matrix, classes=classes),
        width=max(side, 3.0),
        height=max(side, 3.0),
    )


def _draw_confusion(figure: FigureBase, *, matrix: np.ndarray, classes: list[str]) -> None:
    axes, k = figure.subplots(), len(classes)
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    axes.imshow(share, cmap=_blues(), vmin=0, vmax=1)
    size = 8.5 if k <= 6 else (7.5 if k <= 10 else 6)
    for i in range(k):
        for j in range(k):
            if k > 10 and not matrix[i, j]:
                continue
            text = f"{matrix[i, j]:.0f}"
            if k <= 6 and totals[i, 0]:
                text += f"\n{100 * share[i, j]:.0f} %"
            color = "white" if share[i, j] > 0.55 else "black"
            axes.text(j, i, text, ha="center", va="center", color=color, fontsize=size, linespacing=1.15)
    labels = [wrap(name, 18) for name in classes]
    steep = max(len(line) for name in labels for line in name.split("\n")) > 4
    axes.set_xticks(range(k), labels)
    if steep and k > 10:
        axes.tick_params(axis="x", labelrotation=90)
    elif steep:
        for tick in axes.get_xticklabels():
            tick.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0, labelsize=8.5 if k <= 10 else 7)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xticks(np.arange(0.5, k - 1), minor=True)
    axes.set_yticks(np.arange(0.5, k - 1), minor=True)
    axes.grid(which="minor", color=GRID_COLOR, linewidth=0.4)
    axes.tick_params(which="minor", length=0)


def _blues() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("archbench_blues", ["#ffffff", "#9ecbe6", BLUE, "#003d60"])


def roc_panels(dataset: DatasetResult, bands: Bands | None = None) -> list[Panel]:
    """One panel per class: the ROC curve of every model, vertical mean over folds; the best one with its band."""
    return _curve_panels(dataset, key="roc", draw=_draw_roc, what="ROC curves", bands=bands or {})


def precision_recall_panels(
    dataset: DatasetResult, curves: Mapping[str, Mapping[str, Mapping[str, Any]]], bands: Bands | None = None
) -> list[Panel]:
    """One panel per class: precision against recall of every model, mean over folds; the best one with its band.

    Args:
        curves: model -> class -> {"recall", "precision", "prevalence"}.
        bands: class -> {"roc", "precision_recall"} -> {"low", "high"} of the best model.
    """
    best = next((model.name for model in ranked_drawn(dataset)), "")
    styles = line_styles([model.name for model in dataset.models])
    panels = []
    for name in _classes(dataset):
        lines = {model: of[name] for model, of in curves.items() if name in of}
        _add_band(lines, best, (bands or {}).get(name, {}).get("precision_recall"))
        if lines:
            panels.append(_curve_panel(name, "Precision-recall curves", _draw_pr, lines, styles))
    return panels


def _add_band(lines: dict[str, Any], best: str, band: Mapping[str, Any] | None) -> None:
    if band and best in lines:
        lines[best] = {**lines[best], **band}


def _curve_panels(dataset: DatasetResult, *, key: str, draw: Any, what: str, bands: Bands) -> list[Panel]:
    styles = line_styles([model.name for model in dataset.models])
    best = next((model.name for model in ranked_drawn(dataset)), "")
    panels = []
    for name in _classes(dataset):
        lines = {
            model.name: curve for model in dataset.drawn if (curve := ((model.metrics or {}).get(key) or {}).get(name))
        }
        _add_band(lines, best, bands.get(name, {}).get(key))
        if lines:
            panels.append(_curve_panel(name, what, draw, lines, styles))
    return panels


def _curve_panel(name: str, what: str, draw: Any, lines: Mapping[str, Any], styles: dict[str, Line]) -> Panel:
    alt = f"{what} for {name} against the rest: {', '.join(lines)}."
    return Panel(name, alt, partial(draw, lines=lines, styles=styles), width=2.85, height=2.75)


def _classes(dataset: DatasetResult) -> list[str]:
    key = "labels" if dataset.outputs == "zones" else "classes"
    return next((list(model.metrics.get(key) or []) for model in dataset.evaluated if model.metrics), [])


def _square(figure: FigureBase, x: str, y: str) -> Axes:
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y, aspect="equal")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.grid(color=GRID_COLOR, linewidth=0.6)
    return axes


def _draw_roc(figure: FigureBase, *, lines: Mapping[str, Any], styles: dict[str, Line]) -> None:
    axes = _square(figure, "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, linestyle=":")
    for name, curve in lines.items():
        style = styles[name]
        _draw_band(axes, curve, style)
        axes.plot(curve["fpr"], curve["tpr"], color=style.color, linestyle=style.linestyle, linewidth=1.6)


def _draw_band(axes: Axes, curve: Mapping[str, Any], style: Line) -> None:
    if curve.get("low"):
        x = np.linspace(0.0, 1.0, len(curve["low"]))
        axes.fill_between(x, curve["low"], curve["high"], color=style.color, alpha=0.16, linewidth=0)


def _draw_pr(figure: FigureBase, *, lines: Mapping[str, Any], styles: dict[str, Line]) -> None:
    axes = _square(figure, "recall", "precision")
    for name, curve in lines.items():
        style = styles[name]
        _draw_band(axes, curve, style)
        axes.plot(curve["recall"], curve["precision"], color=style.color, linestyle=style.linestyle, linewidth=1.6)
    prevalence = next(iter(lines.values()))["prevalence"]
    axes.axhline(prevalence, color="#777777", linewidth=0.8, linestyle=":")


def reliability_panels(dataset: DatasetResult) -> list[Panel]:
    """One panel per model: stated against true confidence, before and after calibration."""
    panels = []
    for model in ranked_drawn(dataset):
        reliability = (model.calibration or {}).get("reliability") or {}
        if any(reliability.get(key) for key in ("raw", "calibrated")):
            alt = f"Reliability of {model.name}: accuracy against confidence, raw and calibrated."
            draw = partial(_draw_reliability, reliability=reliability)
            panels.append(Panel(model.name, alt, draw, width=2.85, height=3.05))
    return panels


def _draw_reliability(figure: FigureBase, *, reliability: Mapping[str, Any]) -> None:
    axes = _square(figure, "stated confidence", "share that is right")
    axes.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, linestyle=":")
    for key, color, marker in (("raw", ORANGE, "s"), ("calibrated", BLUE, "o")):
        bins = [
            b for b in reliability.get(key) or [] if b.get("accuracy") is not None and b.get("n", 0) >= MIN_BIN_CASES
        ]
        if not bins:
            continue
        x = [b["confidence"] for b in bins]
        y = [b["accuracy"] for b in bins]
        low = [max(0.0, b["accuracy"] - _or(b.get("low"), b["accuracy"])) for b in bins]
        high = [max(0.0, _or(b.get("high"), b["accuracy"]) - b["accuracy"]) for b in bins]
        axes.errorbar(
            x, y, yerr=[low, high], color=color, marker=marker, markersize=4, linewidth=1.2, label=key, capsize=2
        )
    figure.legend(loc="outside upper center", ncols=2)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def ranked(dataset: DatasetResult) -> list[ModelResult]:
    """The evaluated models, best first where a comparison ranks them."""
    order = [row["model"] for row in (dataset.comparison or {}).get("models", [])]
    return sorted(dataset.evaluated, key=lambda m: order.index(m.name) if m.name in order else len(order))


def ranked_drawn(dataset: DatasetResult) -> list[ModelResult]:
    """The models with pictures of their own, best first."""
    return [model for model in ranked(dataset) if model in dataset.drawn]

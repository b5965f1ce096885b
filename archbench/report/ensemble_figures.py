"""Figures of the ensemble's decision: every candidate with its interval, and the gain label by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from archbench.report.collect import DatasetResult
from archbench.report.figures import GRID_COLOR, OKABE_ITO, Panel, wrap
from archbench.report.labels import format_value, metric_label

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

CHOSEN, TRIED, BASE = OKABE_ITO[1], OKABE_ITO[0], "#777777"
NAME_WIDTH = 22


def ensemble_panels(dataset: DatasetResult) -> list[Panel]:
    """The pictures of the decision; empty without one."""
    decision = (dataset.ensemble.decision if dataset.ensemble else None) or {}
    found = (candidates_panel(dataset, decision), improvement_panel(decision))
    return [panel for panel in found if panel is not None]


def candidates_panel(dataset: DatasetResult, decision: Mapping[str, Any]) -> Panel | None:
    """Members and candidates with the interval of the primary metric; None for decisions without members' values."""
    bases = [{**row, "kind": "member"} for row in decision.get("base_models") or []]
    tried = [{**row, "kind": "candidate"} for row in (decision.get("candidates") or [])[1:]]
    rows = [row for row in (*bases, *tried) if row.get("value") is not None]
    if not bases or not tried or not rows:
        return None
    label = metric_label(str(decision.get("primary") or dataset.primary))
    chosen = str(decision.get("choice", "")).removeprefix("best base (").removesuffix(")")
    listed = ", ".join(f"{row['name']} {format_value(row['value'])}" for row in rows)
    return Panel(
        title=f"Members and candidates by {label.short}",
        alt=f"Points with intervals: {listed}. Chosen: {decision.get('choice')}.",
        draw=partial(_draw_candidates, rows=rows, chosen=chosen, axis=label.short),
        width=4.6,
        height=1.0 + 0.3 * len(rows),
    )


def _draw_candidates(figure: FigureBase, *, rows: Sequence[Mapping[str, Any]], chosen: str, axis: str) -> None:
    axes = figure.subplots()
    for place, row in enumerate(rows):
        color = CHOSEN if row["name"] == chosen else BASE if row["kind"] == "member" else TRIED
        if row.get("low") is not None and row.get("high") is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=color, linewidth=1.6)
        axes.plot(row["value"], place, "s" if row["kind"] == "member" else "o", color=color, markersize=5)
    names = [wrap(f"{row['name']} (chosen)" if row["name"] == chosen else str(row["name"]), NAME_WIDTH) for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    members = sum(row["kind"] == "member" for row in rows)
    axes.axhline(members - 0.5, color=GRID_COLOR, linewidth=1)
    axes.set_xlabel(axis)
    axes.grid(axis="x", color=GRID_COLOR, linewidth=0.6)
    axes.tick_params(axis="y", length=0)


def improvement_panel(decision: Mapping[str, Any]) -> Panel | None:
    """Gain over the best member on each label, zone or class, one column per candidate; None without labels."""
    found = decision.get("improvement") or {}
    labels, columns = found.get("labels") or [], found.get("candidates") or []
    if not labels or not columns:
        return None
    gains = np.array([_numbers(column, "value") for column in columns]).T
    low = np.array([_numbers(column, "low90") for column in columns]).T
    high = np.array([_numbers(column, "high90") for column in columns]).T
    metric = metric_label(str(found["metric"])).short
    kinds = {"class": "classes"}.get(str(found["of"]), f"{found['of']}s")
    counts = "; ".join(f"{c['name']}: {c['n_improved']} of {len(labels)} {kinds} better" for c in columns)
    return Panel(
        title=f"Gain in {metric} over {found['base']}, {found['of']} by {found['of']}",
        alt=f"Heat map of the gain over the best member {found['base']}. {counts}.",
        draw=partial(_draw_gains, gains=gains, sure=(low > 0) | (high < 0), labels=labels, columns=columns),
        width=1.9 + 0.85 * len(columns),
        height=1.5 + 0.3 * len(labels),
    )


def _numbers(column: Mapping[str, Any], key: str) -> list[float]:
    return [float("nan") if gain[key] is None else float(gain[key]) for gain in column["gains"]]


def _draw_gains(
    figure: FigureBase,
    *,
    gains: np.ndarray,
    sure: np.ndarray,
    labels: Sequence[str],
    columns: Sequence[Mapping[str, Any]],
) -> None:
    axes = figure.subplots()
    largest = max(float(np.nanmax(np.abs(gains))) if np.isfinite(gains).any() else 0.0, 1e-3)
    axes.imshow(gains, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    for i, j in np.argwhere(np.isfinite(gains)).tolist():
        color = "white" if abs(gains[i, j]) > 0.6 * largest else "black"
        weight = "bold" if sure[i, j] else "normal"
        axes.text(j, i, f"{gains[i, j]:+.3f}", ha="center", va="center", fontsize=8, color=color, fontweight=weight)
    names = [f"{wrap(str(c['name']), 12)}\n{c['n_improved']} of {len(labels)}" for c in columns]
    axes.set_xticks(range(len(columns)), names, fontsize=8)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(labels)), [wrap(str(name), NAME_WIDTH) for name in labels], fontsize=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)

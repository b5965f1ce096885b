"""Figures of labels and zones: what goes together, how many labels a case has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from archbench.report.collect import DatasetResult
from archbench.report.figures import OKABE_ITO, Panel, wrap

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

MAX_WRITTEN = 10


def co_occurrence_panel(dataset: DatasetResult) -> Panel | None:
    """Of the cases with one label, the share that has another one too."""
    audit = dataset.audit or {}
    matrix = np.array(audit.get("co_occurrence") or [], dtype=float)
    if matrix.ndim != 2 or not matrix.size:
        return None
    names = [row["name"] for row in audit["labels"]]
    own = np.diag(matrix)
    share = np.divide(matrix, own[:, None], out=np.zeros_like(matrix), where=own[:, None] > 0)
    np.fill_diagonal(share, np.nan)
    side = 1.9 + 0.36 * len(names)
    strongest = "none"
    if len(names) > 1 and np.nanmax(share) > 0:
        i, j = np.unravel_index(int(np.nanargmax(share)), share.shape)
        strongest = f"{names[j]} in {100 * share[i, j]:.0f} % of the cases with {names[i]}"
    return Panel(
        title="What goes together",
        alt=f"Matrix of the share of cases with one label that have another one too; the strongest: {strongest}.",
        draw=partial(_draw_matrix, share=share, names=names),
        width=side,
        height=side - 0.3,
    )


def _draw_matrix(figure: FigureBase, *, share: np.ndarray, names: Sequence[str]) -> None:
    axes = figure.subplots()
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    k = len(names)
    if k <= MAX_WRITTEN:
        for i, j in np.argwhere(~np.isnan(share)).tolist():
            color = "white" if share[i, j] > 0.55 else "black"
            axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=8, color=color)
    labels = [wrap(name, 20) for name in names]
    axes.set_xticks(range(k), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(k), labels, fontsize=8)
    axes.set_ylabel("of the cases with")
    axes.set_xlabel("per cent have too")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def labels_per_case_panel(dataset: DatasetResult) -> Panel | None:
    """How many cases have no label, one, two and so on."""
    counts = (dataset.audit or {}).get("labels_per_case") or []
    if not counts:
        return None
    words = ", ".join(f"{n} cases with {k}" for k, n in enumerate(counts))
    return Panel("Labels per case", f"Bar chart: {words}.", partial(_draw_counts, counts=counts), width=3.4, height=2.6)


def _draw_counts(figure: FigureBase, *, counts: Sequence[int]) -> None:
    axes = figure.subplots()
    bars = axes.bar(range(len(counts)), counts, color=OKABE_ITO[0])
    axes.bar_label(bars, fontsize=8)
    axes.set_xticks(range(len(counts)))
    axes.set_xlabel("labels of a case")
    axes.set_ylabel("cases")

"""What the page shows of quality: tables and pictures of one dataset."""

from __future__ import annotations

from typing import Any

from archbench.report.cells import Table
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.comparison_tables import fold_table_of_values, pairs_table, ranks_table, verdict_matrix
from archbench.report.figures import line_styles, render, render_all
from archbench.report.forest_figure import forest_panel
from archbench.report.label_tables import label_table, risk_table, zone_table
from archbench.report.panels import DatasetPanels
from archbench.report.quality_figures import ranked_drawn
from archbench.report.quality_tables import calibration_table, class_table, main_table, other_metrics_table
from archbench.report.variance import variance_table


def quality_view(dataset: DatasetResult, panels: DatasetPanels) -> dict[str, Any]:
    """The quality of a dataset's models as the template shows it."""
    styles = line_styles([model.name for model in dataset.models])
    hidden = [model.name for model in dataset.evaluated if model not in dataset.drawn]
    return {
        "main_table": main_table(dataset),
        "other_metrics": other_metrics_table(dataset),
        "pairs": pairs_table(dataset),
        "ranks": ranks_table(dataset),
        **_uncertainty_view(dataset, panels),
        "fold_values": fold_table_of_values(dataset),
        "hidden": hidden,
        "class_tables": [{"model": m.name, "table": _class_table(dataset, m)} for m in ranked_drawn(dataset)],
        "risk": risk_table(dataset),
        "calibration": calibration_table(dataset),
        "legend": [
            {"name": m.name, "color": styles[m.name].color, "dash": " ".join(f"{d * 2:g}" for d in styles[m.name].dash)}
            for m in dataset.drawn
        ],
        "class_distribution": render_all(panels.class_distribution),
        "confusion": render_all(panels.confusion),
        "roc": render_all(panels.roc),
        "precision_recall": render_all(panels.precision_recall),
        "reliability": render_all(panels.reliability),
    }


def _class_table(dataset: DatasetResult, model: ModelResult) -> Table | None:
    """Each class, label or zone of a model; None for a regression."""
    makers = {"classes": class_table, "labels": label_table, "zones": zone_table}
    return makers[dataset.outputs](dataset, model) if dataset.outputs in makers else None


def _uncertainty_view(dataset: DatasetResult, panels: DatasetPanels) -> dict[str, Any]:
    narrow = forest_panel(dataset, narrow=True)
    return {
        "forest": next(iter(render_all(panels.forest)), None),
        "forest_narrow": render(narrow) if narrow else None,
        "verdicts": verdict_matrix(dataset),
        "variance": render_all(panels.variance),
        "variance_table": variance_table(dataset),
    }

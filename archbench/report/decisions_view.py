"""What the page shows of calibration by class or label, thresholds, net benefit and conformal sets."""

from __future__ import annotations

from typing import Any

from archbench.report.calibration_view import question_panel, question_table
from archbench.report.collect import DatasetResult
from archbench.report.conformal_tables import conformal_parts_table, conformal_table
from archbench.report.decision_curves import MAX_QUESTIONS, questions_of, useful_table
from archbench.report.figures import render, render_all
from archbench.report.panels import DatasetPanels
from archbench.report.quality_figures import ranked, ranked_drawn
from archbench.report.threshold_view import cut_spread_table, cut_table, threshold_table, tuned_table
from archbench.tasks import get_task

DECISION_RULES = {
    "argmax": "the predicted class is the one with the highest probability",
    "expected_grade": "the predicted class is the mean grade under the predicted probabilities, rounded",
}
# Pictures of every class of more models than these would make the page long and its writing slow.
MAX_DETAILED = 4


def decisions_view(dataset: DatasetResult, panels: DatasetPanels) -> dict[str, Any]:
    """Calibration, thresholds, net benefit and sets of a dataset's models as the template shows them."""
    questions = questions_of(dataset)
    return {
        "questions": _questions_view(dataset),
        "tuned": tuned_table(dataset),
        "thresholds": [t for m in ranked(dataset) if (t := threshold_table(dataset, m)) is not None],
        "threshold_pictures": render_all(panels.thresholds),
        "cuts": cut_table(dataset),
        "cut_spread": cut_spread_table(dataset),
        "cut_pictures": render_all(panels.cuts),
        "decision_rule": DECISION_RULES[get_task(dataset.entry["task"]).decision],
        "decision_curves": render_all(panels.decision_curves),
        "curves_left_out": max(0, len(questions) - MAX_QUESTIONS),
        "useful": useful_table(dataset),
        "conformal": conformal_table(dataset),
        "conformal_parts": [t for m in ranked(dataset) if (t := conformal_parts_table(dataset, m)) is not None],
        "unfitted": _unfitted(dataset),
    }


def _questions_view(dataset: DatasetResult) -> list[dict[str, Any]]:
    """Table and picture of each model's classes or labels; pictures of the best few only."""
    views: list[dict[str, Any]] = []
    for model in ranked_drawn(dataset):
        table = question_table(dataset, model)
        panel = question_panel(model) if len(views) < MAX_DETAILED else None
        if table is not None:
            views.append({"model": model.name, "table": table, "picture": render(panel) if panel else None})
    return views


def _unfitted(dataset: DatasetResult) -> list[str]:
    """Why something could not be fitted, by model."""
    found = []
    for model in ranked(dataset):
        for key, what in (
            ("tuned", "thresholds"),
            ("cut_points", "cut points"),
            ("decision_curve", "decision curve"),
            ("conformal", "conformal sets"),
        ):
            reason = ((model.metrics or {}).get(key) or {}).get("reason")
            if reason:
                found.append(f"{model.name}, {what}: {reason}.")
    return found

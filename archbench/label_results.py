"""What is reported of each label or zone: metrics with intervals, curves, confusion."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from archbench.artifacts import MetricRecord, Predictions, softmax
from archbench.metrics.auroc import one_vs_rest, roc_curve
from archbench.metrics.drawn import Drawn
from archbench.metrics.label_sets import OVERPREDICTION_ALARM
from archbench.metrics.metric import Array, Metric, confusion_matrix, defined_or_none, mean_defined
from archbench.metrics.scoring import MIN_PATIENTS_PER_SIDE, frozen_classes, score_drawn
from archbench.metrics.views import RISK_CLASSES, is_grouped, risk_view, view_of, views, whole_view
from archbench.registry import METRICS
from archbench.resampled import Resampled

ROC_GRID = np.linspace(0.0, 1.0, 101)
LABEL_METRICS = {
    "auroc": "auroc_macro",
    "auprc": "auprc_macro",
    "f1": "f1_macro",
    "precision": "precision_macro",
    "recall": "recall_macro",
    "specificity": "specificity_macro",
}
LABEL_REASONS = {
    "auroc": "no fold has cases with and without this label",
    "auprc": "no fold has a case with this label",
    "f1": "the label occurs neither in truth nor in prediction",
    "precision": "the label is never predicted",
    "recall": "no case has this label",
    "specificity": "every case has this label",
}
ZONE_METRICS = {
    "macro_f1": "macro_f1",
    "weighted_f1": "weighted_f1",
    "accuracy": "accuracy",
    "qwk": "qwk",
    "auroc": "auroc_macro",
    "auprc": "auprc_macro",
}


def label_record(sample: Resampled, group: int, key: str) -> MetricRecord:
    """Return the record of one of `LABEL_METRICS` of a label."""
    return sample.group_scored(key, group, METRICS.get(LABEL_METRICS[key]), LABEL_REASONS[key])


def per_label(sample: Resampled) -> dict[str, dict[str, Any]]:
    """Return each label's counts and metrics; `counted` says whether it is in the frozen set of the macro means."""
    counted = frozen_classes(sample.rows)[:, 1]
    result: dict[str, dict[str, Any]] = {}
    for k, (name, group) in enumerate(zip(sample.rows.labels, sample.drawn.groups, strict=True)):
        table = group.predictions
        one_seed = table.select(table.seed == sample.rows.seed.min())
        positive, n = int((one_seed.targets[:, 0] == 1).sum()), len(one_seed)
        called = float(table.decisions.mean()) if len(table) else None
        result[name] = {
            "support": positive,
            "n_negative": n - positive,
            "prevalence": positive / n if n else None,
            "positive_rate": called,
            "counted": bool(counted[k]),
        }
        for key in LABEL_METRICS:
            result[name][key] = label_record(sample, k, key)
    return result


def per_zone(sample: Resampled) -> dict[str, dict[str, Any]]:
    """Return each zone's counts, metrics and confusion matrix (summed over seeds, rows the truth)."""
    result: dict[str, dict[str, Any]] = {}
    for k, (name, group) in enumerate(zip(sample.rows.labels, sample.drawn.groups, strict=True)):
        graded, _ = sample.counts(sample.known[:, k])
        result[name] = {"support": graded, "n_ungradable": sample.n_cases - graded}
        for key, of in ZONE_METRICS.items():
            metric = METRICS.get(of)
            result[name][key] = sample.group_scored(key, k, metric, metric.undefined_reason)
        result[name]["confusion_matrix"] = confusion_counts(group.predictions)
    return result


def confusion_counts(table: Predictions) -> list[list[int]]:
    """Return counts summed over seeds, rows the truth."""
    if len(table) == 0:
        return [[0] * len(table.classes) for _ in table.classes]
    counts = confusion_matrix(table.y_true, table.decisions, len(table.classes))
    return [[int(count) for count in line] for line in counts]


def risk_results(rows: Predictions) -> dict[str, Any]:
    """Return the confusion matrix of risk classes; a case without a gradable zone has none and is counted apart."""
    table = risk_view(rows)
    return {
        "classes": list(RISK_CLASSES),
        "confusion_matrix": confusion_counts(table),
        "n_cases": len(np.unique(table.case_id)),
    }


def label_roc_curves(rows: Predictions) -> dict[str, dict[str, list[float]]]:
    """Return one ROC curve per label; of a zone the mean over its grades, each against the rest.

    True positive rates are averaged over folds and seeds on a fixed grid. Labels without a curve are left out.
    """
    first = 1 if rows.outputs == "labels" else 0
    pairs = itertools.product(np.unique(rows.seed), np.unique(rows.fold))
    pieces = [np.flatnonzero((rows.seed == seed) & (rows.fold == fold)) for seed, fold in pairs]
    found: dict[str, dict[str, list[float]]] = {}
    for k, name in enumerate(rows.labels):
        table = whole_view(rows, k)
        scores, truth, drawn = softmax(table.logits), table.targets[:, 0], []
        for piece in pieces:
            known = piece[~np.isnan(truth[piece])]
            asked = zip(*(side[first:] for side in one_vs_rest(scores[known], truth[known])), strict=True)
            drawn += [_roc_on_grid(values, hit) for values, hit in asked if 0 < hit.sum() < len(hit)]
        if drawn:
            found[name] = {"fpr": ROC_GRID.tolist(), "tpr": np.mean(drawn, axis=0).tolist()}
    return found


def _roc_on_grid(scores: Array, positive: Array) -> Array:
    fpr, tpr = roc_curve(scores, positive)
    last = np.r_[np.diff(fpr) > 0, True]
    rate = np.interp(ROC_GRID, fpr[last], tpr[last])
    rate[0] = 0.0
    return np.asarray(rate)


def label_warnings(rows: Predictions, metrics: dict[str, Any]) -> list[str]:
    """Return what the macro means leave out, and the alarm of a model that calls too much present."""
    if not is_grouped(rows):
        return []
    warnings = []
    counted = frozen_classes(rows)
    if rows.outputs == "labels":
        small = [name for name, inside in zip(rows.labels, counted[:, 1], strict=True) if not inside]
        if small:
            warnings.append(
                f"macro means leave out labels with fewer than {MIN_PATIENTS_PER_SIDE} positive or negative patients "
                f"(their own metrics are descriptive): {', '.join(small)}"
            )
        rate = (metrics.get("positive_rate") or {}).get("value")
        if rate is not None and rate > OVERPREDICTION_ALARM:
            warnings.append(
                f"over-prediction: {rate:.0%} of all labels are called present at threshold .5, more than "
                f"{OVERPREDICTION_ALARM:.0%}"
            )
        silent = [
            n for n, table in zip(rows.labels, views(rows), strict=True) if len(table) and not table.decisions.any()
        ]
        if silent:
            warnings.append(f"never called present at threshold .5, so without a precision: {', '.join(silent)}")
    else:
        nothing = ~np.isin(rows.targets, np.arange(len(view_of(rows, 0).classes))).any(axis=1)
        if nothing.any():
            warnings.append(f"{int(nothing.sum())} rows have no gradable zone: neither score nor risk class")
    return warnings


def fold_values(
    sample: Resampled, rows: Predictions, metrics: dict[str, Metric], questions: Array | None
) -> dict[str, float | None]:
    """Return all metrics in one fold, over the labels frozen on all of them; null where one has no value there.

    Args:
        sample: The scored rows: rank metrics that it has are not computed again.
        rows: Those of the fold and a seed.
    """
    drawn = Drawn(rows, sample.patients, sample.weights[:0], both=True, memo=sample.drawn.memo)
    found = {name: score_drawn(drawn, metric, questions).points for name, metric in metrics.items()}
    return {name: defined_or_none(float(mean_defined(points))) for name, points in found.items()}

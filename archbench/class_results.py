"""What is reported of the classes of one softmax: metrics with intervals, folds, confusion, curves."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.metrics.auroc import one_vs_rest, roc_curve
from archbench.metrics.drawn import Drawn
from archbench.metrics.f1 import class_f1, class_precision, class_recall, f1_from_overlap
from archbench.metrics.metric import Array, Metric, confusion_matrix, defined_or_none
from archbench.metrics.scoring import (
    MIN_PATIENTS_PER_SIDE,
    Scores,
    frozen_questions,
    macro_scores,
    question_scores,
)
from archbench.metrics.table_rows import distinct, parts
from archbench.registry import METRICS
from archbench.resampled import Resampled

ROC_GRID = np.linspace(0.0, 1.0, 101)
CLASS_METRICS = {"precision": class_precision, "recall": class_recall, "f1": class_f1}
CLASS_REASONS = {
    "precision": "the class is never predicted",
    "recall": "no case has this class",
    "f1": "the class occurs neither in truth nor in prediction",
    "auroc": "no fold has cases with and without this class",
}


def class_warnings(rows: Predictions) -> list[str]:
    """Return which classes the macro means leave out."""
    warnings = []
    counts = np.bincount(rows.y_true, minlength=len(rows.classes))
    predicted = np.bincount(rows.decisions, minlength=len(rows.classes))
    absent = [name for name, n, m in zip(rows.classes, counts, predicted, strict=True) if n + m == 0]
    if absent:
        warnings.append(f"macro F1 leaves out classes absent from truth and prediction: {', '.join(absent)}")
    frozen = frozen_questions(rows, METRICS.get("auroc_macro"))
    small = [name for name, inside in zip(rows.classes, frozen, strict=True) if not inside]
    if small:
        warnings.append(
            f"macro AUROC leaves out classes with fewer than {MIN_PATIENTS_PER_SIDE} patients on one side "
            f"(their own AUROC is descriptive): {', '.join(small)}"
        )
    return warnings


def per_class(sample: Resampled, warnings: list[str]) -> dict[str, dict[str, Any]]:
    """Return precision, recall, F1 and AUROC of each class; support counts cases, not their seeds."""
    rows = sample.rows
    counts = sample.drawn.confusion
    by_metric = {name: function(counts) for name, function in CLASS_METRICS.items()}
    macro = METRICS.get("auroc_macro")
    ranks = sample.drawn.ranks(macro)
    aurocs = question_scores(ranks)
    first_seed = rows.seed == rows.seed.min()
    support = np.bincount(rows.y_true[first_seed], minlength=len(rows.classes))
    n_folds = ranks.shape[1]
    result: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(rows.classes):
        scores = {
            metric: Scores(points=values[:, 0, k], draws=values[:, 1:, k]) for metric, values in by_metric.items()
        }
        result[name] = {"support": int(support[k])}
        for metric, found in scores.items():
            result[name][metric] = sample.record(
                metric,
                found,
                CLASS_REASONS[metric],
                behind=partial(_patients_of_class, sample, metric, k),
                from_share=f1_from_overlap if metric == "f1" else None,
            )
        result[name]["auroc"] = sample.auroc_record(
            "auroc", aurocs[k], CLASS_REASONS["auroc"], metric=macro, questions=np.arange(len(rows.classes)) == k
        )
        defined = int((~np.isnan(ranks[:, :, k, 0])).all(axis=0).sum())
        if 0 < defined < n_folds:
            warnings.append(f"AUROC of {name}: mean over the {defined} of {n_folds} folds in which it is defined")
    return result


def _patients_of_class(sample: Resampled, metric: str, k: int) -> list[int]:
    """Patients that the precision or recall of a class, or the overlap behind its F1, is a share of."""
    called, true = sample.rows.decisions == k, sample.rows.y_true == k
    return [distinct(sample.unit[{"precision": called, "recall": true, "f1": called | true}[metric]])]


def per_fold(rows: Predictions, metrics: dict[str, Metric]) -> list[dict[str, Any]]:
    """Return every metric of every fold and seed."""
    frozen = {name: frozen_questions(rows, metric) for name, metric in metrics.items() if metric.kind == "rank"}
    result = []
    for seed, fold, part in parts(rows):
        if len(part) == 0:
            continue
        values = {name: _fold_value(part, metric, frozen.get(name)) for name, metric in metrics.items()}
        result.append({"fold": fold, "seed": seed, "n_cases": len(part), "metrics": values})
    return result


def _fold_value(rows: Predictions, metric: Metric, questions: Array | None) -> float | None:
    """Value in one fold; a macro AUROC is null where one of its classes is undefined in this fold."""
    if questions is None:
        return defined_or_none(metric.value(softmax(rows.logits), rows.y_true, rows.metadata.get("decision", "argmax")))
    patients = np.unique(rows.patient_id)
    ranks = Drawn(rows, patients, np.zeros((0, len(patients)))).ranks(metric)
    return defined_or_none(macro_scores(ranks, questions).point)


def class_confusion(rows: Predictions) -> list[list[int]]:
    """Return counts summed over seeds, rows the truth."""
    counts = confusion_matrix(rows.y_true, rows.decisions, len(rows.classes))
    return [[int(count) for count in line] for line in counts]


def mean_roc_curves(rows: Predictions) -> dict[str, dict[str, list[float]]]:
    """Return the ROC curve of each class, the true positive rate averaged over folds and seeds on a fixed grid.

    Classes without a defined curve are left out.
    """
    curves: dict[str, list[Array]] = {name: [] for name in rows.classes}
    for _, _, part in parts(rows):
        scores, positives = one_vs_rest(softmax(part.logits), part.y_true)
        for name, score_of, positive in zip(rows.classes, scores, positives, strict=True):
            if 0 < positive.sum() < len(positive):
                fpr, tpr = roc_curve(score_of, positive)
                curves[name].append(_rate_on_grid(fpr, tpr))
    return {
        name: {"fpr": ROC_GRID.tolist(), "tpr": np.mean(found, axis=0).tolist()}
        for name, found in curves.items()
        if found
    }


def _rate_on_grid(fpr: Array, tpr: Array) -> Array:
    """Interpolate a curve; at fpr 0 the curve starts at 0, at every later grid point its highest value counts."""
    last = np.r_[np.diff(fpr) > 0, True]
    rate = np.interp(ROC_GRID, fpr[last], tpr[last])
    rate[0] = 0.0
    return rate

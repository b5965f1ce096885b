"""Metrics of one model or ensemble with patient-bootstrap intervals: the content of metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from archbench.artifacts import MetricRecord, Predictions, softmax
from archbench.label_results import (
    Resampled,
    confusion_counts,
    label_roc_curves,
    label_warnings,
    per_fold_value,
    per_label,
    per_zone,
    risk_results,
    tuned_results,
)
from archbench.metrics.auroc import metric_at_cut, one_vs_rest, roc_curve
from archbench.metrics.f1 import class_f1, class_precision, class_recall
from archbench.metrics.metric import Array, Metric, defined_or_none
from archbench.metrics.scoring import (
    MIN_PATIENTS_PER_SIDE,
    Scores,
    confusion_draws,
    frozen_classes,
    frozen_questions,
    macro_scores,
    parts,
    question_scores,
    rank_draws,
    score,
    scored_rows,
)
from archbench.metrics.views import is_grouped, pooled_view, score_view, scored_classes, views
from archbench.registry import METRICS
from archbench.statistics import (
    FEW_PATIENTS,
    NOTED_UNDEFINED_SHARE,
    Estimate,
    estimate,
    metric_record,
    patient_weights,
)

ROC_GRID = np.linspace(0.0, 1.0, 101)
CLASS_METRICS = {"precision": class_precision, "recall": class_recall, "f1": class_f1}
CLASS_REASONS = {
    "precision": "the class is never predicted",
    "recall": "no case has this class",
    "f1": "the class occurs neither in truth nor in prediction",
    "auroc": "no fold has cases with and without this class",
}


@dataclass(frozen=True)
class _Sample:
    """The scored rows with their resamples."""

    rows: Predictions
    patients: Array
    weights: Array
    confidence: float

    @property
    def n_cases(self) -> int:
        return len(np.unique(self.rows.case_id))

    def record(self, name: str, found: Estimate, undefined_reason: str) -> MetricRecord:
        return metric_record(
            name,
            found,
            n_cases=self.n_cases,
            n_patients=len(self.patients),
            undefined_reason=undefined_reason,
        )


def evaluate(
    predictions: Predictions,
    *,
    metrics: Sequence[str],
    primary: str,
    resamples: int,
    confidence: float,
    seed: int,
    clinical_cut: int = 2,
    selected_and_reported: bool = False,
) -> dict[str, Any]:
    """Score one model or ensemble.

    Args:
        predictions: Its whole table; test rows are scored, validation rows only where there is no test part.
        metrics: Names in the order of the report.
        primary: The metric that ranks models; one of `metrics`.
        clinical_cut: First class that counts as positive in `auroc_clinical_cut`.
        selected_and_reported: The same cases stopped the training and are reported here.
    Returns:
        The content of metrics.json without its provenance.
    """
    rows = scored_rows(predictions)
    drawn = patient_weights(rows.patient_id, strata=rows.fold, resamples=resamples, seed=seed)
    sample = _Sample(rows=rows, patients=drawn.patients, weights=drawn.weights, confidence=confidence)
    chosen = {name: metric_at_cut(name, clinical_cut) for name in metrics}
    warnings = _common_warnings(sample, selected_and_reported or not len(predictions.test))
    common = {
        "primary": primary,
        "n_cases": sample.n_cases,
        "n_patients": len(sample.patients),
        "folds": np.unique(rows.fold).tolist(),
        "seeds": np.unique(rows.seed).tolist(),
    }
    if rows.outputs != "classes":
        return {**common, **_evaluate_labels(predictions, sample, chosen, warnings), "warnings": warnings}
    warnings += _class_warnings(rows)
    return {
        "classes": list(rows.classes),
        **common,
        **_overall(sample, chosen, warnings),
        "per_class": _per_class(sample, warnings),
        "per_fold": _per_fold(rows, chosen),
        "confusion_matrix": _confusion_counts(rows),
        "roc": mean_roc_curves(rows),
        "warnings": warnings,
    }


def _evaluate_labels(
    predictions: Predictions, sample: _Sample, metrics: dict[str, Metric], warnings: list[str]
) -> dict[str, Any]:
    """The content of metrics.json for several labels, for zones, or for a number."""
    rows = sample.rows
    overall = _overall(sample, metrics, warnings)
    resampled = Resampled(rows, sample.patients, sample.weights, sample.confidence)
    warnings += label_warnings(rows, overall["metrics"])
    result = {"outputs": rows.outputs, "classes": [], "per_class": {}, "confusion_matrix": [], "roc": {}, **overall}
    if rows.outputs == "labels":
        result |= {"classes": list(rows.labels), "per_class": per_label(resampled), "roc": label_roc_curves(rows)}
        result["confusion_matrices"] = {
            name: confusion_counts(table) for name, table in zip(rows.labels, views(rows), strict=True)
        }
        result["tuned"] = tuned_results(predictions, resampled)
    elif rows.outputs == "zones":
        result |= {"classes": list(scored_classes(rows)), "labels": list(rows.labels)}
        result |= {"per_zone": per_zone(resampled), "roc": label_roc_curves(rows), "risk": risk_results(rows)}
        result["confusion_matrix"] = confusion_counts(pooled_view(rows))
        unscored = set(predictions.test.case_id.tolist()) - set(score_view(rows).case_id.tolist())
        result["risk"]["n_undefined"] = len(unscored)
    frozen = frozen_classes(rows) if is_grouped(rows) else None
    result["per_fold"] = [
        {
            "fold": fold,
            "seed": seed,
            "n_cases": len(part),
            "metrics": {name: per_fold_value(part, metric, frozen) for name, metric in metrics.items()},
        }
        for seed, fold, part in parts(rows)
        if len(part)
    ]
    return result


def _overall(sample: _Sample, metrics: dict[str, Metric], warnings: list[str]) -> dict[str, Any]:
    """The record of each metric, its spread over seeds, and both parts of its standard error."""
    records, seed_sd, standard_errors = {}, {}, {}
    for name, metric in metrics.items():
        scores = score(sample.rows, metric, sample.patients, sample.weights)
        records[name], found = _record(sample, metric, scores, warnings)
        seed_sd[name] = defined_or_none(found.se_seeds * np.sqrt(len(scores.points)))
        standard_errors[name] = {
            "patients": defined_or_none(found.se_patients),
            "seeds": defined_or_none(found.se_seeds),
        }
    return {"metrics": records, "seed_sd": seed_sd, "standard_errors": standard_errors}


def _record(sample: _Sample, metric: Metric, scores: Scores, warnings: list[str]) -> tuple[MetricRecord, Estimate]:
    """Make the record of a metric and warn of undefined resamples."""
    found = estimate(scores, confidence=sample.confidence, bounds=metric.bounds, centred=metric.centred)
    n_draws = scores.draws.shape[1]
    if found.reason is None and not np.isnan(found.value) and found.undefined_draws > NOTED_UNDEFINED_SHARE * n_draws:
        warnings.append(f"{metric.name}: {found.undefined_draws} of {n_draws} resamples left it undefined")
    return sample.record(metric.name, found, metric.undefined_reason), found


def _common_warnings(sample: _Sample, selected_and_reported: bool) -> list[str]:
    rows, warnings = sample.rows, []
    if selected_and_reported:
        warnings.append("selected and reported on the same cases: the figures are too good")
    if len(np.unique(rows.seed)) == 1:
        warnings.append("one training seed: seed variance was not estimated, intervals cover patients only")
    if len(sample.patients) < FEW_PATIENTS:
        warnings.append(
            f"only {len(sample.patients)} patients: below {FEW_PATIENTS} percentile intervals are too narrow"
        )
    return warnings


def _class_warnings(rows: Predictions) -> list[str]:
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


def _per_class(sample: _Sample, warnings: list[str]) -> dict[str, dict[str, Any]]:
    """Precision, recall, F1 and AUROC of each class with intervals; support counts cases, not their seeds."""
    rows = sample.rows
    counts = confusion_draws(rows, sample.patients, sample.weights)
    by_metric = {name: function(counts) for name, function in CLASS_METRICS.items()}
    ranks = rank_draws(rows, METRICS.get("auroc_macro"), sample.patients, sample.weights)
    aurocs = question_scores(ranks)
    first_seed = rows.seed == rows.seed.min()
    support = np.bincount(rows.y_true[first_seed], minlength=len(rows.classes))
    n_folds = ranks.shape[1]
    result: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(rows.classes):
        scores = {
            metric: Scores(points=values[:, 0, k], draws=values[:, 1:, k]) for metric, values in by_metric.items()
        }
        scores["auroc"] = aurocs[k]
        result[name] = {"support": int(support[k])}
        for metric, found in scores.items():
            interval = estimate(found, confidence=sample.confidence, bounds=(0.0, 1.0))
            result[name][metric] = sample.record(metric, interval, CLASS_REASONS[metric])
        defined = int((~np.isnan(ranks[:, :, k, 0])).all(axis=0).sum())
        if 0 < defined < n_folds:
            warnings.append(f"AUROC of {name}: mean over the {defined} of {n_folds} folds in which it is defined")
    return result


def _per_fold(rows: Predictions, metrics: dict[str, Metric]) -> list[dict[str, Any]]:
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
    ranks = rank_draws(rows, metric, patients, np.zeros((0, len(patients))))
    return defined_or_none(macro_scores(ranks, questions).point)


def _confusion_counts(rows: Predictions) -> list[list[int]]:
    """Counts summed over seeds, rows the truth."""
    patients = np.unique(rows.patient_id)
    counts = confusion_draws(rows, patients, np.zeros((0, len(patients))))[:, 0].sum(axis=0)
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

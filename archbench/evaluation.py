"""Metrics of one model or ensemble with patient-bootstrap intervals: the content of metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from archbench.artifacts import MetricRecord, Predictions
from archbench.calibrated import calibrated
from archbench.class_results import class_confusion, class_warnings, mean_roc_curves, per_class, per_fold
from archbench.conformal_results import conformal_results
from archbench.intervals import interval_of
from archbench.label_results import (
    confusion_counts,
    fold_values,
    label_roc_curves,
    label_warnings,
    per_label,
    per_zone,
    risk_results,
)
from archbench.metrics.auroc import metric_at_cut
from archbench.metrics.metric import Metric, defined_or_none
from archbench.metrics.scoring import Scores, frozen_classes, score_drawn, scored_rows
from archbench.metrics.table_rows import parts
from archbench.metrics.views import is_grouped, pooled_view, score_view, scored_classes
from archbench.net_benefit import curve_results
from archbench.resampled import Resampled
from archbench.statistics import FEW_PATIENTS, NOTED_UNDEFINED_SHARE, Estimate, patient_weights
from archbench.threshold_results import cut_point_results, tuned_results
from archbench.thresholds import FEW_POSITIVE_PATIENTS, Rule

DEFAULT_RULE = Rule("f1")


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
    rule: Rule = DEFAULT_RULE,
    few_positive_patients: int = FEW_POSITIVE_PATIENTS,
    isotonic_patients: int | None = None,
    conformal_coverage: float | None = 0.9,
) -> dict[str, Any]:
    """Score one model or ensemble.

    Args:
        predictions: Its whole table; test rows are scored, validation rows only where there is no test part.
        metrics: Names in the order of the report.
        primary: The metric that ranks models; one of `metrics`.
        clinical_cut: First class that counts as positive in `auroc_clinical_cut`.
        selected_and_reported: The same cases stopped the training and are reported here.
        rule: What the labels' thresholds are chosen for.
        few_positive_patients: Positive patients below which a label takes the threshold of all labels.
        isotonic_patients: Positive and negative patients from which a label is calibrated by isotonic steps before
            thresholds are chosen; None allows none.
        conformal_coverage: Chance with which conformal sets are to hold the truth; None makes none.
    Returns:
        The content of metrics.json without its provenance; its format stands in docs/result_files.md.
    """
    rows = scored_rows(predictions)
    drawn = patient_weights(rows.patient_id, strata=rows.fold, resamples=resamples, seed=seed)
    sample = Resampled(rows=rows, patients=drawn.patients, weights=drawn.weights, confidence=confidence)
    chosen = {name: metric_at_cut(name, clinical_cut) for name in metrics}
    warnings = _common_warnings(sample, selected_and_reported or not len(predictions.test))
    common = {
        "primary": primary,
        "n_cases": sample.n_cases,
        "n_patients": len(sample.patients),
        "folds": np.unique(rows.fold).tolist(),
        "seeds": np.unique(rows.seed).tolist(),
    }
    make = _classes if rows.outputs == "classes" else _groups
    result = {**common, **make(predictions, sample, chosen, warnings), "warnings": warnings}
    if rows.outputs != "value":
        found = calibrated(predictions, isotonic_patients=isotonic_patients)
        ordinal = rows.outputs == "classes" and rows.metadata.get("decision") == "expected_grade"
        if rows.outputs == "labels":
            result["tuned"] = tuned_results(found, sample, rule=rule, few=few_positive_patients)
        if ordinal:
            result["cut_points"] = cut_point_results(found, sample)
        result["decision_curve"] = curve_results(found, sample, cut=clinical_cut if ordinal else None)
        if conformal_coverage is not None:
            parts = [item.part for item in found.parts]
            result["conformal"] = conformal_results(predictions, sample, coverage=conformal_coverage, parts=parts)
    return result


def _classes(
    predictions: Predictions, sample: Resampled, metrics: dict[str, Metric], warnings: list[str]
) -> dict[str, Any]:
    """The content of metrics.json for the classes of one softmax."""
    rows = sample.rows
    warnings += class_warnings(rows)
    return {
        "classes": list(rows.classes),
        **_overall(sample, metrics, warnings),
        "per_class": per_class(sample, warnings),
        "per_fold": per_fold(rows, metrics),
        "confusion_matrix": class_confusion(rows),
        "roc": mean_roc_curves(rows),
    }


def _groups(
    predictions: Predictions, sample: Resampled, metrics: dict[str, Metric], warnings: list[str]
) -> dict[str, Any]:
    """The content of metrics.json for several labels, for zones, or for a number."""
    rows = sample.rows
    overall = _overall(sample, metrics, warnings)
    warnings += label_warnings(rows, overall["metrics"])
    result = {"outputs": rows.outputs, "classes": [], "per_class": {}, "confusion_matrix": [], "roc": {}, **overall}
    if rows.outputs == "labels":
        result |= {"classes": list(rows.labels), "per_class": per_label(sample), "roc": label_roc_curves(rows)}
        result["confusion_matrices"] = {
            name: confusion_counts(group.predictions)
            for name, group in zip(rows.labels, sample.drawn.groups, strict=True)
        }
    elif rows.outputs == "zones":
        result |= {"classes": list(scored_classes(rows)), "labels": list(rows.labels)}
        result |= {"per_zone": per_zone(sample), "roc": label_roc_curves(rows), "risk": risk_results(rows)}
        result["confusion_matrix"] = confusion_counts(pooled_view(rows))
        unscored = set(predictions.test.case_id.tolist()) - set(score_view(rows).case_id.tolist())
        result["risk"]["n_undefined"] = len(unscored)
    frozen = frozen_classes(rows) if is_grouped(rows) else None
    result["per_fold"] = [
        {
            "fold": fold,
            "seed": seed,
            "n_cases": len(part),
            "metrics": fold_values(sample, part, metrics, frozen),
        }
        for seed, fold, part in parts(rows)
        if len(part)
    ]
    return result


def _overall(sample: Resampled, metrics: dict[str, Metric], warnings: list[str]) -> dict[str, Any]:
    """The record of each metric, its spread over seeds, and both parts of its standard error."""
    records, seed_sd, standard_errors = {}, {}, {}
    for name, metric in metrics.items():
        scores = score_drawn(sample.drawn, metric)
        records[name], found = _record(sample, metric, scores, warnings)
        seed_sd[name] = defined_or_none(found.se_seeds * np.sqrt(len(scores.points)))
        standard_errors[name] = {
            "patients": defined_or_none(found.se_patients),
            "seeds": defined_or_none(found.se_seeds),
        }
    return {"metrics": records, "seed_sd": seed_sd, "standard_errors": standard_errors}


def _record(sample: Resampled, metric: Metric, scores: Scores, warnings: list[str]) -> tuple[MetricRecord, Estimate]:
    """Make the record of a metric and warn of undefined resamples."""
    found = interval_of(sample.drawn, metric, scores, confidence=sample.confidence)
    n_draws = scores.draws.shape[1]
    if not np.isnan(found.low) and found.undefined_draws > NOTED_UNDEFINED_SHARE * n_draws:
        warnings.append(f"{metric.name}: {found.undefined_draws} of {n_draws} resamples left it undefined")
    return sample.written(metric.name, found, metric.undefined_reason), found


def _common_warnings(sample: Resampled, selected_and_reported: bool) -> list[str]:
    rows, warnings = sample.rows, []
    if selected_and_reported:
        warnings.append("selected and reported on the same cases: the figures are too good")
    if len(np.unique(rows.seed)) == 1:
        warnings.append("one training seed: seed variance was not estimated, intervals cover patients only")
    if len(sample.patients) < FEW_PATIENTS:
        warnings.append(
            f"only {len(sample.patients)} patients: below {FEW_PATIENTS} percentile intervals are too narrow; AUROCs "
            "take logit-DeLong intervals where they have one"
        )
    return warnings

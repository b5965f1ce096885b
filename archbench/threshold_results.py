"""Decisions at thresholds and cut points that were fitted on other patients: `tuned` and `cut_points` of metrics.json.

The format stands in docs/result_files.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from archbench.artifacts import MetricRecord, Predictions
from archbench.calibrated import Calibrated, CalibratedPart
from archbench.label_results import label_record
from archbench.metrics.metric import Array, defined_or_none
from archbench.metrics.scoring import score_drawn
from archbench.recalibration import Isotonic, Platt
from archbench.registry import METRICS
from archbench.resampled import Resampled
from archbench.statistics import difference
from archbench.thresholds import Rule, Thresholds, expected_grade, fit_cut_points, fit_thresholds

DECISION_METRICS = (
    *("f1_macro", "f1_micro", "precision_macro", "precision_micro", "recall_macro", "recall_micro"),
    *("specificity_macro", "hamming_accuracy", "exact_match", "positive_rate", "labels_per_case"),
)
GRADE_METRICS = ("qwk", "accuracy", "balanced_accuracy", "macro_f1", "macro_mae", "off_by_two")
SURE = 30.0  # logit of what was decided elsewhere


@dataclass(frozen=True)
class _Fit:
    """Thresholds of one fold and seed."""

    item: CalibratedPart
    thresholds: Thresholds


def tuned_results(found: Calibrated, sample: Resampled, *, rule: Rule, few: int) -> dict[str, Any]:
    """Return thresholds per label and one for all, their spread, and what decisions at them are worth.

    Args:
        found: The model's rows after calibration.
        sample: Its scored rows.
        rule: What a threshold is chosen for.
        few: Positive patients below which a label takes the global threshold.
    """
    value = rule.miss_cost if rule.kind == "cost" else rule.target
    result: dict[str, Any] = {
        "rule": {"kind": rule.kind, "value": value, "few_positive_patients": few},
        "calibration": found.method,
        "reason": found.reason,
        **{"parameters": [], "spread": {}, "label": None, "global": None},
    }
    if found.rows is None:
        return result
    try:
        fits = [_Fit(item, _fit(item, rule, few)) for item in found.parts]
    except ValueError as error:
        return {**result, "reason": str(error)}
    result["parameters"] = [entry for fit in fits for entry in _parameters(fit)]
    result["spread"] = threshold_spread(result["parameters"])
    for scope in ("label", "global"):
        result[scope] = _decided(sample, _called(sample.rows, fits, scope))
    return result


def _fit(item: CalibratedPart, rule: Rule, few: int) -> Thresholds:
    return fit_thresholds(item.source, applied=item.applied, seed=item.part.seed, rule=rule, few=few)


def _parameters(fit: _Fit) -> list[dict[str, Any]]:
    """The global threshold, then one of each label."""
    part, fitted, calibrator = fit.item.part, fit.thresholds, fit.item.calibrator
    assert isinstance(calibrator, Platt | Isotonic)
    logits = calibrator.raw_logits(fitted.log_odds)
    where = {"fold": part.fold, "seed": part.seed}
    shared = {"label": "", **where, "scope": "global", "logit": None, "probability": _chance(fitted.global_log_odds)}
    entries = [{**shared, "n_positive_patients": fitted.n_patients_with_any, "reason": None}]
    for k, label in enumerate(fitted.labels):
        entries.append(
            {
                "label": label,
                **where,
                "scope": "label" if fitted.reasons[k] is None else "global",
                "logit": defined_or_none(float(logits[k])),
                "probability": _chance(float(fitted.log_odds[k])),
                "n_positive_patients": int(fitted.n_positive_patients[k]),
                "reason": fitted.reasons[k],
            }
        )
    return entries


def _chance(log_odds: float) -> float:
    return float(1.0 / (1.0 + np.exp(-log_odds)))


def threshold_spread(parameters: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return mean, standard deviation and range of each label's thresholds over folds and seeds, as probabilities."""
    result: dict[str, dict[str, Any]] = {}
    for label in dict.fromkeys(item["label"] for item in parameters):
        mine = [item for item in parameters if item["label"] == label]
        scopes = {item["scope"] for item in mine}
        result[label] = {
            **spread(np.array([item["probability"] for item in mine])),
            "n": len(mine),
            "scope": scopes.pop() if len(scopes) == 1 else "mixed",
        }
    return result


def spread(values: Array) -> dict[str, float | None]:
    """Return mean, standard deviation (null with one value) and range."""
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
        "low": float(values.min()),
        "high": float(values.max()),
    }


def _called(rows: Predictions, fits: Sequence[_Fit], scope: str) -> Predictions:
    """The scored rows with logits that say what is decided at the thresholds, and nothing else."""
    logits = np.full(rows.logits.shape, np.nan, dtype=np.float32)
    for fit in fits:
        odds, cuts = fit.item.applied.logits, fit.thresholds
        called = odds >= cuts.global_log_odds if scope == "global" else cuts.decide(odds)
        logits[fit.item.part.inside] = np.where(called, SURE, -SURE)
    return rows.having(logits=logits)


def _decided(sample: Resampled, rows: Predictions) -> dict[str, Any]:
    decided = sample.of(rows)
    return {
        "metrics": {name: decided.scored(name, METRICS.get(name)) for name in DECISION_METRICS},
        "per_label": {
            name: {key: label_record(decided, k, key) for key in ("f1", "precision", "recall", "specificity")}
            for k, name in enumerate(rows.labels)
        },
    }


def cut_point_results(found: Calibrated, sample: Resampled) -> dict[str, Any]:
    """Return the grades' cut points on the calibrated mean grade that give the best QWK, and what they are worth.

    Args:
        found: The rows of an ordinal task after calibration.
        sample: Its scored rows, with the decision that is used.
    """
    rows = sample.rows
    result: dict[str, Any] = {
        "used": rows.metadata.get("decision", "argmax"),
        "reason": found.reason,
        **{"parameters": [], "spread": [], "metrics": None, "gain": None},
    }
    if found.rows is None:
        return result
    grades = np.full(len(rows), -1)
    cuts = []
    for item in found.parts:
        fitted = fit_cut_points(item.source, applied=item.applied, seed=item.part.seed)
        grades[item.part.inside] = fitted.decide(expected_grade(item.applied.logits))
        cuts.append(fitted.cuts)
        origin = item.part.origin()
        kept = {key: origin[key] for key in ("fold", "seed", "n_cases", "n_patients")}
        result["parameters"].append({**kept, "cuts": fitted.cuts.tolist()})
    for k, values in enumerate(np.array(cuts).T):
        names = {"below": rows.classes[k], "above": rows.classes[k + 1], "rounding": k + 0.5}
        result["spread"].append({**names, **spread(values)})
    decided = sample.of(replace(rows, logits=(SURE * np.eye(len(rows.classes)))[grades].astype(np.float32)))
    result["metrics"] = {name: decided.scored(name, METRICS.get(name)) for name in GRADE_METRICS}
    result["gain"] = _gain(decided, sample)
    return result


def _gain(decided: Resampled, used: Resampled) -> MetricRecord:
    metric = METRICS.get("qwk")
    after, before = (score_drawn(table.drawn, metric) for table in (decided, used))
    return used.record("qwk_gain", difference(after, before), metric.undefined_reason, bounds=(-2.0, 2.0), behind=None)

"""How well probabilities mean what they say, before and after calibration out of fold: the content of calibration.json.

What is fitted stands in `archbench.calibrated`, the format in docs/result_files.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from archbench.artifacts import Predictions, softmax, undefined
from archbench.calibrated import calibrated
from archbench.calibration_table import calibration_table
from archbench.metrics.calibration_error import N_BINS, confidence_bin
from archbench.metrics.scoring import scored_rows
from archbench.metrics.views import is_grouped, pooled_view, views
from archbench.registry import METRICS
from archbench.resampled import Resampled
from archbench.statistics import patient_weights, wilson_interval

FLOOR_SIMULATIONS = 500
MEASURES = ("ece", "log_loss", "brier")


def calibrate(
    predictions: Predictions,
    *,
    resamples: int,
    confidence: float,
    seed: int,
    isotonic_patients: int | None = None,
) -> dict[str, Any]:
    """Calibrate out of fold and measure calibration before and after: the content of calibration.json.

    Args:
        predictions: All rows of one model or ensemble. Without test rows the validation rows are measured, and
            nothing is fitted.
        isotonic_patients: Positive and negative patients from which a label takes isotonic steps; None allows none.
    """
    raw, found = scored_rows(predictions), calibrated(predictions, isotonic_patients=isotonic_patients)
    if raw.outputs == "value":
        return _uncalibrated(raw, str(found.reason))
    weights = patient_weights(raw.patient_id, strata=raw.fold, resamples=resamples, seed=seed)
    sample = Resampled(raw, weights.patients, weights.weights, confidence)
    after_sample = None if found.rows is None else sample.of(found.rows)
    result: dict[str, Any] = {"method": found.method, "reason": found.reason, "parameters": found.parameters}
    for name in MEASURES:
        before = sample.scored(name, METRICS.get(name))
        if after_sample is None:
            after = undefined(name, str(found.reason), before["n_cases"], before["n_patients"])
        else:
            after = after_sample.scored(name, METRICS.get(name))
        result[name] = {"raw": before, "calibrated": after}
    result["ece"]["null_floor"] = _floor(raw, seed=seed)
    result["ece"]["null_floor_calibrated"] = None if found.rows is None else _floor(found.rows, seed=seed)
    result["reliability"] = {
        "raw": reliability_bins(_cells(raw), confidence=confidence),
        "calibrated": [] if found.rows is None else reliability_bins(_cells(found.rows), confidence=confidence),
    }
    result["table"] = calibration_table(sample, found.rows, seed=seed)
    if is_grouped(raw):
        result["per_label"] = _per_label(sample, after_sample)
    return result


def _uncalibrated(raw: Predictions, reason: str) -> dict[str, Any]:
    n_cases, n_patients = len(np.unique(raw.case_id)), len(np.unique(raw.patient_id))
    result: dict[str, Any] = {"method": "none", "reason": reason, "parameters": []}
    for name in MEASURES:
        result[name] = {key: undefined(name, reason, n_cases, n_patients) for key in ("raw", "calibrated")}
    result["ece"] |= {"null_floor": None, "null_floor_calibrated": None}
    result["reliability"] = {"raw": [], "calibrated": []}
    return result


def _cells(rows: Predictions) -> Predictions:
    """The rows, or all cells of several labels as rows."""
    return pooled_view(rows) if is_grouped(rows) else rows


def _floor(rows: Predictions, *, seed: int) -> float:
    """The null floor; with several labels the mean of theirs, since the ECE is that too."""
    tables = [table for table in views(rows) if len(table)]
    return float(np.mean([null_floor(table, seed=seed) for table in tables]))


def _per_label(raw: Resampled, scaled: Resampled | None) -> dict[str, dict[str, Any]]:
    """ECE of each label or zone before and after."""
    metric, result = METRICS.get("ece"), {}
    for group, name in enumerate(raw.rows.labels):
        known = bool(raw.known[:, group].any())
        result[name] = {
            key: sample.group_scored("ece", group, metric, metric.undefined_reason) if sample and known else None
            for key, sample in (("raw", raw), ("calibrated", scaled))
        }
    return result


def null_floor(predictions: Predictions, *, seed: int) -> float:
    """Return the ECE that a perfectly calibrated model with the same confidences would show on average.

    ECE is positive by construction: on few cases even perfect probabilities miss. Simulated per training seed,
    right and wrong drawn from the confidences, and averaged.
    """
    generator = np.random.default_rng(seed)
    floors = []
    for training_seed in np.unique(predictions.seed):
        rows = predictions.select(predictions.seed == training_seed)
        confidence = softmax(rows.logits).max(axis=1)
        member = confidence_bin(confidence)[:, None] == np.arange(N_BINS)
        right = generator.random((FLOOR_SIMULATIONS, len(rows))) < confidence
        gaps = (confidence - right) @ member
        floors.append(np.abs(gaps).sum(axis=1).mean() / len(rows))
    return float(np.mean(floors))


def reliability_bins(predictions: Predictions, *, confidence: float) -> list[dict[str, float | int]]:
    """Return mean confidence and accuracy of each occupied bin with Wilson bands.

    Several seeds repeat each case: the bands count a case once. They take cases as independent and are a
    reading aid, not a test.
    """
    probabilities = softmax(predictions.logits)
    certain = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == predictions.y_true
    bins, n_seeds = confidence_bin(certain), len(np.unique(predictions.seed))
    result: list[dict[str, float | int]] = []
    for number in np.unique(bins):
        member = bins == number
        n = member.sum() / n_seeds
        low, high = wilson_interval(right[member].sum() / n_seeds, n, confidence)
        result.append(
            {
                "confidence": float(certain[member].mean()),
                "accuracy": float(right[member].mean()),
                "low": low,
                "high": high,
                "n": int(member.sum()),
            }
        )
    return result

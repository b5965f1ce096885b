"""Temperature scaling, fitted out of fold, and how well the probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from archbench.artifacts import MetricRecord, Predictions, softmax, undefined
from archbench.metrics.calibration_error import N_BINS, confidence_bin
from archbench.metrics.metric import Array, Metric
from archbench.metrics.scoring import parts, score, scored_rows
from archbench.out_of_fold import OutOfFold, fitting_problem, fitting_source, source_rows
from archbench.registry import METRICS
from archbench.statistics import PatientWeights, estimate, metric_record, patient_weights, wilson_interval

LOG_TEMPERATURE_BOUNDS = (-3.0, 3.0)  # temperatures from 1/20 to 20
FLOOR_SIMULATIONS = 500
MEASURES = ("ece", "log_loss", "brier")


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature and what it was fitted on."""

    fold: int
    seed: int
    temperature: float
    fitted_on: str
    n_cases: int
    n_patients: int


def fit_temperature(source: OutOfFold, *, applied: Predictions, fold: int, seed: int) -> Temperature:
    """Return the temperature that minimises the log loss of rows of other patients.

    Args:
        source: Out-of-fold rows of other patients than those in `applied`.
        applied: The rows that will be divided by the temperature, of one fold and seed.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among the rows.
    Source:
        Guo et al., 2017.
    """
    fit = source_rows(source, applied=applied)
    fit = fit.select(fit.seed == seed)
    folds = np.unique(fit.fold).tolist()
    others = f"fold{'s' * (len(folds) > 1)} {', '.join(str(fold) for fold in folds)}"
    return Temperature(
        fold=fold,
        seed=seed,
        temperature=minimise_log_loss(fit.logits, fit.y_true),
        fitted_on=f"{source.described} of {others}" if source.crossed else source.described,
        n_cases=len(fit),
        n_patients=len(np.unique(fit.patient_id)),
    )


def minimise_log_loss(logits: Array, y_true: Array) -> float:
    """Return the temperature with the least log loss, searched over its logarithm; the loss is convex in 1/T."""
    from scipy.optimize import minimize_scalar

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    of_truth = shifted[np.arange(len(y_true)), y_true]

    def loss(log_temperature: float) -> float:
        slope = np.exp(-log_temperature)
        return float((np.log(np.exp(slope * shifted).sum(axis=1)) - slope * of_truth).mean())

    found = minimize_scalar(loss, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def fit_temperatures(predictions: Predictions) -> list[Temperature]:
    """Fit one temperature per fold and seed of the test rows; empty if there are no other patients to fit on."""
    if fitting_problem(predictions) is not None:
        return []
    test = predictions.test
    source = fitting_source(predictions)
    fitted = []
    for seed, fold, rows in parts(test):
        others = source.without(fold) if source.crossed else source
        fitted.append(fit_temperature(others, applied=rows, fold=fold, seed=seed))
    return fitted


def apply_temperatures(predictions: Predictions, temperatures: list[Temperature]) -> Predictions:
    """Return the test rows with the logits of each fold and seed divided by its temperature."""
    rows = predictions.test
    divisor = np.full(len(rows), np.nan)
    for item in temperatures:
        divisor[(rows.fold == item.fold) & (rows.seed == item.seed)] = item.temperature
    if np.isnan(divisor).any():
        raise ValueError("some rows have no temperature for their fold and seed")
    return replace(rows, logits=(rows.logits / divisor[:, None]).astype(np.float32))


def calibrate(predictions: Predictions, *, resamples: int, confidence: float, seed: int) -> dict[str, Any]:
    """Fit temperatures out of fold and measure calibration before and after: the content of calibration.json.

    Args:
        predictions: All rows of one model or ensemble. Without test rows the validation rows are measured, and
            nothing is fitted.
    """
    raw = scored_rows(predictions)
    weights = patient_weights(raw.patient_id, strata=raw.fold, resamples=resamples, seed=seed)
    temperatures = fit_temperatures(predictions)
    scaled = apply_temperatures(raw, temperatures) if temperatures else None
    problem = fitting_problem(predictions)
    result: dict[str, Any] = {
        "method": "temperature",
        "reason": problem,
        "parameters": [vars(item) for item in temperatures],
    }
    for name in MEASURES:
        before = _record(raw, METRICS.get(name), weights, confidence)
        if scaled is None:
            after = undefined(name, str(problem), before["n_cases"], before["n_patients"])
        else:
            after = _record(scaled, METRICS.get(name), weights, confidence)
        result[name] = {"raw": before, "calibrated": after}
    result["ece"]["null_floor"] = null_floor(raw, seed=seed)
    result["ece"]["null_floor_calibrated"] = None if scaled is None else null_floor(scaled, seed=seed)
    result["reliability"] = {
        "raw": reliability_bins(raw, confidence=confidence),
        "calibrated": [] if scaled is None else reliability_bins(scaled, confidence=confidence),
    }
    return result


def _record(predictions: Predictions, metric: Metric, weights: PatientWeights, confidence: float) -> MetricRecord:
    scores = score(predictions, metric, weights.patients, weights.weights)
    return metric_record(
        metric.name,
        estimate(scores, confidence=confidence, bounds=metric.bounds, centred=metric.centred),
        n_cases=len(np.unique(predictions.case_id)),
        n_patients=len(weights.patients),
        undefined_reason=metric.undefined_reason,
    )


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

"""Temperature scaling, fitted out of fold, and how well the probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from archbench.artifacts import MetricRecord, Predictions, softmax, undefined
from archbench.label_calibration import apply_platt, fit_platt
from archbench.metrics.calibration_error import N_BINS, confidence_bin
from archbench.metrics.metric import Array, Metric
from archbench.metrics.scoring import parts, score, scored_rows
from archbench.metrics.views import is_grouped, pooled_view, view_of, views
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
    label: str = ""


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


def fit_zone_temperatures(predictions: Predictions) -> list[Temperature]:
    """Fit one temperature per zone, fold and seed, as `fit_temperatures` does for one label."""
    fitted = []
    for group, name in enumerate(predictions.labels):
        fitted += [replace(item, label=name) for item in fit_temperatures(view_of(predictions, group))]
    return fitted


def apply_zone_temperatures(predictions: Predictions, temperatures: list[Temperature]) -> Predictions:
    """Return the test rows with each zone's logits divided by its temperature; 1 where a zone has none in a fold."""
    rows = predictions.test
    divisor = np.ones(rows.logits.shape)
    width = rows.logits.shape[1] // len(rows.labels)
    for item in temperatures:
        group = rows.labels.index(item.label)
        member = (rows.fold == item.fold) & (rows.seed == item.seed)
        divisor[member, group * width : (group + 1) * width] = item.temperature
    return replace(rows, logits=(rows.logits / divisor).astype(np.float32))


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
    if raw.outputs == "value":
        return _uncalibrated(raw, "a regression states no probabilities")
    weights = patient_weights(raw.patient_id, strata=raw.fold, resamples=resamples, seed=seed)
    method, parameters, scaled = _fitted(predictions, raw)
    problem = fitting_problem(predictions)
    result: dict[str, Any] = {"method": method, "reason": problem, "parameters": parameters}
    for name in MEASURES:
        before = _record(raw, METRICS.get(name), weights, confidence)
        if scaled is None:
            after = undefined(name, str(problem), before["n_cases"], before["n_patients"])
        else:
            after = _record(scaled, METRICS.get(name), weights, confidence)
        result[name] = {"raw": before, "calibrated": after}
    result["ece"]["null_floor"] = _floor(raw, seed=seed)
    result["ece"]["null_floor_calibrated"] = None if scaled is None else _floor(scaled, seed=seed)
    result["reliability"] = {
        "raw": reliability_bins(_cells(raw), confidence=confidence),
        "calibrated": [] if scaled is None else reliability_bins(_cells(scaled), confidence=confidence),
    }
    if is_grouped(raw):
        result["per_label"] = _per_label(raw, scaled, weights, confidence)
    return result


def _fitted(predictions: Predictions, raw: Predictions) -> tuple[str, list[dict[str, Any]], Predictions | None]:
    """Method, fitted parameters, and the calibrated rows (None if nothing could be fitted)."""
    if raw.outputs == "labels":
        platt = fit_platt(predictions)
        return "platt", [vars(item) for item in platt], apply_platt(raw, platt) if platt else None
    if raw.outputs == "zones":
        zones = fit_zone_temperatures(predictions)
        return "temperature", [vars(item) for item in zones], apply_zone_temperatures(raw, zones) if zones else None
    temperatures = fit_temperatures(predictions)
    parameters = [{key: value for key, value in vars(item).items() if key != "label"} for item in temperatures]
    return "temperature", parameters, apply_temperatures(raw, temperatures) if temperatures else None


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


def _per_label(
    raw: Predictions, scaled: Predictions | None, weights: PatientWeights, confidence: float
) -> dict[str, dict[str, Any]]:
    """ECE of each label or zone before and after."""
    result: dict[str, dict[str, Any]] = {}
    for group, name in enumerate(raw.labels):
        before, after = view_of(raw, group), None if scaled is None else view_of(scaled, group)
        metric = METRICS.get("ece")
        result[name] = {
            key: None if table is None or not len(table) else _record(table, metric, weights, confidence)
            for key, table in (("raw", before), ("calibrated", after))
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

"""How well binary probabilities mean what they say: ECE and its floor, MCE, Brier, log loss, slope, intercept, bins.

One label at a time: probabilities (N,), targets 0 or 1 (N,), patients resampled. A multiclass model is asked class
by class (one against the rest), a multilabel model label by label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from archbench.metrics.metric import Array, ratio

N_BINS = 15
FLOOR_SIMULATIONS = 500
IRLS_STEPS = 100
SEPARATED = 20.0  # a slope beyond says that the classes are separated, so that it has no finite value


def bins_of(probabilities: Array) -> Array:
    """Return the equal-width bin of each probability, (low, high], as in Guo et al."""
    return np.clip(np.ceil(probabilities * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1)


@dataclass(frozen=True)
class CalibrationDraws:
    """Calibration of one label, each of shape (B,); NaN where a resample has no case.

    Attributes:
        ece: Expected calibration error. It grows with noise: shift its draws to the point before reading an interval.
        mce: Largest gap of an occupied bin; as `ece`.
        brier: Mean squared error of the probability.
        log_loss: Natural logarithm, probabilities clipped at float64 eps.
    """

    ece: Array
    mce: Array
    brier: Array
    log_loss: Array


def calibration_draws(probabilities: Array, targets: Array, weights: Array, rows: Array) -> CalibrationDraws:
    """Return the calibration measures of every resample.

    Args:
        probabilities: Of the positive class, shape (N,).
        targets: 0 or 1, shape (N,).
        weights: Weight of each patient in each resample, shape (P, B).
        rows: Patient of each case, indices into `weights`, shape (N,).
    """
    clipped = np.clip(probabilities, np.finfo(np.float64).eps, 1.0 - np.finfo(np.float64).eps)
    loss = -np.where(targets == 1, np.log(clipped), np.log1p(-clipped))
    squares, units = (probabilities - targets) ** 2, len(weights)
    by_patient = [np.bincount(rows, weights=term, minlength=units) for term in (squares, loss)]
    # one product for everything: the weights are read once
    binned = _by_bin(bins_of(probabilities), (probabilities - targets, None), rows, units)
    summed = np.concatenate([*binned, by_patient]) @ weights
    gaps, counts, (brier, log_loss) = summed[:N_BINS], summed[N_BINS:-2], summed[-2:]
    n = counts.sum(axis=0)
    largest = np.nan_to_num(ratio(np.abs(gaps), counts), nan=-1.0).max(axis=0)
    return CalibrationDraws(
        ece=ratio(np.abs(gaps).sum(axis=0), n),
        mce=np.where(largest < 0, np.nan, largest),
        brier=ratio(brier, n),
        log_loss=ratio(log_loss, n),
    )


def _by_bin(place: Array, terms: Sequence[Array | None], rows: Array, units: int) -> list[Array]:
    """Each term added up by bin and patient, (bins, P); None counts cases."""
    cell, size = place * units + rows, N_BINS * units
    sums = [np.bincount(cell, weights=term, minlength=size) for term in terms]
    return [summed.reshape(N_BINS, units).astype(np.float64) for summed in sums]


def ece_floor(probabilities: Array, *, seed: int, simulations: int = FLOOR_SIMULATIONS) -> float:
    """Return the ECE that a perfectly calibrated model with these probabilities would show on average.

    ECE is positive by construction: on few cases even perfect probabilities miss. Cases are drawn independently, so
    that the floor is a little low where a patient's images resemble each other.

    Args:
        probabilities: Shape (N,).
        seed: Of the simulated targets.
        simulations: Number of simulated cohorts.
    Returns:
        NaN without cases.
    """
    if len(probabilities) == 0:
        return float("nan")
    generator, total = np.random.default_rng(seed), 0.0
    order = np.argsort(probabilities, kind="stable")
    ordered, place = probabilities[order], bins_of(probabilities[order])
    starts = np.flatnonzero(np.r_[True, np.diff(place) != 0])
    for _ in range(simulations):
        right = generator.random(len(ordered)) < ordered
        total += float(np.abs(np.add.reduceat(ordered - right, starts)).sum())
    return total / simulations / len(ordered)


@dataclass(frozen=True)
class CalibrationLine:
    """Logistic recalibration: 1 and 0 are perfect.

    Attributes:
        slope: Of the log odds; below 1 the probabilities are too extreme. NaN if the classes are separated.
        slope_se: Standard error with patients as clusters.
        intercept: Calibration in the large, with the slope held at 1; above 0 the probabilities are too low.
        intercept_se: Standard error with patients as clusters.
        reason: Why a value is undefined, else None.
    """

    slope: float
    slope_se: float
    intercept: float
    intercept_se: float
    reason: str | None

    def interval(self, which: str, confidence: float) -> tuple[float, float]:
        """Return the normal interval of "slope" or "intercept"."""
        value, error = getattr(self, which), getattr(self, f"{which}_se")
        half = NormalDist().inv_cdf(0.5 + confidence / 2.0) * error
        return value - half, value + half


def calibration_line(log_odds: Array, targets: Array, patients: Array) -> CalibrationLine:
    """Return calibration slope and intercept with errors that allow for dependent images of a patient.

    Args:
        log_odds: Predicted, shape (N,).
        targets: 0 or 1, shape (N,).
        patients: Patient of each case, shape (N,).
    Source:
        Cox, 1958; Van Calster et al., 2019; clustered errors of Liang and Zeger, 1986, times P / (P - 1).
    """
    nothing = float("nan")
    if len(np.unique(targets)) < 2:
        return CalibrationLine(nothing, nothing, nothing, nothing, "all cases have the same target")
    ones = np.ones((len(targets), 1))
    intercept, intercept_se = _logistic(ones, targets, patients, offset=log_odds)
    both, both_se = _logistic(np.column_stack([log_odds, ones]), targets, patients, offset=np.zeros(len(targets)))
    if not np.isfinite(both).all() or abs(both[0]) > SEPARATED:
        reason = "the classes are separated or all predictions alike, so the slope has no finite value"
        return CalibrationLine(nothing, nothing, float(intercept[0]), float(intercept_se[0]), reason)
    return CalibrationLine(float(both[0]), float(both_se[0]), float(intercept[0]), float(intercept_se[0]), None)


def _logistic(design: Array, targets: Array, patients: Array, *, offset: Array) -> tuple[Array, Array]:
    """Coefficients and clustered standard errors of a logistic regression, NaN where it has none."""
    coefficients = np.zeros(design.shape[1])
    nothing = np.full(design.shape[1], np.nan)
    for _ in range(IRLS_STEPS):
        predicted = 1.0 / (1.0 + np.exp(-np.clip(design @ coefficients + offset, -500, 500)))
        information = (design * (predicted * (1.0 - predicted))[:, None]).T @ design
        if np.linalg.cond(information) > 1e12:
            return nothing, nothing
        step = np.linalg.solve(information, design.T @ (targets - predicted))
        coefficients = coefficients + np.clip(step, -3.0, 3.0)
        if np.abs(step).max() < 1e-10:
            break
    _, rows = np.unique(patients, return_inverse=True)
    scores = np.zeros((rows.max() + 1, design.shape[1]))
    np.add.at(scores, rows, design * (targets - predicted)[:, None])
    clusters = len(scores)
    if clusters < 2:
        return coefficients, nothing
    inverse = np.linalg.inv(information)
    covariance = inverse @ (scores.T @ scores) @ inverse * clusters / (clusters - 1)
    return coefficients, np.sqrt(np.diag(covariance))


@dataclass(frozen=True)
class ReliabilityBin:
    """One occupied bin of a reliability picture, with a band from resampled patients (NaN if none can be drawn)."""

    predicted: float
    observed: float
    low: float
    high: float
    n_cases: int
    n_patients: int


def binary_reliability(
    probabilities: Array, targets: Array, weights: Array, rows: Array, *, confidence: float
) -> list[ReliabilityBin]:
    """Return mean probability and observed share of each occupied bin with patient-clustered bands.

    A bin of one patient, or one that more than 5 % of the resamples leave empty, has no band.

    Args:
        probabilities: Shape (N,).
        targets: 0 or 1, shape (N,).
        weights: Shape (P, B).
        rows: Shape (N,).
        confidence: Level of each band by itself.
    """
    place, tail, found = bins_of(probabilities), (1.0 - confidence) / 2.0, []
    summed = np.concatenate(_by_bin(place, (targets.astype(np.float64), None), rows, len(weights))) @ weights
    for number in np.unique(place):
        inside = place == number
        positives, counts = summed[number], summed[N_BINS + number]
        shares = positives[counts > 0] / counts[counts > 0]
        patients = len(np.unique(rows[inside]))
        enough = patients > 1 and len(shares) >= 0.95 * weights.shape[1]
        low, high = np.quantile(shares, [tail, 1.0 - tail]) if enough else (np.nan, np.nan)
        means = float(probabilities[inside].mean()), float(targets[inside].mean())
        found.append(ReliabilityBin(*means, float(low), float(high), int(inside.sum()), patients))
    return found

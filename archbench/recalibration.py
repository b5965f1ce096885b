"""Probabilities of several labels put right on rows of other patients: Platt's line per label, or an isotonic step.

Rare labels can't carry a slope of their own: each slope is shrunk to one that all labels share, the more the less
the slopes of well-known labels differ (a random-effects model, so that no strength has to be searched).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from archbench.artifacts import Predictions
from archbench.label_lines import WEAK_RIDGE, LabelLines
from archbench.metrics.metric import Array
from archbench.metrics.table_rows import distinct
from archbench.out_of_fold import OutOfFold, source_rows

STRONGEST = 1e6  # where slopes differ no more than their errors, all labels get the shared one
ISOTONIC_PATIENTS = 100


@dataclass(frozen=True)
class Platt:
    """Log odds = slope * logit + intercept, per label.

    Attributes:
        labels: Names, length L.
        slope: Shape (L,).
        intercept: Shape (L,).
        shared_slope: What the slopes were shrunk to.
        strength: How strongly: 1 / variance of the true slopes between labels.
        n_cases: Known cases of each label, shape (L,).
        n_positive_patients: Patients with a positive case of each label, shape (L,).
    """

    labels: tuple[str, ...]
    slope: Array
    intercept: Array
    shared_slope: float
    strength: float
    n_cases: Array
    n_positive_patients: Array

    def log_odds(self, logits: Array) -> Array:
        """Return calibrated log odds, (N, L) -> (N, L)."""
        return self.slope * logits.astype(np.float64) + self.intercept

    def raw_logits(self, log_odds: Array) -> Array:
        """Return the logits that calibrate to these log odds, one per label, (L,) -> (L,); NaN where there are none."""
        rising = self.slope > 0
        return np.where(rising, (log_odds - self.intercept) / np.where(rising, self.slope, 1.0), np.nan)


def fit_platt(source: OutOfFold, *, applied: Predictions, seed: int) -> Platt:
    """Fit on the out-of-fold rows of one training seed.

    Args:
        source: Rows of other patients than those in `applied`; one logit per label, targets 0, 1 or NaN.
        applied: The rows it will be applied to.
        seed: Training seed.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
        ValueError: If the table doesn't have one logit per label.
    Source:
        Platt, 1999, with his smoothed targets, which keep labels without positives finite; the shrinkage is ours.
    """
    rows, _ = label_rows(source, applied=applied, seed=seed)
    images = len(rows) / distinct(rows.patient_code)
    slope, intercept, shared, strength = shrunk_lines(rows.logits, rows.targets, images_per_patient=images)
    return Platt(
        labels=rows.labels,
        slope=slope,
        intercept=intercept,
        shared_slope=shared,
        strength=strength,
        n_cases=(~np.isnan(rows.targets)).sum(axis=0),
        n_positive_patients=positive_patients(rows),
    )


def shrunk_lines(logits: Array, targets: Array, *, images_per_patient: float) -> tuple[Array, Array, float, float]:
    """Return slopes (L,), intercepts (L,), the shared slope and how strongly slopes were shrunk to it.

    Arguments as in `shrinkage` and `solve_platt`, which this is both of.
    """
    lines = LabelLines(logits, targets)
    free = lines.fit(*lines.start)
    strength = _shrinkage(lines, free, images_per_patient=images_per_patient)
    return *_shrunk(lines, free, strength), strength


def label_rows(source: OutOfFold, *, applied: Predictions, seed: int) -> tuple[Predictions, Array]:
    """Return the multilabel rows of one seed to fit on, and their groups: the gate of what is fitted per label.

    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
        ValueError: If there is not one logit per label, or no row of this seed.
    """
    rows = source_rows(source, applied=applied)
    if rows.logits.shape != rows.targets.shape:
        raise ValueError(
            f"what is fitted per label needs one logit per label, got {len(rows.classes)} logits and "
            f"{len(rows.labels)} labels"
        )
    of_seed = rows.seed == seed
    if not of_seed.any():
        raise ValueError(f"no out-of-fold rows of seed {seed} (seeds: {np.unique(rows.seed).tolist()})")
    chosen = rows.select(of_seed)
    certain = np.isin(chosen.targets, (0.0, 1.0))  # a soft target is what a policy made of an uncertain label
    return chosen.having(targets=np.where(certain, chosen.targets, np.nan)), source.group[of_seed]


def positive_patients(rows: Predictions) -> Array:
    """Return the number of patients with a positive case of each label, shape (L,)."""
    return np.array([distinct(rows.patient_code[column == 1]) for column in rows.targets.T])


def shrinkage(logits: Array, targets: Array, *, images_per_patient: float) -> float:
    """Return the penalty on a slope's distance from the shared one: 1 / variance of the true slopes between labels.

    Args:
        logits: Shape (N, L).
        targets: 0, 1 or NaN, shape (N, L).
        images_per_patient: The slopes' variances are multiplied by it, as if all images of a patient were one.
    Source:
        DerSimonian and Laird, 1986, moments of a random-effects model.
    """
    lines = LabelLines(logits, targets)
    return _shrinkage(lines, lines.fit(*lines.start), images_per_patient=images_per_patient)


def _shrinkage(lines: LabelLines, free: tuple[Array, Array], *, images_per_patient: float) -> float:
    """`shrinkage` from the slopes and intercepts of labels that are not pulled together."""
    slope, intercept = free
    _, _, ss, si, ii = lines.derivatives(slope, intercept)
    certain = np.maximum(ss - si**2 / ii, 0.0) / images_per_patient
    total = certain.sum()
    spare = total - (certain**2).sum() / max(total, WEAK_RIDGE)
    if len(slope) < 2 or spare <= 0:
        return STRONGEST
    mean = (certain * slope).sum() / total
    excess = (certain * (slope - mean) ** 2).sum() - (len(slope) - 1)
    return float(min(STRONGEST, spare / excess)) if excess > 0 else STRONGEST


def solve_platt(logits: Array, targets: Array, strength: float) -> tuple[Array, Array, float]:
    """Return slopes (L,), intercepts (L,) and the shared slope; convex, by Newton's method for all labels at once.

    Args:
        logits: Shape (N, L).
        targets: 0, 1 or NaN, shape (N, L).
        strength: Penalty on half the squared distance of a slope from the shared one.
    """
    lines = LabelLines(logits, targets)
    return _shrunk(lines, lines.fit(*lines.start), strength)


def _shrunk(lines: LabelLines, free: tuple[Array, Array], strength: float) -> tuple[Array, Array, float]:
    """`solve_platt` from the slopes and intercepts of labels that are not pulled together."""
    slope, intercept = free
    tied = lines.fit(np.full(len(slope), slope.mean()), intercept, tied=True)
    shared = float(tied[0][0])
    return *lines.fit(*tied, centre=shared, strength=strength), shared


@dataclass(frozen=True)
class Isotonic:
    """A rising step function per label where the data carry one, Platt's line elsewhere.

    Attributes:
        platt: Lines of all labels.
        steps: Per label the logits and log odds of the step function's corners; None where the line is used.
        reasons: Per label why the line is used; None where the steps are.
    """

    platt: Platt
    steps: tuple[tuple[Array, Array] | None, ...]
    reasons: tuple[str | None, ...]

    def log_odds(self, logits: Array) -> Array:
        """Return calibrated log odds, (N, L) -> (N, L); beyond the outermost corners they stay constant."""
        result = self.platt.log_odds(logits)
        for label, corners in enumerate(self.steps):
            if corners is not None:
                result[:, label] = np.interp(logits[:, label], *corners)
        return result

    def raw_logits(self, log_odds: Array) -> Array:
        """Return the smallest logits that calibrate to these log odds, (L,) -> (L,); NaN where there are none."""
        result = self.platt.raw_logits(log_odds)
        for label, corners in enumerate(self.steps):
            if corners is not None:
                result[label] = _inverse(corners, float(log_odds[label]))
        return result


def _inverse(corners: tuple[Array, Array], wanted: float) -> float:
    levels, odds = corners
    above = int(np.searchsorted(odds, wanted, side="left"))
    if above == len(odds) or (above == 0 and odds[0] > wanted):
        return float("nan")
    if odds[above] == wanted:
        return float(levels[above])
    share = (wanted - odds[above - 1]) / (odds[above] - odds[above - 1])
    return float(levels[above - 1] + share * (levels[above] - levels[above - 1]))


def fit_isotonic(
    source: OutOfFold, *, applied: Predictions, seed: int, min_patients: int = ISOTONIC_PATIENTS
) -> Isotonic:
    """Fit an isotonic regression per label with enough patients on both sides, Platt's line for the others.

    Args:
        source: As in `fit_platt`.
        applied: As in `fit_platt`.
        seed: Training seed.
        min_patients: Positive and negative patients that a label needs.
    Source:
        Zadrozny and Elkan, 2002; log odds are kept within one pseudo-case of each side.
    """
    from scipy.optimize import isotonic_regression

    platt = fit_platt(source, applied=applied, seed=seed)
    rows, _ = label_rows(source, applied=applied, seed=seed)
    steps: list[tuple[Array, Array] | None] = []
    reasons: list[str | None] = []
    for logits, targets in zip(rows.logits.astype(np.float64).T, rows.targets.T, strict=True):
        sides = [distinct(rows.patient_code[targets == side]) for side in (1.0, 0.0)]
        if min(sides) < min_patients:
            reasons.append(
                f"{sides[0]} positive and {sides[1]} negative patients: isotonic needs {min_patients} on each side"
            )
            steps.append(None)
            continue
        known = ~np.isnan(targets)
        levels, inverse, counts = np.unique(logits[known], return_inverse=True, return_counts=True)
        share = np.bincount(inverse, weights=targets[known]) / counts
        risen = isotonic_regression(share, weights=counts).x
        smallest = 1.0 / (known.sum() + 2.0)
        risen = np.clip(risen, smallest, 1.0 - smallest)
        # within a step nothing changes: its two ends say it all
        ends = np.r_[True, np.diff(risen) != 0] | np.r_[np.diff(risen) != 0, True]
        steps.append((levels[ends], np.log(risen[ends] / (1.0 - risen[ends]))))
        reasons.append(None)
    return Isotonic(platt, tuple(steps), tuple(reasons))

"""Thresholds and cut points fitted on rows of other patients.

Tuned on the cases it is reported on, F1 looks .428 where independent cases give .344 (n = 500, 5 % prevalence).
So every threshold goes through `OutOfFold`, and a label with few positive patients takes the global one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.metrics.agreement import qwk
from archbench.metrics.metric import Array
from archbench.metrics.table_rows import distinct
from archbench.out_of_fold import OutOfFold, source_rows
from archbench.recalibration import label_rows, positive_patients

FEW_POSITIVE_PATIENTS = 25
CUT_GRID = 200
CUT_SWEEPS = 20
SAME = 1e-12

Kind = Literal["f1", "youden", "sensitivity", "specificity", "cost"]


@dataclass(frozen=True)
class Rule:
    """What a threshold is chosen for; `rule_of` makes one from a kind and a single number.

    Attributes:
        kind: f1 or youden (sensitivity + specificity - 1), the largest; sensitivity or specificity, the best of the
            other among thresholds that reach `target`; cost, the least cost of mistakes.
        target: Wanted sensitivity or specificity.
        miss_cost: Cost of a missed positive, in false alarms (kind "cost").
    """

    kind: Kind
    target: float | None = None
    miss_cost: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("f1", "youden", "sensitivity", "specificity", "cost"):
            raise ValueError(
                f"unknown threshold rule '{self.kind}' (known: f1, youden, sensitivity, specificity, cost)"
            )
        if self.kind in ("sensitivity", "specificity") and not (self.target is not None and 0 < self.target <= 1):
            raise ValueError(f"a fixed {self.kind} needs a target above 0 and up to 1, got {self.target}")
        if self.kind == "cost" and not (self.miss_cost is not None and self.miss_cost > 0):
            raise ValueError(f"a cost-based threshold needs a positive miss_cost, got {self.miss_cost}")


def rule_of(kind: Kind, value: float | None) -> Rule:
    """Return the rule of a kind whose number is the sensitivity or specificity to hold, or the cost of a miss."""
    return Rule(kind, miss_cost=value) if kind == "cost" else Rule(kind, target=value)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds on log odds; a case is called positive at or above.

    Attributes:
        labels: Names, length L.
        log_odds: Shape (L,).
        global_log_odds: One threshold for all labels, chosen on their pooled cases.
        reasons: Per label why the global one is used; None where the label has its own.
        n_positive_patients: Patients with a positive case of each label among those it was fitted on, shape (L,).
        n_patients_with_any: Patients with a positive case of any label.
    """

    labels: tuple[str, ...]
    log_odds: Array
    global_log_odds: float
    reasons: tuple[str | None, ...]
    n_positive_patients: Array
    n_patients_with_any: int

    @property
    def probabilities(self) -> Array:
        """The thresholds as probabilities, shape (L,)."""
        return 1.0 / (1.0 + np.exp(-self.log_odds))

    def decide(self, log_odds: Array) -> Array:
        """Return which labels are called, boolean (N, L)."""
        return log_odds >= self.log_odds


def fit_thresholds(
    source: OutOfFold, *, applied: Predictions, seed: int, rule: Rule, few: int = FEW_POSITIVE_PATIENTS
) -> Thresholds:
    """Choose a threshold per label on the (calibrated) log odds of other patients.

    Args:
        source: Rows of other patients than those in `applied`; one logit per label, targets 0, 1 or NaN.
        applied: The rows it will be applied to.
        seed: Training seed.
        rule: What to choose for.
        few: Positive patients below which a label takes the global threshold.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
        ValueError: If no label has both a positive and a negative case.
    """
    rows, _ = label_rows(source, applied=applied, seed=seed)
    known = ~np.isnan(rows.targets)
    pooled = best_threshold(rows.logits[known], rows.targets[known], rule)
    if np.isnan(pooled):
        raise ValueError("no threshold can be chosen: the rows to fit on have no positive or no negative case")
    chosen, reasons, counts = [], [], positive_patients(rows)
    for column, inside, targets, patients in zip(rows.logits.T, known.T, rows.targets.T, counts, strict=True):
        own = best_threshold(column[inside], targets[inside], rule) if patients >= few else np.nan
        reason = None if not np.isnan(own) else f"{patients} positive patients, below {few}: the global threshold"
        if patients >= few and reason is not None:
            reason = "no negative case: the global threshold"
        chosen.append(pooled if reason is not None else own)
        reasons.append(reason)
    anyone = distinct(rows.patient_code[(rows.targets == 1).any(axis=1)])
    return Thresholds(rows.labels, np.array(chosen, np.float64), float(pooled), tuple(reasons), counts, anyone)


def best_threshold(scores: Array, targets: Array, rule: Rule) -> float:
    """Return the best threshold, halfway between two neighbouring scores; of equally good ones the middle.

    Args:
        scores: Shape (N,).
        targets: 0 or 1, shape (N,).
    Returns:
        NaN without positives or without negatives.
    """
    positives, negatives = float((targets == 1).sum()), float((targets == 0).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    cuts, caught, alarms = _counts_at_cuts(scores.astype(np.float64), targets)
    sensitivity, specificity = caught / positives, 1.0 - alarms / negatives
    if rule.kind == "f1":
        value = 2.0 * caught / (caught + alarms + positives)
    elif rule.kind == "youden":
        value = sensitivity + specificity
    elif rule.kind == "cost":
        assert rule.miss_cost is not None
        value = -(rule.miss_cost * (positives - caught) + alarms)
    else:
        fixed, free = (sensitivity, specificity) if rule.kind == "sensitivity" else (specificity, sensitivity)
        assert rule.target is not None
        value = np.where(fixed >= rule.target - 1e-12, free, -np.inf)
    best = np.flatnonzero(value >= value.max() - 1e-12)
    return float(cuts[best[len(best) // 2]])


def _counts_at_cuts(scores: Array, targets: Array) -> tuple[Array, Array, Array]:
    """Cuts from below all scores to above, and the positives and negatives at or above each."""
    levels, inverse = np.unique(scores, return_inverse=True)
    positive = np.bincount(inverse, weights=targets)
    negative = np.bincount(inverse, weights=1.0 - targets)
    caught = np.r_[np.cumsum(positive[::-1])[::-1], 0.0]
    alarms = np.r_[np.cumsum(negative[::-1])[::-1], 0.0]
    middle = 0.5 * (levels[:-1] + levels[1:])
    # two neighbours in floating point have no middle above the lower one
    middle = np.where(middle > levels[:-1], middle, levels[1:])
    return np.r_[np.nextafter(levels[0], -np.inf), middle, np.nextafter(levels[-1], np.inf)], caught, alarms


@dataclass(frozen=True)
class CutPoints:
    """Where one grade ends and the next begins on the expected grade.

    Attributes:
        cuts: Rising, shape (K - 1,).
    """

    cuts: Array

    def decide(self, expected: Array) -> Array:
        """Return the grade of each expected grade, shape (N,)."""
        return np.searchsorted(self.cuts, expected, side="right")


def expected_grade(logits: Array) -> Array:
    """Return the mean grade of each row under its probabilities, (N, K) -> (N,)."""
    return softmax(logits) @ np.arange(logits.shape[1])


def fit_cut_points(source: OutOfFold, *, applied: Predictions, seed: int) -> CutPoints:
    """Choose the cut points of the expected grade that give the best QWK on rows of other patients.

    Args:
        source: Rows of an ordinal task, of other patients than those in `applied`.
        applied: The rows they will be applied to.
        seed: Training seed.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
    """
    rows = source_rows(source, applied=applied)
    rows = rows.select(rows.seed == seed)
    return CutPoints(best_cuts(expected_grade(rows.logits), rows.y_true, rows.logits.shape[1]))


def best_cuts(expected: Array, y_true: Array, n_classes: int) -> Array:
    """Return the cuts (K - 1,) that maximise QWK, moving one cut at a time from the rounding points.

    A cut moves only where QWK gets better, so that grades without cases keep the rounding points.

    Args:
        expected: Expected grade, shape (N,).
        y_true: Grades, shape (N,).
        n_classes: Number of grades K.
    """
    candidates = np.unique(np.quantile(expected, np.linspace(0, 1, CUT_GRID + 1), method="nearest"))
    candidates = 0.5 * (candidates[:-1] + candidates[1:]) if len(candidates) > 1 else candidates
    # cases by truth and gap between candidates: any set of cuts only adds up these counts
    place = np.searchsorted(candidates, expected, side="right")
    table = np.bincount(y_true * (len(candidates) + 1) + place, minlength=n_classes * (len(candidates) + 1))
    below = np.c_[np.zeros(n_classes), np.cumsum(table.reshape(n_classes, -1), axis=1)]  # (K, gaps + 1)
    rounding = np.arange(n_classes - 1) + 0.5
    started = np.clip(np.searchsorted(candidates, rounding), 0, len(candidates) - 1)
    cuts = _climb(below, started)
    return np.maximum.accumulate(np.where(cuts == started, rounding, candidates[cuts]))


def _climb(below: Array, cuts: Array) -> Array:
    """Move one cut at a time to where QWK is best, until none moves.

    Args:
        below: Cases of each truth below each edge between gaps, shape (K, gaps + 1).
        cuts: Index of the candidate of each cut, shape (K - 1,).
    """
    best, last = _kappa(below, cuts), below.shape[1] - 3
    for _ in range(CUT_SWEEPS):
        before = best
        for k in range(len(cuts)):
            low = cuts[k - 1] if k else 0
            high = cuts[k + 1] if k + 1 < len(cuts) else last
            for place in range(low, high + 1):
                tried = np.r_[cuts[:k], place, cuts[k + 1 :]]
                found = _kappa(below, tried)
                if found > best + SAME:
                    cuts, best = tried, found
        if best <= before + SAME:
            break
    return cuts


def _kappa(below: Array, cuts: Array) -> float:
    edges = np.r_[0, cuts + 1, below.shape[1] - 1]
    found = float(qwk(np.diff(below[:, edges], axis=1)))
    return -np.inf if np.isnan(found) else found

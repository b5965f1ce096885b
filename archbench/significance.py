"""Claims that need another test than the patient bootstrap: retraining, several data sets, exact ties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

SMALLEST_DATASETS = 8
SAME = 1e-12


class TooFewDatasets(ValueError):
    """A critical-difference diagram was asked for over fewer data sets than its test can carry."""


@dataclass(frozen=True)
class RetrainingTest:
    """Would the difference hold for models trained anew on other patients of the same source?

    Attributes:
        difference: Mean over folds of the seed-averaged difference.
        standard_error: With the correction for overlapping training parts.
        p: Two-sided; NaN with one fold.
        low: Lower bound of the interval.
        high: Upper bound.
        folds: Number of folds.
    """

    difference: float
    standard_error: float
    p: float
    low: float
    high: float
    folds: int


def nadeau_bengio(differences: Array, *, test_share: float, confidence: float) -> RetrainingTest:
    """Return the corrected resampled t-test of a paired difference over folds, for claims about retraining.

    Seeds are averaged within a fold first. Training parts of different folds overlap, so that the plain t-test
    over folds rejects too often; the correction adds the ratio of test to training cases to the variance.

    Args:
        differences: One value per fold and seed, shape (F, S), in the metric's own unit.
        test_share: Cases tested per fold over cases trained on, e.g. .25 in 5 folds.
        confidence: Level of the interval.
    Source:
        Nadeau and Bengio, 2003, equation 11.
    """
    from scipy.special import stdtr, stdtrit

    by_fold = np.asarray(differences, dtype=np.float64).mean(axis=1)
    folds, mean = len(by_fold), float(by_fold.mean())
    if folds < 2 or np.isnan(mean):
        return RetrainingTest(mean, np.nan, np.nan, np.nan, np.nan, folds)
    error = float(np.sqrt((1.0 / folds + test_share) * by_fold.var(ddof=1)))
    half = float(stdtrit(folds - 1, 0.5 + confidence / 2.0)) * error
    certain = 1.0 if abs(mean) <= SAME else 0.0
    p = float(2.0 * stdtr(folds - 1, -abs(mean) / error)) if error > 0 else certain
    return RetrainingTest(mean, error, p, mean - half, mean + half, folds)


@dataclass(frozen=True)
class CriticalDifference:
    """Models over independent data sets.

    Attributes:
        mean_ranks: Mean rank of each model, 1 the best.
        p: Friedman's test (Iman and Davenport's F) of "all models rank alike".
        difference: Mean ranks closer than this are not told apart (Nemenyi).
        groups: Largest sets of models that are not told apart, best first.
    """

    mean_ranks: dict[str, float]
    p: float
    difference: float
    groups: tuple[tuple[str, ...], ...]


def critical_difference(
    values: Mapping[str, Array], *, greater_is_better: bool, alpha: float = 0.05
) -> CriticalDifference:
    """Return the critical difference of models over independent data sets, at least 8 of them.

    Args:
        values: Value of each model on each data set, shape (D,), the same data sets in the same order. Folds and
            seeds of one data set are not independent and may not stand in for data sets.
        greater_is_better: Direction of the metric.
        alpha: Level of the test.
    Raises:
        TooFewDatasets: Below 8 data sets, with the reason.
        ValueError: If a value is undefined or there are fewer than two models.
    Source:
        Demsar, 2006; Iman and Davenport, 1980.
    """
    from scipy.stats import f as f_distribution
    from scipy.stats import rankdata, studentized_range

    names, table = list(values), np.array(list(values.values()), dtype=np.float64)
    if len(names) < 2:
        raise ValueError(f"a critical difference needs at least two models, got {len(names)}")
    models, datasets = table.shape
    if datasets < SMALLEST_DATASETS:
        raise TooFewDatasets(
            f"{datasets} data sets: a critical-difference diagram needs at least {SMALLEST_DATASETS}, since Friedman's "
            "test has hardly any power below; compare the models pair by pair on each data set"
        )
    if np.isnan(table).any():
        raise ValueError("a critical difference needs a defined value of every model on every data set")
    ranks = rankdata(-table if greater_is_better else table, axis=0)
    mean = ranks.mean(axis=1)
    chi = 12.0 * datasets / (models * (models + 1)) * ((mean**2).sum() - models * (models + 1) ** 2 / 4.0)
    rest = datasets * (models - 1) - chi
    p = 0.0 if rest <= 0 else f_distribution.sf((datasets - 1) * chi / rest, models - 1, (models - 1) * (datasets - 1))
    width = studentized_range.ppf(1.0 - alpha, models, np.inf) / np.sqrt(2.0)
    apart = float(width * np.sqrt(models * (models + 1) / (6.0 * datasets)))
    shown = {names[k]: float(mean[k]) for k in np.argsort(mean, kind="stable")}
    return CriticalDifference(shown, float(p), apart, _groups(shown, apart))


def _groups(mean_ranks: Mapping[str, float], apart: float) -> tuple[tuple[str, ...], ...]:
    """Runs of neighbours within the critical difference, each as long as it goes, none inside another."""
    names, ranks = list(mean_ranks), list(mean_ranks.values())
    groups, last = [], 0
    for first in range(len(names)):
        end = max(k for k in range(first, len(names)) if ranks[k] - ranks[first] <= apart) + 1
        if end > last and end - first > 1:
            groups.append(tuple(names[first:end]))
        last = max(last, end)
    return tuple(groups)


def tied_with(draws: Mapping[str, Array]) -> dict[str, list[str]]:
    """Return for each model which others have the same value in every resample: ties, not close calls.

    An ensemble that fell back to its best member is that member. Saying that each "comes first in 50 % of the
    redrawn groups" would hide it.

    Args:
        draws: Value of each model in each resample, shape (B,), NaN where undefined.
    """
    return {
        name: [
            other
            for other, theirs in draws.items()
            if other != name and np.allclose(own, theirs, rtol=0.0, atol=SAME, equal_nan=True)
        ]
        for name, own in draws.items()
    }

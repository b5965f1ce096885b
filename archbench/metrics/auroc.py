"""Area under the ROC curve: sorted once, then all resamples from cumulative sums."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from archbench.metrics.metric import Array, Metric
from archbench.registry import METRICS

CHUNK_ELEMENTS = 160_000  # of (cases x draws): the working arrays stay in the cache, measured best


def auroc(y_score: Array, positive: Array, weights: Array | None = None, rows: Array | None = None) -> Array:
    """Return the AUROC of every resample, ties counted half.

    Args:
        y_score: Shape (N,).
        positive: Boolean, shape (N,).
        weights: Weight of each unit (patient) in each resample, shape (P, B); None weighs each case 1.
        rows: Unit of each case, indices into `weights`, shape (N,); None where units are cases.
    Returns:
        Shape (B,); NaN where a resample has no positive or no negative case.
    """
    n = len(y_score)
    weights = np.ones((n, 1)) if weights is None else weights
    rows = np.arange(n) if rows is None else rows
    if n == 0:
        return np.full(weights.shape[1], np.nan)
    order = np.argsort(y_score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(y_score[order]) != 0])
    rows, positive = rows[order], positive[order].astype(bool)
    step = max(1, CHUNK_ELEMENTS // n)
    parts = [
        _auroc_sorted(weights[:, start : start + step], rows, positive, starts)
        for start in range(0, weights.shape[1], step)
    ]
    return np.concatenate(parts)


def _auroc_sorted(weights: Array, rows: Array, positive: Array, starts: Array) -> Array:
    """AUROC (B,) of cases in order of their score; `starts` opens each group of equal scores."""
    negative_weight = weights[rows].astype(np.float64)
    n_positive = negative_weight[positive].sum(axis=0)
    if len(starts) == len(rows):  # no ties: the negatives below a positive are the running sum at its place
        positive_weight = negative_weight[positive]
        negative_weight[positive] = 0.0
        below = np.cumsum(negative_weight, axis=0, out=negative_weight)
        wins = np.einsum("ib,ib->b", positive_weight, below[positive])
        n_negative = below[-1]
    else:
        positive_weight = np.where(positive[:, None], negative_weight, 0.0)
        positive_group = np.add.reduceat(positive_weight, starts, axis=0)
        negative_group = np.add.reduceat(negative_weight, starts, axis=0) - positive_group
        through = np.cumsum(negative_group, axis=0)
        wins = np.einsum("ib,ib->b", positive_group, through - 0.5 * negative_group)
        n_negative = through[-1]
    pairs = n_positive * n_negative
    return np.divide(wins, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)


def one_vs_rest(probabilities: Array, y_true: Array) -> tuple[Array, Array]:
    """Return scores (K, N) and positives (K, N) of each class against all others."""
    classes = np.arange(probabilities.shape[1])
    return probabilities.T, y_true[None, :] == classes[:, None]


def at_cut(probabilities: Array, y_true: Array, cut: int) -> tuple[Array, Array]:
    """Return score (1, N) and positives (1, N) of "grade `cut` or worse": the summed probability of these grades."""
    return probabilities[:, cut:].sum(axis=1)[None, :], (y_true >= cut)[None, :]


def metric_at_cut(name: str, clinical_cut: int) -> Metric:
    """Return the named metric; `auroc_clinical_cut` with this first grade that counts as positive."""
    metric: Metric = METRICS.get(name)
    if name != "auroc_clinical_cut":
        return metric
    return replace(metric, terms=partial(at_cut, cut=clinical_cut))


def roc_curve(y_score: Array, positive: Array) -> tuple[Array, Array]:
    """Return false and true positive rates at every distinct score, from (0, 0) to (1, 1)."""
    order = np.argsort(-y_score, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(y_score[order]) != 0, True])
    true_positives = np.cumsum(positive[order])[ends]
    false_positives = ends + 1 - true_positives
    tpr = np.r_[0.0, true_positives / true_positives[-1]]
    fpr = np.r_[0.0, false_positives / false_positives[-1]]
    return fpr, tpr


METRICS.register(
    "auroc_macro",
    Metric(
        name="auroc_macro",
        kind="rank",
        greater_is_better=True,
        function=auroc,
        undefined_reason="no class has enough positive and negative patients, or one has them in no fold",
        terms=one_vs_rest,
    ),
)
METRICS.register(
    "auroc_clinical_cut",
    Metric(
        name="auroc_clinical_cut",
        kind="rank",
        greater_is_better=True,
        function=auroc,
        undefined_reason="too few patients on one side of the clinical cut, or none in any fold",
        terms=partial(at_cut, cut=2),
    ),
)

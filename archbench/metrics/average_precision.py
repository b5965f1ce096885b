"""Area under the precision-recall curve (average precision), resampled from one sort."""

from __future__ import annotations

import numpy as np

from archbench.metrics.auroc import CHUNK_ELEMENTS, one_vs_rest
from archbench.metrics.metric import Array, Metric
from archbench.registry import METRICS


def average_precision(
    y_score: Array, positive: Array, weights: Array | None = None, rows: Array | None = None
) -> Array:
    """Return the average precision of every resample: the sum over thresholds of recall gained times precision.

    Equal scores are one threshold.

    Args:
        y_score: Shape (N,).
        positive: Boolean, shape (N,).
        weights: Weight of each unit (patient) in each resample, shape (P, B); None weighs each case 1.
        rows: Unit of each case, indices into `weights`, shape (N,); None where units are cases.
    Returns:
        Shape (B,); NaN where a resample has no positive case (scikit-learn says 0 there).
    """
    n = len(y_score)
    weights = np.ones((n, 1)) if weights is None else weights
    rows = np.arange(n) if rows is None else rows
    if n == 0:
        return np.full(weights.shape[1], np.nan)
    order = np.argsort(-y_score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(y_score[order]) != 0])
    rows, positive = rows[order], positive[order].astype(bool)
    step = max(1, CHUNK_ELEMENTS // n)
    chunks = [weights[:, start : start + step] for start in range(0, weights.shape[1], step)]
    return np.concatenate([_sorted_precision(chunk, rows, positive, starts) for chunk in chunks])


def _sorted_precision(weights: Array, rows: Array, positive: Array, starts: Array) -> Array:
    weight = weights[rows].astype(np.float64)
    hits = np.where(positive[:, None], weight, 0.0)
    if len(starts) < len(rows):
        weight, hits = np.add.reduceat(weight, starts, axis=0), np.add.reduceat(hits, starts, axis=0)
    called, found = np.cumsum(weight, axis=0), np.cumsum(hits, axis=0)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    total = found[-1]
    area = np.einsum("ib,ib->b", hits, precision)
    return np.divide(area, total, out=np.full(total.shape, np.nan), where=total > 0)


METRICS.register(
    "auprc_macro",
    Metric(
        name="auprc_macro",
        kind="rank",
        greater_is_better=True,
        function=average_precision,
        undefined_reason="no label has enough positive and negative patients, or one has no positive in any fold",
        terms=one_vs_rest,
    ),
)
METRICS.register(
    "auprc_micro",
    Metric(
        name="auprc_micro",
        kind="rank",
        greater_is_better=True,
        function=average_precision,
        undefined_reason="there are no positive cells",
        terms=one_vs_rest,
        of="pooled",
    ),
)

"""Precision, recall and F1, per class and as a macro mean."""

from __future__ import annotations

import numpy as np

from archbench.metrics.metric import Array, Metric, mean_defined, ratio
from archbench.registry import METRICS


def class_precision(counts: Array) -> Array:
    """Return precision per class (..., K) from counts (..., K, K); NaN for a class never predicted."""
    return ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-2))


def class_recall(counts: Array) -> Array:
    """Return recall per class (..., K) from counts (..., K, K); NaN for a class absent from the truth."""
    return ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1))


def class_f1(counts: Array) -> Array:
    """Return F1 per class (..., K) from counts (..., K, K); NaN where absent from truth and prediction."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return ratio(2.0 * hits, counts.sum(axis=-1) + counts.sum(axis=-2))


def macro_f1(counts: Array) -> Array:
    """Return the mean F1 over the classes that occur in truth or prediction, from counts (..., K, K)."""
    return mean_defined(class_f1(counts))


def f1_from_overlap(overlap: float) -> float:
    """Return F1 where this share of what is called or true is both: F1 = 2 J / (1 + J)."""
    return 2.0 * overlap / (1.0 + overlap)


def called_or_true(y_true: Array, y_pred: Array) -> Array:
    """Return which cases are called or are of each class, boolean (K, ...): its F1 tells the share that are both."""
    classes = np.union1d(y_true, y_pred).reshape(-1, *np.ones(y_true.ndim, dtype=np.int64))
    return np.asarray((y_true == classes) | (y_pred == classes))


METRICS.register(
    "macro_f1",
    Metric(
        name="macro_f1",
        kind="confusion",
        greater_is_better=True,
        function=macro_f1,
        undefined_reason="there are no cases",
        share=called_or_true,
        from_share=f1_from_overlap,
    ),
)

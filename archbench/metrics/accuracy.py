"""Accuracy, plain and balanced."""

from __future__ import annotations

import numpy as np

from archbench.metrics.metric import Array, Metric, all_cases, mean_defined, ratio
from archbench.registry import METRICS


def accuracy(counts: Array) -> Array:
    """Return the share of right predictions from counts (..., K, K)."""
    return ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def balanced_accuracy(counts: Array) -> Array:
    """Return the mean recall over the classes that occur in the truth, from counts (..., K, K)."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return mean_defined(ratio(hits, counts.sum(axis=-1)))


METRICS.register(
    "accuracy",
    Metric(
        name="accuracy",
        kind="confusion",
        greater_is_better=True,
        function=accuracy,
        undefined_reason="there are no cases",
        share=all_cases,
    ),
)
METRICS.register(
    "balanced_accuracy",
    Metric(
        name="balanced_accuracy",
        kind="confusion",
        greater_is_better=True,
        function=balanced_accuracy,
        undefined_reason="there are no cases",
    ),
)

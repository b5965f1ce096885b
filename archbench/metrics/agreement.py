"""Chance-corrected agreement: quadratic weighted kappa and the multiclass Matthews coefficient."""

from __future__ import annotations

import numpy as np

from archbench.metrics.metric import Array, Metric, ratio
from archbench.registry import METRICS


def qwk(counts: Array) -> Array:
    """Return the quadratic weighted kappa from counts (..., K, K) over all K grades.

    All grades are always there: leaving out a grade that happens not to occur would shrink the distances
    between the others.

    Returns:
        NaN where truth and prediction are one and the same grade throughout.
    Source:
        Cohen, 1968; weights (i - j)^2.
    """
    n_classes = counts.shape[-1]
    grades = np.arange(n_classes)
    distance = (grades[:, None] - grades[None, :]) ** 2.0
    total = counts.sum(axis=(-2, -1))
    expected = counts.sum(axis=-1)[..., :, None] * counts.sum(axis=-2)[..., None, :]
    observed_disagreement = (counts * distance).sum(axis=(-2, -1)) * total
    return 1.0 - ratio(observed_disagreement, (expected * distance).sum(axis=(-2, -1)))


def mcc(counts: Array) -> Array:
    """Return the multiclass Matthews correlation from counts (..., K, K).

    Returns:
        NaN where truth or prediction has a single class (scikit-learn says 0 there).
    Source:
        Gorodkin, 2004.
    """
    total = counts.sum(axis=(-2, -1))
    truth, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    hits = np.trace(counts, axis1=-2, axis2=-1)
    covariance = hits * total - (truth * predicted).sum(axis=-1)
    truth_variance = total**2 - (truth**2).sum(axis=-1)
    predicted_variance = total**2 - (predicted**2).sum(axis=-1)
    return ratio(covariance, np.sqrt(truth_variance * predicted_variance))


METRICS.register(
    "qwk",
    Metric(
        name="qwk",
        kind="confusion",
        greater_is_better=True,
        function=qwk,
        undefined_reason="truth and prediction are one and the same grade throughout",
        bounds=(-1.0, 1.0),
    ),
)
METRICS.register(
    "mcc",
    Metric(
        name="mcc",
        kind="confusion",
        greater_is_better=True,
        function=mcc,
        undefined_reason="truth or prediction has a single class",
        bounds=(-1.0, 1.0),
    ),
)

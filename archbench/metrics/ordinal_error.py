"""How far off the predicted grade is."""

from __future__ import annotations

import numpy as np

from archbench.metrics.metric import Array, Metric, all_cases, mean_defined, ratio
from archbench.registry import METRICS


def _distance(n_classes: int) -> Array:
    grades = np.arange(n_classes)
    return np.abs(grades[:, None] - grades[None, :]).astype(np.float64)


def macro_mae(counts: Array) -> Array:
    """Return the mean absolute grade error, averaged over the true grades that occur, from counts (..., K, K).

    Source:
        Baccianella, Esuli and Sebastiani, 2009.
    """
    errors = (counts * _distance(counts.shape[-1])).sum(axis=-1)
    return mean_defined(ratio(errors, counts.sum(axis=-1)))


def off_by_two(counts: Array) -> Array:
    """Return the share of cases whose predicted grade is two or more grades off, from counts (..., K, K)."""
    far = counts * (_distance(counts.shape[-1]) >= 2)
    return ratio(far.sum(axis=(-2, -1)), counts.sum(axis=(-2, -1)))


METRICS.register(
    "macro_mae",
    Metric(
        name="macro_mae",
        kind="confusion",
        greater_is_better=False,
        function=macro_mae,
        undefined_reason="there are no cases",
        bounds=(0.0, float("inf")),
    ),
)
METRICS.register(
    "off_by_two",
    Metric(
        name="off_by_two",
        kind="confusion",
        greater_is_better=False,
        function=off_by_two,
        undefined_reason="there are no cases",
        share=all_cases,
    ),
)

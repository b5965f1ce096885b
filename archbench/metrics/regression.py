"""Errors and correlation of a predicted number; for zones, of the mean grade of a case's gradable zones."""

from __future__ import annotations

import numpy as np

from archbench.metrics.metric import Array, Metric, ratio
from archbench.registry import METRICS

DEGENERATE = 1e-12  # share of the second moment below which a variance is rounding


def moment_terms(values: Array, y_true: Array) -> Array:
    """Return the sums that errors and correlations are made of, shape (8, N).

    Ones, |error|, error², prediction, truth, their squares and product; values are shifted by the mean truth first,
    which changes no result and keeps precision.

    Args:
        values: Predictions, shape (N, 1).
        y_true: Shape (N,).
    """
    said = values[:, 0]
    shift = y_true.mean() if len(y_true) else 0.0
    x, y = said - shift, y_true - shift
    return np.stack([np.ones(len(y)), np.abs(x - y), (x - y) ** 2, x, y, x**2, y**2, x * y])


def mae(sums: Array) -> Array:
    """Return the mean absolute error from sums of `moment_terms`."""
    return ratio(sums[1], sums[0])


def rmse(sums: Array) -> Array:
    """Return the root of the mean squared error from sums of `moment_terms`."""
    return np.sqrt(ratio(sums[2], sums[0]))


def pearson(sums: Array) -> Array:
    """Return Pearson's r from sums of `moment_terms`; NaN where truth or prediction is constant."""
    n, x, y, xx, yy, xy = sums[0], sums[3], sums[4], sums[5], sums[6], sums[7]
    of_x, of_y = xx - ratio(x * x, n), yy - ratio(y * y, n)
    constant = (of_x <= DEGENERATE * np.maximum(xx, 1.0)) | (of_y <= DEGENERATE * np.maximum(yy, 1.0))
    product = np.where(constant, 0.0, np.maximum(of_x, 0) * np.maximum(of_y, 0))
    return ratio(xy - ratio(x * y, n), np.sqrt(product))


def r2(sums: Array) -> Array:
    """Return the share of the variance explained, 1 - SSE / SST; NaN where the truth is constant."""
    n, y, yy = sums[0], sums[4], sums[6]
    total = yy - ratio(y * y, n)
    total = np.where(total <= DEGENERATE * np.maximum(yy, 1.0), 0.0, total)
    return 1.0 - ratio(sums[2], total)


METRICS.register(
    "mae",
    Metric(
        name="mae",
        kind="probability",
        greater_is_better=False,
        function=mae,
        undefined_reason="there are no cases",
        terms=moment_terms,
        bounds=(0.0, float("inf")),
    ),
)
METRICS.register(
    "rmse",
    Metric(
        name="rmse",
        kind="probability",
        greater_is_better=False,
        function=rmse,
        undefined_reason="there are no cases",
        terms=moment_terms,
        bounds=(0.0, float("inf")),
    ),
)
METRICS.register(
    "pearson",
    Metric(
        name="pearson",
        kind="probability",
        greater_is_better=True,
        function=pearson,
        undefined_reason="truth or prediction is constant",
        terms=moment_terms,
        bounds=(-1.0, 1.0),
    ),
)
METRICS.register(
    "r2",
    Metric(
        name="r2",
        kind="probability",
        greater_is_better=True,
        function=r2,
        undefined_reason="the truth is constant",
        terms=moment_terms,
        bounds=(-float("inf"), 1.0),
    ),
)

"""Expected and maximum calibration error of the predicted class, over equal-width confidence bins."""

from __future__ import annotations

import numpy as np

from archbench.metrics.metric import Array, Metric, ratio
from archbench.registry import METRICS

N_BINS = 15


def confidence_bin(confidence: Array) -> Array:
    """Return the bin of each confidence; bins are (low, high], as in Guo et al."""
    return np.clip(np.ceil(confidence * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1)


def binned_terms(probabilities: Array, y_true: Array) -> Array:
    """Return ones, membership of each bin and confidence minus correctness in each bin, shape (1 + 2 * N_BINS, N)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == y_true
    member = (confidence_bin(confidence)[None, :] == np.arange(N_BINS)[:, None]).astype(np.float64)
    return np.concatenate([np.ones((1, len(y_true))), member, member * (confidence - correct)])


def ece(sums: Array) -> Array:
    """Return the expected calibration error from the sums of `binned_terms`, (1 + 2 * N_BINS, ...) -> (...).

    Source:
        Guo et al., 2017, equation 3.
    """
    return ratio(np.abs(sums[1 + N_BINS :]).sum(axis=0), sums[0])


def mce(sums: Array) -> Array:
    """Return the largest gap of any bin that has cases, from the sums of `binned_terms`."""
    gaps = ratio(np.abs(sums[1 + N_BINS :]), sums[1 : 1 + N_BINS])
    largest = np.where(np.isnan(gaps), -np.inf, gaps).max(axis=0)
    return np.where(np.isneginf(largest), np.nan, largest)


METRICS.register(
    "ece",
    Metric(
        name="ece",
        kind="probability",
        greater_is_better=False,
        function=ece,
        undefined_reason="there are no cases",
        terms=binned_terms,
        centred=True,
    ),
)
METRICS.register(
    "mce",
    Metric(
        name="mce",
        kind="probability",
        greater_is_better=False,
        function=mce,
        undefined_reason="there are no cases",
        terms=binned_terms,
        centred=True,
    ),
)

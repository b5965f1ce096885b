"""Proper scores of the predicted probabilities: log loss and Brier score."""

from __future__ import annotations

import numpy as np

from archbench.metrics.metric import Array, Metric, ratio
from archbench.registry import METRICS


def log_loss_terms(probabilities: Array, y_true: Array) -> Array:
    """Return ones and the negative log probability of the true class, shape (2, N); clipped at float64 eps."""
    epsilon = np.finfo(np.float64).eps
    of_truth = probabilities[np.arange(len(y_true)), y_true]
    return np.stack([np.ones(len(y_true)), -np.log(np.clip(of_truth, epsilon, 1.0))])


def brier_terms(probabilities: Array, y_true: Array) -> Array:
    """Return ones and the squared error summed over all classes, shape (2, N); 0 to 2, also for two classes."""
    one_hot = np.eye(probabilities.shape[1])[y_true]
    return np.stack([np.ones(len(y_true)), ((probabilities - one_hot) ** 2).sum(axis=1)])


def mean_term(sums: Array) -> Array:
    """Return the weighted mean of the second term from sums (2, ...)."""
    return ratio(sums[1], sums[0])


METRICS.register(
    "log_loss",
    Metric(
        name="log_loss",
        kind="probability",
        greater_is_better=False,
        function=mean_term,
        undefined_reason="there are no cases",
        terms=log_loss_terms,
        bounds=(0.0, float("inf")),
    ),
)
METRICS.register(
    "brier",
    Metric(
        name="brier",
        kind="probability",
        greater_is_better=False,
        function=mean_term,
        undefined_reason="there are no cases",
        terms=brier_terms,
        bounds=(0.0, 2.0),
    ),
)

"""Metrics of a case as a whole, where every zone of it is graded: its mean grade and its risk class."""

from __future__ import annotations

import numpy as np

from archbench.metrics.accuracy import accuracy
from archbench.metrics.agreement import qwk
from archbench.metrics.f1 import class_f1
from archbench.metrics.metric import Array, Metric, all_cases, ratio
from archbench.metrics.regression import mae, moment_terms, pearson, rmse
from archbench.registry import METRICS

NO_SCORE = "no case has a gradable zone"


def weighted_f1(counts: Array) -> Array:
    """Return F1 averaged with the classes' true shares, from counts (..., K, K)."""
    support = counts.sum(axis=-1)
    return ratio((np.nan_to_num(class_f1(counts)) * support).sum(axis=-1), support.sum(axis=-1))


METRICS.register(
    "weighted_f1",
    Metric(
        name="weighted_f1",
        kind="confusion",
        greater_is_better=True,
        function=weighted_f1,
        undefined_reason="there are no cases",
    ),
)
METRICS.register(
    "score_mae",
    Metric(
        name="score_mae",
        kind="probability",
        greater_is_better=False,
        function=mae,
        undefined_reason=NO_SCORE,
        terms=moment_terms,
        bounds=(0.0, float("inf")),
        of="score",
    ),
)
METRICS.register(
    "score_rmse",
    Metric(
        name="score_rmse",
        kind="probability",
        greater_is_better=False,
        function=rmse,
        undefined_reason=NO_SCORE,
        terms=moment_terms,
        bounds=(0.0, float("inf")),
        of="score",
    ),
)
METRICS.register(
    "score_pearson",
    Metric(
        name="score_pearson",
        kind="probability",
        greater_is_better=True,
        function=pearson,
        undefined_reason="true or predicted mean grades are constant, or no case has a gradable zone",
        terms=moment_terms,
        bounds=(-1.0, 1.0),
        of="score",
    ),
)
METRICS.register(
    "risk_accuracy",
    Metric(
        name="risk_accuracy",
        kind="confusion",
        greater_is_better=True,
        function=accuracy,
        undefined_reason=NO_SCORE,
        of="risk",
        share=all_cases,
    ),
)
METRICS.register(
    "risk_qwk",
    Metric(
        name="risk_qwk",
        kind="confusion",
        greater_is_better=True,
        function=qwk,
        undefined_reason="truth and prediction are one and the same risk class throughout",
        bounds=(-1.0, 1.0),
        of="risk",
    ),
)

"""Metrics of labels that may go together: per label (macro), over all cells (micro), and per case.

A label is a table of two classes, absent and present; the functions here look at "present".
"""

from __future__ import annotations

import numpy as np

from archbench.artifacts import Predictions
from archbench.metrics.accuracy import accuracy
from archbench.metrics.f1 import class_f1, class_precision, class_recall, f1_from_overlap
from archbench.metrics.metric import Array, Metric, all_cases, ratio
from archbench.metrics.probability_score import mean_term
from archbench.metrics.views import decided
from archbench.registry import METRICS

OVERPREDICTION_ALARM = 0.6


def present_f1(counts: Array) -> Array:
    """Return F1 of "present" (...) from counts (..., 2, 2); NaN if absent from truth and prediction."""
    return np.asarray(class_f1(counts)[..., 1])


def present_precision(counts: Array) -> Array:
    """Return precision of "present" from counts (..., 2, 2); NaN if never predicted."""
    return np.asarray(class_precision(counts)[..., 1])


def present_recall(counts: Array) -> Array:
    """Return recall (sensitivity) of "present" from counts (..., 2, 2); NaN without positives."""
    return np.asarray(class_recall(counts)[..., 1])


def present_specificity(counts: Array) -> Array:
    """Return the share of negatives called negative from counts (..., 2, 2); NaN without negatives."""
    return np.asarray(class_recall(counts)[..., 0])


def called_present(counts: Array) -> Array:
    """Return the share of cells that are called present, from counts (..., 2, 2)."""
    return ratio(counts[..., 1].sum(axis=-1), counts.sum(axis=(-2, -1)))


def called(y_true: Array, y_pred: Array) -> Array:
    """Return which cells are called present: a precision is a share of them."""
    return np.asarray(y_pred == 1)


def positive(y_true: Array, y_pred: Array) -> Array:
    """Return which cells are present: a recall is a share of them."""
    return np.asarray(y_true == 1)


def negative(y_true: Array, y_pred: Array) -> Array:
    """Return which cells are absent: a specificity is a share of them."""
    return np.asarray(y_true == 0)


def called_or_positive(y_true: Array, y_pred: Array) -> Array:
    """Return which cells are called present or are: the overlap behind an F1 is a share of them."""
    return np.asarray((y_pred == 1) | (y_true == 1))


def exact_match_terms(predictions: Predictions) -> Array:
    """Return ones and whether every known label of a case is right, shape (2, N)."""
    said, truth = decided(predictions)
    right = (said == truth) | np.isnan(truth)
    some = (~np.isnan(truth)).any(axis=1)
    return np.stack([some.astype(np.float64), (right.all(axis=1) & some).astype(np.float64)])


def labels_per_case_terms(predictions: Predictions) -> Array:
    """Return ones and the number of labels that a case is called to have, shape (2, N)."""
    said, _truth = decided(predictions)
    return np.stack([np.ones(len(said)), said.sum(axis=1)])


METRICS.register(
    "f1_macro",
    Metric(
        name="f1_macro",
        kind="confusion",
        greater_is_better=True,
        function=present_f1,
        undefined_reason="no counted label occurs in truth or prediction",
        share=called_or_positive,
        from_share=f1_from_overlap,
    ),
)
METRICS.register(
    "f1_micro",
    Metric(
        name="f1_micro",
        kind="confusion",
        greater_is_better=True,
        function=present_f1,
        undefined_reason="no label occurs in truth or prediction",
        of="pooled",
        share=called_or_positive,
        from_share=f1_from_overlap,
    ),
)
METRICS.register(
    "precision_macro",
    Metric(
        name="precision_macro",
        kind="confusion",
        greater_is_better=True,
        function=present_precision,
        undefined_reason="no counted label is ever predicted",
        share=called,
    ),
)
METRICS.register(
    "precision_micro",
    Metric(
        name="precision_micro",
        kind="confusion",
        greater_is_better=True,
        function=present_precision,
        undefined_reason="no label is ever predicted",
        of="pooled",
        share=called,
    ),
)
METRICS.register(
    "recall_macro",
    Metric(
        name="recall_macro",
        kind="confusion",
        greater_is_better=True,
        function=present_recall,
        undefined_reason="no counted label has a positive case",
        share=positive,
    ),
)
METRICS.register(
    "recall_micro",
    Metric(
        name="recall_micro",
        kind="confusion",
        greater_is_better=True,
        function=present_recall,
        undefined_reason="no label has a positive case",
        of="pooled",
        share=positive,
    ),
)
METRICS.register(
    "specificity_macro",
    Metric(
        name="specificity_macro",
        kind="confusion",
        greater_is_better=True,
        function=present_specificity,
        undefined_reason="no counted label has a negative case",
        share=negative,
    ),
)
METRICS.register(
    "hamming_accuracy",
    Metric(
        name="hamming_accuracy",
        kind="confusion",
        greater_is_better=True,
        function=accuracy,
        undefined_reason="no label of any case is known",
        of="pooled",
        share=all_cases,
    ),
)
METRICS.register(
    "positive_rate",
    Metric(
        name="positive_rate",
        kind="confusion",
        greater_is_better=False,
        function=called_present,
        undefined_reason="no label of any case is known",
        of="pooled",
        share=all_cases,
    ),
)
METRICS.register(
    "exact_match",
    Metric(
        name="exact_match",
        kind="probability",
        greater_is_better=True,
        function=mean_term,
        undefined_reason="no label of any case is known",
        terms=exact_match_terms,
        of="cases",
        share=all_cases,
    ),
)
METRICS.register(
    "labels_per_case",
    Metric(
        name="labels_per_case",
        kind="probability",
        greater_is_better=False,
        function=mean_term,
        undefined_reason="there are no cases",
        terms=labels_per_case_terms,
        bounds=(0.0, float("inf")),
        of="cases",
    ),
)

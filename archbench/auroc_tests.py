"""Clustered DeLong for whole prediction tables: the cross-check of the bootstrap, and its stand-in for few patients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.delong import ClusteredAuroc, auroc_interval, macro_auroc, paired_p_value
from archbench.metrics.metric import Array, Metric
from archbench.resampling import auroc
from archbench.statistics import FEW_PATIENTS

NEAR_ONE = 0.95  # bootstrap percentiles covered 85 % at 20 patients and 90 % at 60 there, the logit interval 92 to 93 %


def why_delong(value: float, n_patients: int) -> str | None:
    """Say why an AUROC takes the logit-DeLong interval instead of bootstrap percentiles, or None where it need not."""
    if n_patients < FEW_PATIENTS:
        return f"{n_patients} patients, below {FEW_PATIENTS}: logit-DeLong interval with patients as clusters"
    if value > NEAR_ONE:
        return f"AUROC above {NEAR_ONE}: logit-DeLong interval with patients as clusters"
    return None


def has_delong(metric: Metric, predictions: Predictions) -> bool:
    """Return whether a metric is a mean of AUROCs of a task with one label."""
    return metric.kind == "rank" and metric.function is auroc and len(predictions.labels) == 1


def delong_interval(
    predictions: Predictions, metric: Metric, questions: Array, confidence: float
) -> tuple[float, float, float]:
    """Return value and logit-DeLong interval of a macro AUROC, averaged over folds and seeds; NaN if undefined.

    Args:
        predictions: Scored rows.
        metric: An AUROC, see `has_delong`.
        questions: Frozen questions, shape (Q,).
        confidence: Level.
    """
    found = _seed_mean(_covariance([predictions], metric, questions))
    return (float(found.values[0]), *auroc_interval(found, 0, confidence))


def delong_p_value(a: Predictions, b: Predictions, metric: Metric, questions: Array) -> float:
    """Return the two-sided p of "both tables have the same macro AUROC"; NaN if undefined.

    Args:
        a: Scored rows of a model.
        b: The same cases, folds and seeds of another one.
        metric: An AUROC, see `has_delong`.
        questions: Frozen questions, shape (Q,).
    """
    return paired_p_value(_seed_mean(_covariance([a, b], metric, questions), tables=2), 0, 1)


def _covariance(tables: list[Predictions], metric: Metric, questions: Array) -> ClusteredAuroc:
    """Macro AUROC of every table and seed, (T * S,), tables outermost."""
    if not questions.any():
        size = len(tables) * len(np.unique(tables[0].seed))
        return ClusteredAuroc(np.full(size, np.nan), np.full((size, size), np.nan), 0, 0)
    return macro_auroc(_questions([table.sorted() for table in tables], metric, questions))


def _questions(tables: list[Predictions], metric: Metric, questions: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Scores (T * S, N), positives and patients of every fold and frozen question that has both classes."""
    assert metric.terms is not None
    seeds = np.unique(tables[0].seed)
    for fold in np.unique(tables[0].fold):
        parts = [table.select((table.fold == fold) & (table.seed == seed)) for table in tables for seed in seeds]
        terms = [metric.terms(softmax(part.logits), part.y_true) for part in parts]
        for question in np.flatnonzero(questions):
            positive = np.asarray(terms[0][1][question], dtype=bool)
            if 0 < positive.sum() < len(positive):
                yield np.stack([scores[question] for scores, _ in terms]), positive, parts[0].patient_id


def _seed_mean(found: ClusteredAuroc, tables: int = 1) -> ClusteredAuroc:
    """Average the seeds of each table: values (T,), covariance (T, T)."""
    seeds = len(found.values) // tables
    average = np.kron(np.eye(tables), np.full((1, seeds), 1.0 / seeds))
    return ClusteredAuroc(
        average @ found.values,
        average @ found.covariance @ average.T,
        found.positive_patients,
        found.negative_patients,
    )

"""Clustered DeLong for whole prediction tables: the cross-check of the bootstrap, and its stand-in for few patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.delong import ClusteredAuroc, auroc_interval, macro_auroc, paired_p_value
from archbench.metrics.metric import Array, Metric
from archbench.metrics.scoring import code_names
from archbench.metrics.table_rows import distinct
from archbench.metrics.views import view_of
from archbench.resampling import auroc
from archbench.statistics import FEW_PATIENTS, Estimate, widening

NEAR_ONE = 0.95  # bootstrap percentiles covered 85 % at 20 patients and 90 % at 60 there, the logit interval 92 to 93 %


def why_delong(value: float, n_patients: int) -> str | None:
    """Say why an AUROC takes the logit-DeLong interval instead of bootstrap percentiles, or None where it need not."""
    if n_patients < FEW_PATIENTS:
        return f"{n_patients} patients, below {FEW_PATIENTS}: logit-DeLong interval with patients as clusters"
    if value > NEAR_ONE:
        return f"AUROC above {NEAR_ONE}: logit-DeLong interval with patients as clusters"
    return None


def has_delong(metric: Metric, predictions: Predictions) -> bool:
    """Return whether a metric is a mean of AUROCs over the classes of one softmax or over labels."""
    return metric.function is auroc and metric.of == "each" and predictions.outputs in ("classes", "labels")


def delong_interval(
    predictions: Predictions, metric: Metric, questions: Array, confidence: float
) -> tuple[float, float, float]:
    """Return value and logit-DeLong interval of a macro AUROC, averaged over folds and seeds; NaN if undefined.

    Args:
        predictions: Scored rows.
        metric: An AUROC, see `has_delong`.
        questions: Frozen questions, shape (Q,), of labels (L, 2).
        confidence: Level.
    """
    found = _seed_mean(_covariance([predictions], metric, questions))
    return (float(found.values[0]), *auroc_interval(found, 0, confidence))


def with_delong(
    found: Estimate, predictions: Predictions, metric: Metric, questions: Array, *, confidence: float
) -> Estimate:
    """Return an AUROC's estimate with the logit-DeLong interval where the protocol asks for it, else as it is.

    The interval is widened for the variance between seeds as percentiles are. Where DeLong is undefined the
    percentiles stay, and the reason says so.

    Args:
        found: By the bootstrap.
        predictions: Scored rows.
        metric: What was estimated.
        questions: As in `delong_interval`.
        confidence: Level.
    """
    if np.isnan(found.value) or not has_delong(metric, predictions):
        return found
    why = why_delong(found.value, distinct(predictions.patient_code))
    if why is None:
        return found
    mean = _seed_mean(_covariance([predictions], metric, questions))
    low, high = auroc_interval(mean, 0, confidence)
    if np.isnan(low):
        lacking = f"{why} undefined, since a fold has fewer than two patients on a side"
        return replace(found, reason=f"{lacking}; percentiles instead" if found.reason is None else found.reason)
    error = float(np.sqrt(max(mean.covariance[0, 0], 0.0)))
    factor = widening(se_patients=error, se_seeds=found.se_seeds)
    low, high = (float(np.clip(found.value + factor * (end - found.value), 0.0, 1.0)) for end in (low, high))
    return replace(found, low=low, high=high, se_patients=error, reason=why, method="logit_delong")


def delong_p_value(a: Predictions, b: Predictions, metric: Metric, questions: Array) -> float:
    """Return the two-sided p of "both tables have the same macro AUROC"; NaN if undefined.

    Args:
        a: Scored rows of a model.
        b: The same cases, folds and seeds of another one.
        metric: An AUROC, see `has_delong`.
        questions: As in `delong_interval`.
    """
    return delong_p_values({"a": a, "b": b}, metric, questions)["a", "b"]


def delong_p_values(
    tables: Mapping[str, Predictions], metric: Metric, questions: Array
) -> dict[tuple[str, str], float]:
    """Return `delong_p_value` of every pair, in both orders, from one covariance of all tables."""
    found = _seed_mean(_covariance(list(tables.values()), metric, questions), tables=len(tables))
    result = {}
    for (i, a), (j, b) in combinations(enumerate(tables), 2):
        result[a, b] = result[b, a] = paired_p_value(found, i, j)
    return result


def _covariance(tables: list[Predictions], metric: Metric, questions: Array) -> ClusteredAuroc:
    """Macro AUROC of every table and seed, (T * S,), tables outermost."""
    size = len(tables) * len(np.unique(tables[0].seed))
    tables = [table.sorted() for table in tables]
    code_names(tables[0])  # its parts keep the numbers
    asked = list(_questions(tables, metric, questions))
    if not asked:
        return ClusteredAuroc(np.full(size, np.nan), np.full((size, size), np.nan), 0, 0)
    # a question counts as the mean of the folds in which it is defined
    folds = Counter(one.name for one in asked)
    shares = [1.0 / (len(folds) * folds[one.name]) for one in asked]
    return macro_auroc([(one.scores, one.positive, one.patients) for one in asked], shares)


@dataclass(frozen=True)
class _Asked:
    """A question in a fold: scores (T * S, N), positives (N,) and codes of patients (N,)."""

    name: tuple[int, int]
    scores: Array
    positive: Array
    patients: Array


def _questions(tables: list[Predictions], metric: Metric, questions: Array) -> Iterator[_Asked]:
    """Every frozen question in every fold that has both classes."""
    of_labels = np.atleast_2d(questions)
    for label, asked in enumerate(of_labels):
        if asked.any():
            views = [view_of(table, label) for table in tables]
            for one in _class_questions(views, metric, asked):
                yield replace(one, name=(label, one.name[1]))


def _class_questions(tables: list[Predictions], metric: Metric, questions: Array) -> Iterator[_Asked]:
    assert metric.terms is not None
    first, seeds = tables[0], np.unique(tables[0].seed)
    terms = [metric.terms(softmax(table.logits), table.y_true) for table in tables]
    for fold in np.unique(first.fold):
        pieces = [np.flatnonzero((first.fold == fold) & (first.seed == seed)) for seed in seeds]
        for question in np.flatnonzero(questions):
            positive = np.asarray(terms[0][1][question][pieces[0]], dtype=bool)
            if 0 < positive.sum() < len(positive):
                scores = np.stack([scores[question][piece] for scores, _ in terms for piece in pieces])
                yield _Asked((0, int(question)), scores, positive, first.patient_code[pieces[0]])


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

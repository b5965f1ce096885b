"""A metric of one prediction table, as a point and for all resamples of the patients at once.

Confusion and probability metrics pool the folds within a seed, since each case has exactly one
prediction per seed. Rank metrics are computed per fold and seed and then averaged: scores of models
from different folds are not comparable. Seeds are averaged last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.metrics.metric import Array, Metric, mean_defined
from archbench.metrics.views import is_grouped, pooled_view, risk_view, score_view, views

MIN_PATIENTS_PER_SIDE = 10


@dataclass(frozen=True)
class Scores:
    """Values of one quantity.

    Attributes:
        points: One value per seed, shape (S,).
        draws: One value per seed and resample, shape (S, B).
    """

    points: Array
    draws: Array

    @property
    def point(self) -> float:
        """Mean over the seeds; NaN if any seed has none."""
        return float(self.points.mean())

    @property
    def mean_draws(self) -> Array:
        """Mean over the seeds of each resample, shape (B,)."""
        return self.draws.mean(axis=0)


def check_single_predictions(predictions: Predictions) -> None:
    """Refuse a table in which a case has more than one prediction of a seed, or a patient more than one fold.

    Raises:
        ValueError: With the first offenders by name.
    """
    cases, index = np.unique(predictions.case_id, return_inverse=True)
    _, of_seed = np.unique(predictions.seed, return_inverse=True)
    counts = np.bincount(of_seed * len(cases) + index)
    if (counts > 1).any():
        names = cases[np.flatnonzero(counts > 1) % len(cases)][:3].tolist()
        raise ValueError(f"cases with more than one prediction per seed: {names}; each case may be scored once")
    torn = split_units(predictions.patient_id, predictions.fold)
    if torn:
        raise ValueError(f"patients scored in more than one fold: {torn[:3]}")


def split_units(units: Array, groups: Array) -> list[str]:
    """Return the units (patients) whose rows lie in more than one group, sorted.

    Args:
        units: Name of each row's unit, shape (N,).
        groups: Group of each row, shape (N,).
    """
    names, first, index = np.unique(units, return_index=True, return_inverse=True)
    elsewhere = groups != groups[first][index]
    return [str(name) for name in names[np.unique(index[elsewhere])]]


def scored_rows(predictions: Predictions) -> Predictions:
    """Return the rows that are reported: test rows, or validation rows where the protocol has no test part.

    Rows with an unknown target are left out.

    Raises:
        ValueError: If nothing is left, or a case has several predictions of a seed.
    """
    rows = predictions.test if (predictions.split == "test").any() else predictions.val
    rows = rows.known()
    if len(rows) == 0:
        raise ValueError("there are no test or validation rows with known targets to score")
    check_single_predictions(rows)
    return rows


def arguments(predictions: Predictions) -> tuple[Array, Array]:
    """Return what the terms of a metric take: probabilities and class indices, or values and true values."""
    if predictions.outputs == "value":
        return predictions.logits.astype(np.float64), predictions.targets[:, 0]
    return softmax(predictions.logits), predictions.y_true


def frozen_questions(predictions: Predictions, metric: Metric) -> Array:
    """Return which binary questions of a rank metric count, shape (Q,), from the targets alone.

    A class counts with at least 10 patients that have it and 10 that have a case without it; the others are
    shown descriptively. Of a table with several labels or zones: shape (L, Q); of a label only "present" counts.
    """
    if is_grouped(predictions):
        return frozen_classes(predictions)
    assert metric.terms is not None
    probabilities = np.full(predictions.logits.shape, 1.0 / predictions.logits.shape[1])
    _, positive = metric.terms(probabilities, predictions.y_true)
    sides = [
        (len(np.unique(predictions.patient_id[mask])), len(np.unique(predictions.patient_id[~mask])))
        for mask in positive
    ]
    return np.array([min(side) >= MIN_PATIENTS_PER_SIDE for side in sides])


def parts(predictions: Predictions) -> Iterator[tuple[int, int, Predictions]]:
    """Yield (seed, fold, rows) in ascending order."""
    for seed in np.unique(predictions.seed):
        for fold in np.unique(predictions.fold):
            yield (
                int(seed),
                int(fold),
                predictions.select((predictions.seed == seed) & (predictions.fold == fold)),
            )


def patient_rows(predictions: Predictions, patients: Array) -> Array:
    """Return the index of each row's patient in the sorted `patients`, shape (N,).

    Raises:
        ValueError: If a patient has no weight.
    """
    rows = np.searchsorted(patients, predictions.patient_id)
    rows = np.minimum(rows, len(patients) - 1)
    missing = patients[rows] != predictions.patient_id
    if missing.any():
        raise ValueError(f"patients without weights: {np.unique(predictions.patient_id[missing])[:3].tolist()}")
    return rows


def _with_point(weights: Array) -> Array:
    """Put the unweighted sample (all ones) before the draws: (B, P) -> (P, 1 + B)."""
    return np.concatenate([np.ones((1, weights.shape[1])), weights]).T


def summed_terms(terms: Array, rows: Array, weights: Array) -> Array:
    """Return weighted sums over cases, (T, N) and (P, 1 + B) -> (T, 1 + B): first by patient, then one product."""
    by_patient = np.stack([np.bincount(rows, weights=term, minlength=len(weights)) for term in terms])
    return by_patient @ weights


def confusion_draws(predictions: Predictions, patients: Array, weights: Array) -> Array:
    """Return the confusion matrix of each seed and resample, shape (S, 1 + B, K, K); index 0 is the sample itself.

    Args:
        patients: Sorted patient names, shape (P,).
        weights: Patient counts of each resample, shape (B, P).
    """
    n_classes, columns = predictions.logits.shape[1], _with_point(weights)
    matrices = []
    for seed in np.unique(predictions.seed):
        rows = predictions.select(predictions.seed == seed)
        cells = rows.y_true * n_classes + rows.decisions
        index = cells * len(patients) + patient_rows(rows, patients)
        counts = np.bincount(index, minlength=n_classes**2 * len(patients)).reshape(n_classes**2, -1)
        matrices.append((counts.astype(np.float64) @ columns).T.reshape(-1, n_classes, n_classes))
    return np.stack(matrices)


def rank_draws(
    predictions: Predictions, metric: Metric, patients: Array, weights: Array, only: Array | None = None
) -> Array:
    """Return a rank metric per seed, fold, question and resample, shape (S, F, Q, 1 + B); NaN where undefined.

    Args:
        only: Questions to compute, shape (Q,); the others stay NaN.
    """
    assert metric.terms is not None
    columns, values = _with_point(weights), []
    for _, _, rows in parts(predictions):
        of_part, index = np.unique(patient_rows(rows, patients), return_inverse=True)
        weights_of_part = columns[of_part]
        scores, positives = metric.terms(softmax(rows.logits), rows.y_true)
        asked = np.ones(len(scores), dtype=bool) if only is None else only
        unasked = np.full(columns.shape[1], np.nan)
        values.append(
            [
                metric.function(score, positive, weights_of_part, index) if wanted else unasked
                for score, positive, wanted in zip(scores, positives, asked, strict=True)
            ]
        )
    shape = (len(np.unique(predictions.seed)), len(np.unique(predictions.fold)), -1, columns.shape[1])
    return np.array(values).reshape(shape)


def question_scores(ranks: Array) -> list[Scores]:
    """Average the folds in which a question is defined: (S, F, Q, 1 + B) -> one Scores per question."""
    by_question = mean_defined(ranks, axis=1)
    return [Scores(points=values[:, 0], draws=values[:, 1:]) for values in by_question.transpose(1, 0, 2)]


def macro_scores(ranks: Array, questions: Array) -> Scores:
    """Average the frozen questions of `question_scores`; NaN without any, or where one is undefined in all folds."""
    by_question = mean_defined(ranks, axis=1)[:, questions]
    shape = (by_question.shape[0], by_question.shape[2])
    values = by_question.mean(axis=1) if questions.any() else np.full(shape, np.nan)
    return Scores(points=values[:, 0], draws=values[:, 1:])


def score(
    predictions: Predictions, metric: Metric, patients: Array, weights: Array, questions: Array | None = None
) -> Scores:
    """Return a metric per seed, as points and for every resample.

    Args:
        predictions: Known targets, one row per case and seed.
        patients: Sorted patient names, shape (P,).
        weights: Patient counts of each resample, shape (B, P).
        questions: Frozen questions of a rank metric, as `frozen_questions` gives them; None finds them here.
    """
    if metric.of in ("score", "risk"):
        table = score_view(predictions) if metric.of == "score" else risk_view(predictions)
        return _score_table(table, metric, patients, weights, predictions.seed)
    if is_grouped(predictions) and metric.of != "cases":
        return _score_groups(predictions, metric, patients, weights, questions)
    if metric.kind == "rank":
        frozen = frozen_questions(predictions, metric) if questions is None else questions
        only = frozen if questions is not None else None
        return macro_scores(rank_draws(predictions, metric, patients, weights, only), frozen)
    if metric.kind == "confusion":
        values = metric.function(confusion_draws(predictions, patients, weights))
        return Scores(points=values[:, 0], draws=values[:, 1:])
    assert metric.terms is not None
    columns, by_seed = _with_point(weights), []
    for seed in np.unique(predictions.seed):
        rows = predictions.select(predictions.seed == seed)
        terms = metric.terms(rows) if metric.of == "cases" else metric.terms(*arguments(rows))
        by_seed.append(metric.function(summed_terms(terms, patient_rows(rows, patients), columns)))
    values = np.stack(by_seed)
    return Scores(points=values[:, 0], draws=values[:, 1:])


def _score_table(
    table: Predictions, metric: Metric, patients: Array, weights: Array, seeds: Array, questions: Array | None = None
) -> Scores:
    """Score one label's table; NaN for every seed of `seeds` where it has no rows."""
    if len(table):
        return score(table, replace(metric, of="each"), patients, weights, questions)
    n_seeds = len(np.unique(seeds))
    return Scores(points=np.full(n_seeds, np.nan), draws=np.full((n_seeds, len(weights)), np.nan))


def _score_groups(
    predictions: Predictions, metric: Metric, patients: Array, weights: Array, questions: Array | None
) -> Scores:
    """Micro: one table of all cells. Macro: the mean over labels or zones, of a rank metric over the frozen ones."""
    if metric.of == "pooled":
        asked = np.array([False, True]) if metric.kind == "rank" and predictions.outputs == "labels" else None
        return _score_table(pooled_view(predictions), metric, patients, weights, predictions.seed, asked)
    found = list(label_scores(predictions, metric, patients, weights, questions).values())
    if not found:
        n_seeds = len(np.unique(predictions.seed))
        return Scores(points=np.full(n_seeds, np.nan), draws=np.full((n_seeds, len(weights)), np.nan))
    points, draws = np.stack([s.points for s in found]), np.stack([s.draws for s in found])
    if metric.kind == "rank":  # a frozen label without a value in a resample leaves the macro without one
        return Scores(points=points.mean(axis=0), draws=draws.mean(axis=0))
    return Scores(points=mean_defined(points, axis=0), draws=mean_defined(draws, axis=0))


def label_scores(
    predictions: Predictions, metric: Metric, patients: Array, weights: Array, questions: Array | None = None
) -> dict[str, Scores]:
    """Return the scores of the labels or zones that a macro average counts, by name.

    Of labels these are the frozen ones, for every metric; of zones those with a graded case, and for a rank metric
    with a class that has enough patients.

    Args:
        questions: Shape (L, K); None finds them in `predictions`.
    """
    questions = frozen_classes(predictions) if questions is None else questions
    found = {}
    for name, table, frozen in zip(predictions.labels, views(predictions), questions, strict=True):
        needs_both_sides = metric.kind == "rank" or predictions.outputs == "labels"
        if frozen.any() if needs_both_sides else len(table) > 0:
            asked = frozen if metric.kind == "rank" else None
            found[name] = _score_table(table, metric, patients, weights, predictions.seed, asked)
    return found


def frozen_classes(predictions: Predictions) -> Array:
    """Return which classes of which label or zone have 10 patients on each side, shape (L, K), from targets alone.

    Of a label's two classes only "present" counts: the other one asks the same question.
    """
    counted = []
    for table in views(predictions):
        positives = table.targets[:, 0] == np.arange(len(table.classes))[:, None]
        sides = [[len(np.unique(table.patient_id[mask])) for mask in (one, ~one)] for one in positives]
        counted.append([min(pair) >= MIN_PATIENTS_PER_SIDE for pair in sides])
    found = np.array(counted)
    if predictions.outputs == "labels":
        found[:, 0] = False
    return found


def validation_value(
    metric: Metric,
    logits: Array,
    targets: Array,
    *,
    metadata: Mapping[str, Any],
) -> float:
    """Return a metric of one validation part, NaN where undefined; labels are averaged where they are defined.

    Args:
        logits: Shape (N, K).
        targets: Shape (N, L), NaN where unknown.
        metadata: What a prediction table of this task carries: decision, outputs, class_names.
    """
    n = len(logits)
    ids = np.arange(n).astype(str)
    table = Predictions(
        case_id=ids,
        patient_id=ids,
        split=np.full(n, "val"),
        fold=np.zeros(n, dtype=np.int64),
        seed=np.zeros(n, dtype=np.int64),
        logits=np.asarray(logits, dtype=np.float32),
        targets=np.asarray(targets, dtype=np.float64),
        classes=tuple(str(k) for k in range(logits.shape[1])),
        labels=tuple(str(k) for k in range(targets.shape[1])),
        metadata=dict(metadata),
    ).known()
    if len(table) == 0:
        return float("nan")
    nobody = np.zeros((0, len(table)))
    patients = np.unique(table.patient_id)
    if metric.kind == "rank":
        tables = [pooled_view(table)] if metric.of == "pooled" else views(table)
        chosen = slice(1, None) if table.outputs == "labels" else slice(None)
        values = [
            mean_defined(rank_draws(view, metric, patients, nobody)[0, 0, chosen, 0]) for view in tables if len(view)
        ]
        return float(mean_defined(np.array(values))) if values else float("nan")
    if is_grouped(table) and metric.of == "each":
        found = [_score_table(view, metric, patients, nobody, table.seed).point for view in views(table)]
        return float(mean_defined(np.array(found)))
    return score(table, metric, patients, nobody).point

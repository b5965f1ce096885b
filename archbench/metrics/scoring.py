"""A metric of one prediction table, as a point and for all resamples of the patients at once.

Confusion and probability metrics pool the folds within a seed, since each case has exactly one
prediction per seed. Rank metrics are computed per fold and seed and then averaged: scores of models
from different folds are not comparable. Seeds are averaged last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.metrics.drawn import MEASURES, Drawn
from archbench.metrics.metric import Array, Metric, mean_defined
from archbench.metrics.table_rows import distinct, known_sides
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


def code_names(predictions: Predictions) -> None:
    """Number cases and patients of a whole table, so that its parts, which keep the numbers, compare no names."""
    assert len(predictions.case_code) == len(predictions.patient_code)


def check_single_predictions(predictions: Predictions) -> None:
    """Refuse a table in which a case has more than one prediction of a seed, or a patient more than one fold.

    Raises:
        ValueError: With the first offenders by name.
    """
    if not len(predictions):
        return
    of_seed = np.unique(predictions.seed, return_inverse=True)[1]
    place = of_seed * (predictions.case_code.max() + 1) + predictions.case_code
    again = np.bincount(place)[place] > 1
    if again.any():
        names = np.unique(predictions.case_id[again])[:3].tolist()
        raise ValueError(f"cases with more than one prediction per seed: {names}; each case may be scored once")
    torn = split_units(predictions.patient_id, predictions.fold, predictions.patient_code)
    if torn:
        raise ValueError(f"patients scored in more than one fold: {torn[:3]}")


def split_units(units: Array, groups: Array, codes: Array) -> list[str]:
    """Return the units (patients) whose rows lie in more than one group, sorted.

    Args:
        units: Name of each row's unit, shape (N,).
        groups: Group of each row, shape (N,).
        codes: A small number for each unit, shape (N,).
    """
    group_of = np.empty(codes.max(initial=-1) + 1, dtype=groups.dtype)
    group_of[codes] = groups
    return [str(name) for name in np.unique(units[groups != group_of[codes]])]


def scored_rows(predictions: Predictions) -> Predictions:
    """Return the rows that are reported: test rows, or validation rows where the protocol has no test part.

    Rows with an unknown target are left out.

    Raises:
        ValueError: If nothing is left, or a case has several predictions of a seed.
    """
    code_names(predictions)
    rows = predictions.test if (predictions.split == "test").any() else predictions.val
    rows = rows.known()
    if len(rows) == 0:
        raise ValueError("there are no test or validation rows with known targets to score")
    check_single_predictions(rows)
    return rows


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
    sides = [(distinct(predictions.patient_code[mask]), distinct(predictions.patient_code[~mask])) for mask in positive]
    return np.array([min(side) >= MIN_PATIENTS_PER_SIDE for side in sides])


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
    """Return a metric per seed, as points and for every resample; `score_drawn` for several metrics of a table.

    Args:
        predictions: Known targets, one row per case and seed.
        patients: Sorted patient names, shape (P,).
        weights: Patient counts of each resample, shape (B, P).
        questions: Frozen questions of a rank metric, as `frozen_questions` gives them; None finds them here.
    """
    drawn = Drawn(predictions, patients, weights)
    found = score_drawn(drawn, metric, questions)
    drawn.release()
    return found


def score_drawn(drawn: Drawn, metric: Metric, questions: Array | None = None) -> Scores:
    """Return a metric per seed of a table whose resamples are shared by several metrics.

    Args:
        questions: As in `score`.
    """
    predictions = drawn.predictions
    if metric.of in ("score", "risk"):
        table = score_view(predictions) if metric.of == "score" else risk_view(predictions)
        return _score_table(drawn.table(table), metric, drawn.n_seeds)
    if is_grouped(predictions) and metric.of != "cases":
        return _score_groups(drawn, metric, questions)
    if metric.kind == "rank":
        frozen = frozen_questions(predictions, metric) if questions is None else questions
        return macro_scores(drawn.ranks(metric, frozen if questions is not None else None), frozen)
    if metric.kind == "confusion":
        values = metric.function(drawn.confusion)
    else:
        values = np.stack([metric.function(sums) for sums in drawn.sums(metric)])
    return Scores(points=values[:, 0], draws=values[:, 1:])


def _undefined(n_seeds: int, n_draws: int) -> Scores:
    return Scores(points=np.full(n_seeds, np.nan), draws=np.full((n_seeds, n_draws), np.nan))


def _score_table(drawn: Drawn, metric: Metric, n_seeds: int, questions: Array | None = None) -> Scores:
    """Score one label's table; NaN for every seed where it has no rows."""
    if len(drawn.predictions):
        return score_drawn(drawn, replace(metric, of="each"), questions)
    return _undefined(n_seeds, len(drawn.weights))


def _score_groups(drawn: Drawn, metric: Metric, questions: Array | None) -> Scores:
    """Micro: one table of all cells. Macro: the mean over labels or zones, of a rank metric over the frozen ones."""
    if metric.of == "pooled":
        return _score_pooled(drawn, metric)
    return label_mean(drawn, metric, list(label_scores(drawn, metric, questions).values()))


def label_mean(drawn: Drawn, metric: Metric, found: Sequence[Scores]) -> Scores:
    """Return the mean over labels or zones of what `label_scores` gave, NaN without any."""
    if not found:
        return _undefined(drawn.n_seeds, len(drawn.weights))
    points, draws = np.stack([s.points for s in found]), np.stack([s.draws for s in found])
    if metric.kind == "rank":  # a frozen label without a value in a resample leaves the macro without one
        return Scores(points=points.mean(axis=0), draws=draws.mean(axis=0))
    return Scores(points=mean_defined(points, axis=0), draws=mean_defined(draws, axis=0))


def _score_pooled(drawn: Drawn, metric: Metric) -> Scores:
    if drawn.predictions.outputs == "labels" and metric.function in MEASURES:
        return question_scores(drawn.pooled_ranks(metric.function))[0]
    if drawn.predictions.outputs == "labels" and metric.kind == "confusion":
        values = metric.function(drawn.label_confusion.sum(axis=0))
        return Scores(points=values[:, 0], draws=values[:, 1:])
    return _score_table(drawn.table(pooled_view(drawn.predictions)), metric, drawn.n_seeds)


def label_scores(drawn: Drawn, metric: Metric, questions: Array | None = None) -> dict[str, Scores]:
    """Return the scores of the labels or zones that a macro average counts, by name.

    Of labels these are the frozen ones, for every metric; of zones those with a graded case, and for a rank metric
    with a class that has enough patients.

    Args:
        questions: Shape (L, K); None finds them in the table.
    """
    predictions = drawn.predictions
    questions = _frozen(drawn.sides, predictions.outputs) if questions is None else questions
    if predictions.outputs == "labels" and metric.function in MEASURES:
        of_labels = zip(predictions.labels, question_scores(drawn.label_ranks(metric.function)), questions, strict=True)
        return {name: scores for name, scores, frozen in of_labels if frozen.any()}
    found = {}
    for name, group, frozen in zip(predictions.labels, drawn.groups, questions, strict=True):
        needs_both_sides = metric.kind == "rank" or predictions.outputs == "labels"
        if frozen.any() if needs_both_sides else len(group.predictions) > 0:
            asked = frozen if metric.kind == "rank" else None
            found[name] = _score_table(group, metric, drawn.n_seeds, asked)
    return found


def frozen_classes(predictions: Predictions) -> Array:
    """Return which classes of which label or zone have 10 patients on each side, shape (L, K), from targets alone.

    Of a label's two classes only "present" counts: the other one asks the same question.
    """
    return _frozen(known_sides(predictions), predictions.outputs)


def _frozen(sides: list[list[tuple[int, int]]], outputs: str) -> Array:
    found = np.array([[min(pair) >= MIN_PATIENTS_PER_SIDE for pair in group] for group in sides])
    if outputs == "labels":
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
            mean_defined(Drawn(view, patients, nobody).ranks(metric)[0, 0, chosen, 0]) for view in tables if len(view)
        ]
        return float(mean_defined(np.array(values))) if values else float("nan")
    if is_grouped(table) and metric.of == "each":
        found = [_score_table(Drawn(view, patients, nobody), metric, 1).point for view in views(table)]
        return float(mean_defined(np.array(found)))
    return score(table, metric, patients, nobody).point

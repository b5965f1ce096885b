"""Precision-recall curves from prediction tables, fold by fold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import ArtifactError, Predictions, read_predictions, softmax
from archbench.metrics.views import is_grouped, views

RECALL_GRID = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Question:
    """One class, label or grade against the rest: truth and score of each row of a table, shape (N,) each."""

    positive: np.ndarray
    score: np.ndarray
    table: Predictions


def read_precision_recall(path: Path) -> dict[str, dict[str, Any]]:
    """Return class -> {"recall", "precision", "prevalence"}; {} if the table can't serve.

    Scores of different folds are never pooled: the curve of each fold and seed is computed
    alone, and their precisions are averaged at equal recall.
    """
    found = {}
    for name, questions in _read_questions(path).items():
        curves = [
            precision_at_recall(question.positive[rows], question.score[rows], RECALL_GRID)
            for question in questions
            for rows in groups(question.table)
            if question.positive[rows].any()
        ]
        if curves:
            asked = [float(question.positive.mean()) for question in questions if question.positive.any()]
            found[name] = {
                "recall": RECALL_GRID.tolist(),
                "precision": np.mean(curves, axis=0).tolist(),
                "prevalence": float(np.mean(asked)),
            }
    return found


def _read_questions(path: Path) -> dict[str, list[Question]]:
    try:
        return questions_of(read_predictions(path).test.known())
    except (ArtifactError, ValueError):
        return {}


def questions_of(test: Predictions) -> dict[str, list[Question]]:
    """Return the questions of each class or label; of a zone one per grade. {} where nothing is to be ranked."""
    if is_grouped(test):
        first = 1 if test.outputs == "labels" else 0
        tables = zip(test.labels, views(test), strict=True)
        return {name: _against_rest(table, range(first, len(table.classes))) for name, table in tables}
    if test.outputs != "classes":
        return {}
    return {name: _against_rest(test, [k]) for k, name in enumerate(test.classes)}


def _against_rest(table: Predictions, classes: Iterable[int]) -> list[Question]:
    scores = softmax(table.logits)
    return [Question(table.y_true == k, scores[:, k], table) for k in classes]


def precision_at_recall(positive: np.ndarray, score: np.ndarray, recall_grid: np.ndarray) -> np.ndarray:
    """Best precision that reaches at least each recall.

    Args:
        positive: Truth, shape (N,), at least one true.
        score: Shape (N,); equal scores are one threshold.
        recall_grid: Shape (G,), rising from 0 to 1.
    Returns:
        Precision, shape (G,).
    """
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    hits, called = hits[last_of_tie], (np.flatnonzero(last_of_tie) + 1)
    recall, precision = hits / hits[-1], hits / called
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return envelope[np.searchsorted(recall, recall_grid - 1e-12, side="left")]


def groups(test: Predictions) -> list[np.ndarray]:
    """Rows of each fold and seed, boolean (N,) each."""
    folds, seeds = np.unique(test.fold), np.unique(test.seed)
    masks = ((test.fold == fold) & (test.seed == seed) for fold in folds for seed in seeds)
    return [mask for mask in masks if mask.any()]

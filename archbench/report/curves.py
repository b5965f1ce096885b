"""Precision-recall curves from prediction tables, fold by fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import ArtifactError, Predictions, read_predictions, softmax
from archbench.metrics.views import is_grouped, views

RECALL_GRID = np.linspace(0.0, 1.0, 101)


def read_precision_recall(path: Path) -> dict[str, dict[str, Any]]:
    """Return class -> {"recall", "precision", "prevalence"}; {} if the table can't serve.

    Scores of different folds are never pooled: the curve of each fold and seed is computed
    alone, and their precisions are averaged at equal recall.
    """
    try:
        test = read_predictions(path).test.known()
        if is_grouped(test):
            return _of_labels(test)
        y_true = test.y_true if test.outputs == "classes" else None
        if y_true is None:
            return {}
    except (ArtifactError, ValueError):
        return {}
    scores = softmax(test.logits)
    found = {}
    for k, name in enumerate(test.classes):
        curves = [
            precision_at_recall(y_true[rows] == k, scores[rows, k], RECALL_GRID)
            for rows in _groups(test)
            if (y_true[rows] == k).any()
        ]
        if curves:
            found[name] = {
                "recall": RECALL_GRID.tolist(),
                "precision": np.mean(curves, axis=0).tolist(),
                "prevalence": float(np.mean(y_true == k)),
            }
    return found


def _of_labels(test: Predictions) -> dict[str, dict[str, Any]]:
    """One curve per label; of a zone the mean over its grades, each against the rest."""
    found = {}
    for name, table in zip(test.labels, views(test), strict=True):
        scores, curves, shares = softmax(table.logits), [], []
        first = 1 if test.outputs == "labels" else 0
        for k in range(first, len(table.classes)):
            positive = table.y_true == k
            rows_with = [rows for rows in _groups(table) if positive[rows].any()]
            curves += [precision_at_recall(positive[rows], scores[rows, k], RECALL_GRID) for rows in rows_with]
            shares += [float(positive.mean())] if rows_with else []
        if curves:
            found[name] = {
                "recall": RECALL_GRID.tolist(),
                "precision": np.mean(curves, axis=0).tolist(),
                "prevalence": float(np.mean(shares)),
            }
    return found


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


def _groups(test: Predictions) -> list[np.ndarray]:
    keys = sorted(set(zip(test.fold.tolist(), test.seed.tolist(), strict=True)))
    return [(test.fold == fold) & (test.seed == seed) for fold, seed in keys]

"""The rows of a prediction table: by seed and fold, by patient, and how many patients stand on each side."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.metrics.metric import Array
from archbench.metrics.views import scored_classes, scored_targets


def parts(predictions: Predictions) -> Iterator[tuple[int, int, Predictions]]:
    """Yield (seed, fold, rows) in ascending order."""
    for seed in np.unique(predictions.seed):
        for fold in np.unique(predictions.fold):
            inside = (predictions.seed == seed) & (predictions.fold == fold)
            yield int(seed), int(fold), predictions.select(inside)


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


def arguments(predictions: Predictions) -> tuple[Array, Array]:
    """Return what the terms of a metric take: probabilities and class indices, or values and true values."""
    if predictions.outputs == "value":
        return predictions.logits.astype(np.float64), predictions.targets[:, 0]
    return softmax(predictions.logits), predictions.y_true


def known_sides(predictions: Predictions) -> list[list[tuple[int, int]]]:
    """Return of each label or zone the number of patients with and without each of its scored classes."""
    owner = predictions.patient_code
    return [
        [
            (distinct(owner[targets == k]), distinct(owner[(targets != k) & ~np.isnan(targets)]))
            for k in range(len(scored_classes(predictions)))
        ]
        for targets in scored_targets(predictions).T
    ]


def distinct(codes: Array) -> int:
    """Return how many different numbers there are among small ones, none below 0."""
    return int((np.bincount(codes) > 0).sum()) if len(codes) else 0

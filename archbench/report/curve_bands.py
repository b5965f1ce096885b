"""Bands of ROC and precision-recall curves: pointwise intervals from resampled patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from archbench.artifacts import ArtifactError, read_predictions
from archbench.report.curves import RECALL_GRID, Question, groups, questions_of
from archbench.statistics import patient_weights

DRAWS = 200
SEED = 0
CHUNK_ELEMENTS = 4_000_000

Band = dict[str, list[float]]


def read_bands(path: Path, *, confidence: float) -> dict[str, dict[str, Band]]:
    """Return class -> {"roc", "precision_recall"} -> {"low", "high"} on 101 points from 0 to 1; {} without a table.

    Patients are redrawn within folds; the curves of a draw are averaged over folds and seeds as the drawn curve is.
    """
    try:
        test = read_predictions(path).test.known()
        if not len(test):
            return {}
        drawn = patient_weights(test.patient_id, strata=test.fold, resamples=DRAWS, seed=SEED)
    except (ArtifactError, ValueError):
        return {}
    found = {}
    for name, questions in questions_of(test).items():
        roc, precision = question_draws(questions, drawn.patients, drawn.weights)
        if not np.isnan(roc).all():
            found[name] = {"roc": _band(roc, confidence), "precision_recall": _band(precision, confidence)}
    return found


def _band(draws: np.ndarray, confidence: float) -> Band:
    tail = (1.0 - confidence) / 2.0
    low, high = np.nanquantile(draws[~np.isnan(draws).all(axis=1)], [tail, 1.0 - tail], axis=0)
    return {"low": low.tolist(), "high": high.tolist()}


def question_draws(
    questions: Sequence[Question], patients: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return true positive rate and precision of every draw on the grid, shape (B, 101) each, NaN where undefined.

    Args:
        questions: Their curves are averaged, over folds and seeds too.
        patients: Sorted names, shape (P,).
        weights: How often each draw holds each patient, shape (B, P).
    """
    shape = (len(weights), len(RECALL_GRID))
    totals, counts = np.zeros((2, *shape)), np.zeros((shape[0], 1))
    for question in questions:
        places = np.searchsorted(patients, question.table.patient_id.astype(str))
        for rows in groups(question.table):
            if not question.positive[rows].any() or question.positive[rows].all():
                continue
            order = np.flatnonzero(rows)[np.argsort(-question.score[rows], kind="stable")]
            last_of_tie = np.append(np.diff(question.score[order]) != 0, True)
            for at, rate, precision in _curves(weights, places[order], question.positive[order], last_of_tie):
                totals[0, at] += rate
                totals[1, at] += precision
                counts[at] += 1.0
    with np.errstate(invalid="ignore"):
        return totals[0] / counts, totals[1] / counts


def _curves(
    weights: np.ndarray, places: np.ndarray, positive: np.ndarray, last_of_tie: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number of the draw, rate and precision on the grid; draws with one class only are left out."""
    step = max(1, CHUNK_ELEMENTS // len(places))
    for start in range(0, len(weights), step):
        drawn = weights[start : start + step, places].astype(np.float64)
        hits = np.cumsum(drawn * positive, axis=1)[:, last_of_tie]
        alarms = np.cumsum(drawn * ~positive, axis=1)[:, last_of_tie]
        for k in range(len(drawn)):
            if hits[k, -1] > 0 and alarms[k, -1] > 0:
                yield start + k, _rate_on_grid(hits[k], alarms[k]), _precision_on_grid(hits[k], alarms[k])


def _rate_on_grid(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """True positive rate at equal false positive rate: 0 at 0, later the highest of each rate."""
    fpr, tpr = np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1])
    last = np.append(np.diff(fpr) > 0, True)
    rate = np.interp(RECALL_GRID, fpr[last], tpr[last])
    rate[0] = 0.0
    return rate


def _precision_on_grid(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """Best precision that reaches at least each recall."""
    called = hits + alarms
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return envelope[np.searchsorted(hits / hits[-1], RECALL_GRID - 1e-12, side="left")]

"""Bands of ROC and precision-recall curves: pointwise intervals from resampled patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from archbench.artifacts import ArtifactError, read_predictions
from archbench.report.curves import RECALL_GRID, Question, groups, questions_of
from archbench.statistics import patient_weights

DRAWS = 200
SEED = 0
CHUNK_ELEMENTS = 200_000  # of (draws x cases) at a time: they stay in the cache
ROUNDING = 1e-9  # of a count that is a whole number but for rounding

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
    weights, shape = weights.astype(np.int32), (len(weights), len(RECALL_GRID))
    totals, counts = np.zeros((2, *shape)), np.zeros((shape[0], 1))
    for question in questions:
        places = _places(question, patients)
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


def _places(question: Question, patients: np.ndarray) -> np.ndarray:
    """Index of each row's patient, shape (N,); names are looked up once per patient."""
    _, first, again = np.unique(question.table.patient_code, return_index=True, return_inverse=True)
    return np.searchsorted(patients, question.table.patient_id[first].astype(str))[again]


def _curves(
    weights: np.ndarray, places: np.ndarray, positive: np.ndarray, last_of_tie: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Numbers of some draws, their rates and precisions on the grid; draws with one class only are left out."""
    found, passed = np.cumsum(positive)[last_of_tie], np.cumsum(~positive)[last_of_tie]
    step = max(1, CHUNK_ELEMENTS // len(places))
    for start in range(0, len(weights), step):
        drawn = weights[start : start + step]
        hits, alarms = (_running(drawn, places[side]) for side in (positive, ~positive))
        two = np.flatnonzero((hits[:, -1] > 0) & (alarms[:, -1] > 0))
        if len(two) < len(drawn):
            hits, alarms = hits[two], alarms[two]
        yield start + two, _rates_on_grid(hits, alarms, found, passed), _precisions_on_grid(hits, alarms, found, passed)


def _running(weights: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Drawn cases of one side down to each of them, 0 before the first, (B, 1 + N)."""
    sums = np.zeros((len(weights), 1 + len(places)), dtype=np.int32)
    np.cumsum(weights.take(places, axis=1), axis=1, out=sums[:, 1:])
    return sums


def _rates_on_grid(hits: np.ndarray, alarms: np.ndarray, found: np.ndarray, passed: np.ndarray) -> np.ndarray:
    """True positive rates at equal false positive rates: 0 at 0, later the highest of each rate; (B, 101).

    Args:
        hits: Drawn positives by their place among the positives, (B, 1 + P).
        alarms: Drawn negatives by their place among the negatives, (B, 1 + N).
        found: Positives down to each distinct score, (M,).
        passed: Negatives down to there, (M,).
    """
    found, passed = np.append(0, found), np.append(0, passed)
    last = np.append(np.diff(passed) > 0, True)
    found = found[last]
    if len(found) < alarms.shape[1]:
        alarms = alarms[:, passed[last]]
    wanted = RECALL_GRID * alarms[:, -1:]
    last_up_to = _search(alarms)
    low = last_up_to(np.floor(wanted + ROUNDING))
    beyond = np.take_along_axis(alarms, np.minimum(low + 1, alarms.shape[1] - 1), axis=1)
    high = last_up_to(beyond)
    x0, x1 = (np.take_along_axis(alarms, at, axis=1) for at in (low, high))
    y0, y1 = (np.take_along_axis(hits, found[at], axis=1) for at in (low, high))
    rate: np.ndarray = (y0 + (y1 - y0) * (wanted - x0) / np.maximum(x1 - x0, 1)) / hits[:, -1:]
    rate[:, 0] = 0.0
    return rate


def _precisions_on_grid(hits: np.ndarray, alarms: np.ndarray, found: np.ndarray, passed: np.ndarray) -> np.ndarray:
    """Best precisions that reach at least each recall, (B, 101); arguments as in `_rates_on_grid`."""
    gains = np.diff(found, prepend=0) > 0  # elsewhere precision only falls
    hits = hits[:, found[gains]]
    precision = hits / np.maximum(hits + alarms[:, passed[gains]], 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    needed = np.ceil(RECALL_GRID * hits[:, -1:] - ROUNDING)
    return np.take_along_axis(envelope, _search(hits)(needed - 1) + 1, axis=1)


def _search(counts: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what finds, for limits (B, G), the last of each row's rising counts (B, M) that is no larger; -1 for none.

    Rows are searched end to end, each shifted beyond the one before it: one search instead of one for each draw.
    """
    rows, step = np.arange(len(counts))[:, None], int(counts.max(initial=0)) + 2
    shift = (step * rows).astype(np.int32 if step * len(counts) < 2**31 else np.int64)
    joined = (counts + shift).ravel()

    def last_up_to(limits: np.ndarray) -> np.ndarray:
        ends = (limits.astype(shift.dtype) + shift).ravel()
        found = np.searchsorted(joined, ends, side="right").reshape(limits.shape)
        return found - counts.shape[1] * rows - 1

    return last_up_to

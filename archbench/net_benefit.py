"""Net benefit of deciding by a model, of treating all and of treating none: `decision_curve` of metrics.json.

The format stands in docs/result_files.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from archbench.calibrated import Calibrated
from archbench.metrics.metric import Array, ratio
from archbench.metrics.views import Question, binary_questions
from archbench.resampled import Resampled

THRESHOLDS = np.arange(1, 50) / 50.0
BAND_DRAWS = 500  # resamples behind a band; more would not be seen


def decision_curve(
    probabilities: Array, targets: Array, *, thresholds: Array, weights: Array | None = None, rows: Array | None = None
) -> Mapping[str, Array]:
    """Return the net benefit of deciding by the model, of treating all and of treating none.

    Args:
        probabilities: Of the positive class, shape (N,).
        targets: 0 or 1, shape (N,).
        thresholds: Probability at which one would act, shape (T,), between 0 and 1.
        weights: Weight of each patient in each resample, shape (P, B); None weighs each case 1.
        rows: Patient of each case, shape (N,).
    Returns:
        "model", "all" and "none", each (T, B): true positives minus false ones times the odds of the threshold, per
        case.
    Source:
        Vickers and Elkin, 2006.
    """
    weights = np.ones((len(targets), 1)) if weights is None else weights
    rows = np.arange(len(targets)) if rows is None else rows
    order = np.argsort(thresholds, kind="stable")
    odds = (thresholds / (1.0 - thresholds))[:, None]
    # a case is called at every threshold up to its probability: how many those are places it once for all
    place = np.searchsorted(thresholds[order], probabilities, side="right")
    caught, alarms = np.empty((2, len(thresholds), weights.shape[1]))
    totals = []
    for found, side in ((caught, targets == 1), (alarms, targets == 0)):
        counts = _counts(place[side], rows[side], (len(thresholds) + 1, len(weights))) @ weights
        called = np.cumsum(counts[::-1], axis=0)[::-1]
        found[order] = called[1:]
        totals.append(called[0])
    n = totals[0] + totals[1]
    model = ratio(caught - odds * alarms, n)
    return {"model": model, "all": ratio(totals[0] - odds * totals[1], n), "none": np.zeros(model.shape)}


def _counts(place: Array, rows: Array, shape: tuple[int, int]) -> Any:
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(place)), (place, rows)), shape=shape)


def curve_results(found: Calibrated, sample: Resampled, *, cut: int | None) -> dict[str, Any]:
    """Return the decision curve of every label, class or zone, at calibrated probabilities where there are any.

    Args:
        found: The rows after calibration.
        sample: The scored rows.
        cut: First class that counts as referable, for ordinal tasks.
    """
    rows = sample.rows if found.rows is None else found.rows
    return {
        "probabilities": "raw" if found.rows is None else "calibrated",
        "reason": found.reason,
        "thresholds": THRESHOLDS.tolist(),
        "questions": {
            question.name: _curve(question, sample)
            for question in binary_questions(rows, cut=cut)
            if len(question.members)
        },
    }


def _curve(question: Question, sample: Resampled) -> dict[str, Any]:
    found = decision_curve(
        question.probabilities,
        question.targets,
        thresholds=THRESHOLDS,
        weights=sample.columns[:, : 1 + BAND_DRAWS],
        rows=sample.unit[question.members],
    )
    tail = (1.0 - sample.confidence) / 2.0
    low, high = np.nanquantile(found["model"][:, 1:], [tail, 1.0 - tail], axis=1)
    n_cases, n_patients = sample.counts(question.members)
    return {
        "model": found["model"][:, 0].tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "all": found["all"][:, 0].tolist(),
        "none": found["none"][:, 0].tolist(),
        "prevalence": float(question.targets.mean()),
        "n_cases": n_cases,
        "n_patients": n_patients,
    }

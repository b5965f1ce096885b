"""Thresholds of labels, fitted out of fold: what is fitted for a case never saw that case's patient.

A threshold is a logit; above it a label is called present. Thresholds shift logits, so that 0 is the threshold
and every metric of decisions can be computed with or without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from archbench.artifacts import Predictions
from archbench.metrics.metric import Array
from archbench.metrics.scoring import parts
from archbench.metrics.views import pooled_view, view_of
from archbench.out_of_fold import OutOfFold, fitting_problem, fitting_source, source_rows

MIN_POSITIVE_PATIENTS = 25


@dataclass(frozen=True)
class LabelThreshold:
    """A fitted threshold: of one label, or the one for all labels (`scope` global).

    Attributes:
        logit: Raw logit above which the label is called present.
        n_positive_patients: Patients with the label among those it was fitted on.
    """

    label: str
    fold: int
    seed: int
    scope: str
    logit: float
    n_positive_patients: int

    @property
    def probability(self) -> float:
        """The threshold as an uncalibrated probability."""
        return float(1.0 / (1.0 + np.exp(-self.logit)))


def best_f1_threshold(logits: Array, positive: Array) -> float:
    """Return the logit halfway between two scores with the highest F1; 0 without positives.

    Args:
        logits: Shape (N,).
        positive: Boolean, shape (N,).
    """
    if not positive.any():
        return 0.0
    order = np.argsort(-logits, kind="stable")
    scores, hits = logits[order].astype(np.float64), np.cumsum(positive[order])
    last = np.append(np.diff(scores) != 0, True)
    ends = np.flatnonzero(last)
    f1 = 2.0 * hits[ends] / (ends + 1 + positive.sum())
    best = ends[int(np.argmax(f1))]
    return float(scores[best] - 0.5) if best == len(scores) - 1 else float((scores[best] + scores[best + 1]) / 2)


def fit_thresholds(predictions: Predictions) -> list[LabelThreshold]:
    """Fit a global threshold and one per label for each fold and seed of the test rows, on other patients.

    A label with fewer than 25 positive patients to fit on takes the global one.

    Args:
        predictions: All rows of one model with labels.
    Returns:
        Empty where there are no other patients to fit on.
    """
    if fitting_problem(predictions) is not None:
        return []
    fitted = []
    for seed, fold, applied in parts(predictions.test):
        fit = _other_patients(fitting_source(predictions), applied, fold=fold, seed=seed)
        cells = pooled_view(fit)
        logit = best_f1_threshold(cells.logits[:, 1], cells.targets[:, 0] == 1)
        everyone = len(np.unique(cells.patient_id[cells.targets[:, 0] == 1]))
        shared = LabelThreshold("", fold, seed, "global", logit, everyone)
        fitted.append(shared)
        fitted += [_label_threshold(fit, group, shared) for group in range(len(fit.labels))]
    return fitted


def _other_patients(source: OutOfFold, applied: Predictions, *, fold: int, seed: int) -> Predictions:
    others = source.without(fold) if source.crossed else source
    rows = source_rows(others, applied=applied)
    return rows.select(rows.seed == seed)


def _label_threshold(fit: Predictions, group: int, shared: LabelThreshold) -> LabelThreshold:
    table = view_of(fit, group)
    positive = table.targets[:, 0] == 1
    n_positive = len(np.unique(table.patient_id[positive]))
    few = n_positive < MIN_POSITIVE_PATIENTS
    logit = shared.logit if few else best_f1_threshold(table.logits[:, 1], positive)
    scope = "global" if few else "label"
    return LabelThreshold(fit.labels[group], shared.fold, shared.seed, scope, logit, n_positive)


def apply_thresholds(predictions: Predictions, fitted: Sequence[LabelThreshold], *, scope: str) -> Predictions:
    """Return the test rows with every logit less its threshold.

    Args:
        scope: "label" for each label's own (or the global one that it takes), "global" for the one of all labels.
    Raises:
        ValueError: If a row has no threshold for its fold and seed.
    """
    rows = predictions.test
    shift = np.full(rows.logits.shape, np.nan)
    for item in fitted:
        member = (rows.fold == item.fold) & (rows.seed == item.seed)
        if scope == "global" and not item.label:
            shift[member] = item.logit
        elif scope == "label" and item.label:
            shift[member, rows.labels.index(item.label)] = item.logit
    if np.isnan(shift).any():
        raise ValueError("some rows have no threshold for their fold and seed")
    return replace(rows, logits=(rows.logits - shift).astype(np.float32))

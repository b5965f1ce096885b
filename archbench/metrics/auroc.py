"""Area under the ROC curve: which binary questions a task asks; see `archbench.resampling` for the area itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from archbench.metrics.metric import Array, Metric
from archbench.registry import METRICS
from archbench.resampling import auroc


def one_vs_rest(probabilities: Array, y_true: Array) -> tuple[Array, Array]:
    """Return scores (K, N) and positives (K, N) of each class against all others."""
    classes = np.arange(probabilities.shape[1])
    return probabilities.T, y_true[None, :] == classes[:, None]


def at_cut(probabilities: Array, y_true: Array, cut: int) -> tuple[Array, Array]:
    """Return score (1, N) and positives (1, N) of "grade `cut` or worse": the summed probability of these grades."""
    return probabilities[:, cut:].sum(axis=1)[None, :], (y_true >= cut)[None, :]


def metric_at_cut(name: str, clinical_cut: int) -> Metric:
    """Return the named metric; `auroc_clinical_cut` with this first grade that counts as positive."""
    metric: Metric = METRICS.get(name)
    if name != "auroc_clinical_cut":
        return metric
    return replace(metric, terms=partial(at_cut, cut=clinical_cut))


def roc_curve(y_score: Array, positive: Array) -> tuple[Array, Array]:
    """Return false and true positive rates at every distinct score, from (0, 0) to (1, 1)."""
    order = np.argsort(-y_score, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(y_score[order]) != 0, True])
    true_positives = np.cumsum(positive[order])[ends]
    false_positives = ends + 1 - true_positives
    tpr = np.r_[0.0, true_positives / true_positives[-1]]
    fpr = np.r_[0.0, false_positives / false_positives[-1]]
    return fpr, tpr


METRICS.register(
    "auroc_macro",
    Metric(
        name="auroc_macro",
        kind="rank",
        greater_is_better=True,
        function=auroc,
        undefined_reason="no class has enough positive and negative patients, or one has them in no fold",
        terms=one_vs_rest,
    ),
)
METRICS.register(
    "auroc_clinical_cut",
    Metric(
        name="auroc_clinical_cut",
        kind="rank",
        greater_is_better=True,
        function=auroc,
        undefined_reason="too few patients on one side of the clinical cut, or none in any fold",
        terms=partial(at_cut, cut=2),
    ),
)
METRICS.register(
    "auroc_micro",
    Metric(
        name="auroc_micro",
        kind="rank",
        greater_is_better=True,
        function=auroc,
        undefined_reason="no fold has positive and negative cells",
        terms=one_vs_rest,
        of="pooled",
    ),
)

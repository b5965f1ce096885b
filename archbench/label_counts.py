"""What the targets of a dataset look like: strata to split by, counts per class or label, co-occurrence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

VALUE_STRATA = 5


def strata(
    targets: np.ndarray, *, outputs: str, classes: Sequence[str], labels: Sequence[str]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return names and counts of what a split should spread evenly, counts of shape (N, C).

    Classes: the class of a case; labels: the positive labels; masks: the structures that are there; zones: how many of
    a case's zones have each grade; value: which fifth of all values a case is in.

    Args:
        targets: Shape (N, L), NaN where unknown.
        outputs: See `archbench.tasks.Task`.
    """
    if outputs == "value":
        return _fifths(targets[:, 0])
    if outputs in ("labels", "masks"):
        return tuple(labels), (targets == 1).astype(np.int64)
    grades = np.arange(len(classes))
    return tuple(classes), (targets[:, :, None] == grades).sum(axis=1).astype(np.int64)


def _fifths(values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    cuts = np.unique(np.quantile(values, np.linspace(0, 1, VALUE_STRATA + 1)[1:-1])) if len(values) else np.zeros(0)
    index = np.searchsorted(cuts, values, side="right")
    ends = ["", *(f"{cut:.4g}" for cut in cuts), ""]
    names = [f"{a} to {b}" if a and b else (f"below {b}" if b else f"from {a}") for a, b in pairwise(ends)]
    return tuple(names), np.eye(len(cuts) + 1, dtype=np.int64)[index]


def label_summary(targets: np.ndarray, patients: np.ndarray, *, labels: Sequence[str]) -> dict[str, Any]:
    """Return counts per label, labels per case and co-occurrence of a table of labels.

    Returns:
        labels: name, n_positive, n_negative, n_unknown (soft training targets among them), positive and negative
        patients; labels_per_case: number of cases with 0, 1, ... positive labels; co_occurrence: cases with both
        labels, shape (L, L), the diagonal a label's own positives.
    """
    positive, negative = targets == 1, targets == 0
    rows = [
        {
            "name": name,
            "n_positive": int(positive[:, k].sum()),
            "n_negative": int(negative[:, k].sum()),
            "n_unknown": int((~positive[:, k] & ~negative[:, k]).sum()),
            "n_positive_patients": len(np.unique(patients[positive[:, k]])),
            "n_negative_patients": len(np.unique(patients[negative[:, k]])),
        }
        for k, name in enumerate(labels)
    ]
    together = positive.astype(np.int64)
    return {
        "labels": rows,
        "labels_per_case": np.bincount(positive.sum(axis=1)).tolist(),
        "co_occurrence": (together.T @ together).tolist(),
    }


def zone_summary(targets: np.ndarray, *, classes: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Return how often each zone has each grade, and how often it is ungradable."""
    grades = np.arange(len(classes))
    rows = []
    for k, name in enumerate(labels):
        per_class = (targets[:, k, None] == grades).sum(axis=0)
        rows.append(
            {"name": name, "per_class": per_class.tolist(), "n_ungradable": int(len(targets) - per_class.sum())}
        )
    graded = np.isin(targets, grades)
    return {"zones": rows, "n_cases_without_a_gradable_zone": int((~graded.any(axis=1)).sum())}


def label_warnings(targets: np.ndarray, *, outputs: str, labels: Sequence[str]) -> list[str]:
    """Return what a reader should know before training on these labels."""
    if outputs not in ("labels", "masks"):
        return []
    if outputs == "masks":
        lacking = [name for k, name in enumerate(labels) if not (targets[:, k] == 1).any()]
        return [f"no mask holds {', '.join(lacking)}: their metrics will be undefined"] if lacking else []
    warnings = []
    for word, value in (("positive", 1), ("negative", 0)):
        lacking = [name for k, name in enumerate(labels) if not (targets[:, k] == value).any()]
        if lacking:
            warnings.append(f"no case is {word} for {', '.join(lacking)}: their AUROC will be undefined")
    return warnings

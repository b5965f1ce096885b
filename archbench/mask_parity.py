"""The gate of an exported segmentation network: the mean Dice of its masks against that of torch's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from archbench.mask_evaluation import PatientDraws, patient_scores
from archbench.metrics.metric import Array, mean_defined, ratio
from archbench.parity import NOT_FINITE, Comparison, judged, quality_record
from archbench.statistics import patient_weights

CHUNK = 32  # images whose masks are compared at once


@dataclass(frozen=True)
class MaskTruth:
    """True class indices of the validation cases, shape (N, S, S), and their patients, shape (N,)."""

    masks: Array
    patient_id: Array


def compare_masks(truth: MaskTruth, expected: Array, got: Array, comparison: Comparison) -> dict[str, Any]:
    """Compare an export with torch on the whole validation set, patients resampled in pairs.

    Args:
        expected: Torch's logits, shape (N, K, S, S).
        got: The export's.
    Returns:
        As `archbench.parity.compare_quality`; decisions are pixels.
    """
    record = quality_record("dice", comparison, truth.patient_id)
    if not np.isfinite(got).all():
        return record | {"non_inferior": False, "reason": NOT_FINITE}
    labels = [logits.argmax(axis=1).astype(np.uint8) for logits in (got, expected)]
    record |= {"flips": int((labels[0] != labels[1]).sum()), "n_decisions": int(labels[0].size)}
    values = [case_dice(truth.masks, said, structures=expected.shape[1] - 1) for said in labels]
    weights = patient_weights(
        truth.patient_id,
        strata=np.zeros(len(truth.masks), int),
        resamples=comparison.resamples,
        seed=comparison.seed,
    )
    n = len(truth.masks)
    drawn = PatientDraws(
        rows=np.searchsorted(weights.patients, truth.patient_id),
        weights=weights.weights.T.astype(np.float64),
        cases=np.arange(n),
        seeds=np.zeros(n, int),
    )
    export, torch = (patient_scores(of_cases, drawn) for of_cases in values)
    undefined = "no validation mask holds a structure"
    return record | judged(export, torch, comparison, greater_is_better=True, undefined=undefined)


def case_dice(true: Array, said: Array, *, structures: int) -> Array:
    """Return each case's mean Dice over the structures that its truth holds, shape (N,), NaN where it holds none."""
    found = []
    for start in range(0, len(true), CHUNK):
        part = slice(start, start + CHUNK)
        of_structure = []
        for index in range(1, structures + 1):
            is_true, is_said = true[part] == index, said[part] == index
            sizes, both = (is_true.sum(axis=(1, 2)), is_said.sum(axis=(1, 2))), (is_true & is_said).sum(axis=(1, 2))
            of_structure.append(np.where(sizes[0] > 0, ratio(2 * both, sizes[0] + sizes[1]), np.nan))
        found.append(mean_defined(np.array(of_structure).T))
    return np.concatenate(found)

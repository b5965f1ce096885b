"""Dice of single slices, kept apart from that of the volumes that they belong to."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from archbench.mask_evaluation import ALL, PatientDraws, case_record
from archbench.mask_files import read_mask
from archbench.mask_summary import Resampling
from archbench.metrics.metric import Array, mean_defined, ratio
from archbench.statistics import patient_weights
from archbench.tested_masks import Tested


def slice_dice(tested: Tested) -> dict[str, Array]:
    """Return each model's Dice of every slice and structure, shape (N, K); NaN where the truth lacks it.

    Returns:
        In the order of `tested.slices`; empty for pictures.
    """
    if not tested.slices:
        return {}
    rows = list(_of_slices(tested))
    return {model: np.array([row[model] for row in rows]) for model in tested.memory_mib}


def _of_slices(tested: Tested) -> Iterator[dict[str, Array]]:
    n = len(tested.structures) + 1
    for case in tested.slices:
        true = read_mask(case.truth).labels
        found = {}
        for model, path in case.predictions.items():
            said = read_mask(path).labels
            pairs = np.bincount((true.astype(np.int64) * n + said).ravel(), minlength=n * n).reshape(n, n)
            sizes, both = pairs.sum(axis=1) + pairs.sum(axis=0), np.diag(pairs)
            dice = ratio(2 * both[1:], sizes[1:])
            found[model] = np.where(pairs.sum(axis=1)[1:] > 0, dice, np.nan)
        yield found


def slice_summary(tested: Tested, dice: Mapping[str, Array], drawing: Resampling) -> dict[str, Any] | None:
    """Return the mean Dice over patients of their slices, with intervals; None for pictures.

    Args:
        dice: As `slice_dice` gives it.
    """
    if not dice:
        return None
    patients = np.array([case.patient for case in tested.slices])
    folds = np.array([tested.folds[tested.volumes[case.name]] for case in tested.slices])
    weights = patient_weights(patients, strata=folds, resamples=drawing.resamples, seed=drawing.seed)
    drawn = PatientDraws(
        rows=np.searchsorted(weights.patients, patients),
        weights=weights.weights.T.astype(np.float64),
        cases=np.unique([case.name for case in tested.slices], return_inverse=True)[1],
        seeds=np.array([case.seed for case in tested.slices]),
    )
    several = len(tested.structures) > 1
    return {
        "n_slices": len(tested.volumes),
        "models": {
            model: {
                name: case_record(column, "dice", drawn, drawing.confidence)
                for name, column in [
                    *([(ALL, mean_defined(values))] if several else []),
                    *zip(tested.structures, values.T, strict=True),
                ]
            }
            for model, values in dice.items()
        },
    }


def slice_table(tested: Tested, dice: Mapping[str, Array]) -> str:
    """Return one row per model and slice as CSV: its Dice by structure, empty where the truth lacks it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", "volume", "slice", "patient", "seed", *(f"dice_{name}" for name in tested.structures)])
    for model, values in dice.items():
        for case, row in zip(tested.slices, values.tolist(), strict=True):
            writer.writerow([model, tested.volumes[case.name], case.name, case.patient, case.seed, *_cells(row)])
    return buffer.getvalue()


def _cells(values: Sequence[float]) -> list[str]:
    return ["" if np.isnan(value) else f"{value:.6g}" for value in values]

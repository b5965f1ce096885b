"""Runs of a study of masks: the Dice of every case in the place of predictions, so that runs can be paired by case."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import ArtifactError, Predictions
from archbench.comparison import compare_scores
from archbench.mask_evaluation import PatientDraws, patient_scores
from archbench.metrics.metric import Array, mean_defined
from archbench.metrics.scoring import Scores
from archbench.registry import METRICS
from archbench.statistics import PatientWeights, patient_weights

PRIMARY = "dice"
OUTPUTS = "masks"


def mask_table(per_case: Path, model: str) -> Predictions:
    """Return a model's cases as a table: the mean Dice over structures, and as targets the size of each in the truth.

    Args:
        per_case: What score_masks.py wrote of all models.
    Raises:
        ArtifactError: If the file is missing or holds nothing of the model.
    """
    try:
        with per_case.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["model"] == model]
    except OSError as error:
        raise ArtifactError(f"{per_case} can't be read ({error}): run the study again") from error
    if not rows:
        raise ArtifactError(f"{per_case} holds no case of {model}: run the study again")
    size = next(name for name in rows[0] if name.startswith("truth_"))
    labels = tuple(dict.fromkeys(row["label"] for row in rows))
    cases: dict[tuple[str, int], dict[str, dict[str, str]]] = {}
    for row in rows:
        cases.setdefault((row["case"], int(row["seed"])), {})[row["label"]] = row
    first = [next(iter(found.values())) for found in cases.values()]
    dice = [[float(found[name][PRIMARY] or "nan") for name in labels] for found in cases.values()]
    return Predictions(
        case_id=np.array([row["case"] for row in first], dtype=str),
        patient_id=np.array([row["patient"] for row in first], dtype=str),
        split=np.full(len(first), "test"),
        fold=np.array([int(row["fold"]) for row in first]),
        seed=np.array([seed for _, seed in cases]),
        logits=mean_defined(np.array(dice)).astype(np.float32)[:, None],
        targets=np.array([[float(found[name][size]) for name in labels] for found in cases.values()]),
        classes=(PRIMARY,),
        labels=labels,
        metadata={"outputs": OUTPUTS},
    ).sorted()


def mask_scores(rows: Predictions, drawn: PatientWeights) -> Scores:
    """Return the mean Dice over patients of each seed, as points and for every resample."""
    draws = PatientDraws(
        rows=np.searchsorted(drawn.patients, rows.patient_id),
        weights=drawn.weights.T.astype(np.float64),
        cases=np.unique(rows.case_id, return_inverse=True)[1],
        seeds=rows.seed,
    )
    return patient_scores(rows.logits[:, 0].astype(np.float64), draws)


def mean_dice(rows: Predictions) -> float:
    """Return the mean over seeds of the mean Dice over patients; NaN where no case has one."""
    patients: Array = np.unique(rows.patient_id)
    return mask_scores(rows, PatientWeights(patients, np.zeros((0, len(patients)), np.int64))).point


def compare_mask_tables(
    tables: Mapping[str, Predictions], *, resamples: int, confidence: float, seed: int, delta: float | None
) -> dict[str, Any]:
    """Return the comparison of tables of the same cases, as `archbench.comparison.compare`."""
    reference = next(iter(tables.values()))
    drawn = patient_weights(reference.patient_id, strata=reference.fold, resamples=resamples, seed=seed)
    scores = {name: mask_scores(rows, drawn) for name, rows in tables.items()}
    metric = METRICS.get(PRIMARY)
    return compare_scores(scores, primary=PRIMARY, metric=metric, confidence=confidence, delta=delta, warnings=[])

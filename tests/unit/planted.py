"""Prediction tables with known truth for the statistics tests: patients with two images, planted skill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from archbench.artifacts import Predictions, write_table

GRADES = ("none", "mild", "moderate", "severe", "proliferative")


def table(case_id, patient_id, fold, y_true, logits, *, split="test", seed=1, classes=GRADES) -> Predictions:
    """Make a table; `split`, `fold` and `seed` may be single values or arrays."""
    n = len(case_id)
    return Predictions(
        case_id=np.asarray(case_id, dtype=str),
        patient_id=np.asarray(patient_id, dtype=str),
        split=np.broadcast_to(np.asarray(split, dtype=str), n).copy(),
        fold=np.broadcast_to(np.asarray(fold), n).copy(),
        seed=np.broadcast_to(np.asarray(seed), n).copy(),
        logits=np.asarray(logits, dtype=np.float32),
        targets=np.asarray(y_true, dtype=np.float64)[:, None],
        classes=tuple(classes),
        labels=("grade",),
    )


def cohort(*, patients=150, images=2, folds=5, n_classes=5, rng=0):
    """Cases of a cohort: (case_id, patient_id, fold, y_true); grades of one patient resemble each other."""
    generator = np.random.default_rng(rng)
    owner = np.repeat(np.arange(patients), images)
    latent = generator.normal(size=patients)[owner] + 0.4 * generator.normal(size=len(owner))
    y_true = np.digitize(latent, np.quantile(latent, np.linspace(0, 1, n_classes + 1)[1:-1]))
    case_id = np.array([f"case{i:04d}" for i in range(len(owner))])
    patient_id = np.array([f"patient{i:04d}" for i in owner])
    return case_id, patient_id, (np.arange(patients) % folds)[owner], y_true


def noisy_logits(y_true, *, skill, rng, n_classes=5):
    """Logits that know the truth to a degree: 0 knows nothing."""
    generator = np.random.default_rng(rng)
    return skill * np.eye(n_classes)[y_true] + generator.normal(size=(len(y_true), n_classes))


def planted(*, skill=1.5, rng=1, seeds=(1,), split="test", **settings) -> Predictions:
    """Cross-validation table of a model with a planted skill; the cohort is the same for every model."""
    case_id, patient_id, fold, y_true = cohort(**settings)
    n, count = len(case_id), len(seeds)
    logits = [noisy_logits(y_true, skill=skill, rng=1000 * rng + seed) for seed in seeds]
    tiled = [np.tile(column, count) for column in (case_id, patient_id, fold, y_true)]
    return table(*tiled, np.concatenate(logits), seed=np.repeat(seeds, n), split=split)


def holdout(*, skill=1.5, rng=1, patients=150) -> Predictions:
    """One split: a third of the patients validates, the others are tested."""
    case_id, patient_id, part, y_true = cohort(patients=patients, folds=3)
    split = np.where(part == 0, "val", "test")
    return table(case_id, patient_id, 0, y_true, noisy_logits(y_true, skill=skill, rng=rng), split=split)


def fold_file(folder: Path, table: Predictions, *, smuggled: str | None = None) -> Path:
    """Each patient is tested in one fold and trained on in the others; one may be trained on in its own."""
    patients = sorted(set(table.patient_id.tolist()))
    tested = {patient: int(table.fold[table.patient_id == patient][0]) for patient in patients}
    rows = [
        (patient, fold, "test" if tested[patient] == fold and patient != smuggled else "train")
        for fold in sorted(set(tested.values()))
        for patient in patients
    ]
    columns = dict(zip(("patient_id", "fold", "split"), map(list, zip(*rows, strict=True)), strict=True))
    path = folder / "folds.parquet"
    write_table(path, pa.table({"case_id": columns["patient_id"], **columns}), {})
    return path

"""Prediction tables of several labels and of zones with planted skill, for the tests of tasks."""

from __future__ import annotations

import numpy as np

from archbench.artifacts import Predictions

LABELS = ("Edema", "Effusion", "Fracture")
ZONES = ("upper", "middle", "lower")
GRADES = ("Normal", "Mild", "Moderate", "Severe")


def patients_and_folds(n: int, *, folds: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Case names, patients (two cases each) and folds of n cases."""
    owner = np.arange(n) // 2
    names = np.array([f"c{i:04d}" for i in range(n)])
    return names, np.array([f"p{i:04d}" for i in owner]), owner % folds


def label_table(n=400, *, skill=2.0, rng=1, prevalence=(0.4, 0.25, 0.15), seeds=(1,), split="test") -> Predictions:
    """Labels with the given prevalence; the same truth for every `rng` and skill."""
    case, patient, fold = patients_and_folds(n)
    truth = (np.random.default_rng(0).random((n, 3)) < prevalence).astype(float)
    logits = [
        skill * (truth - 0.5) * 2 + np.random.default_rng([rng, seed]).normal(size=(n, 3)) - 1.0 for seed in seeds
    ]
    repeat = len(seeds)
    return Predictions(
        case_id=np.tile(case, repeat),
        patient_id=np.tile(patient, repeat),
        split=np.full(n * repeat, split),
        fold=np.tile(fold, repeat),
        seed=np.repeat(seeds, n),
        logits=np.concatenate(logits).astype(np.float32),
        targets=np.tile(truth, (repeat, 1)),
        classes=LABELS,
        labels=LABELS,
        metadata={"decision": "argmax", "outputs": "labels", "class_names": []},
    )


def zone_table(n=240, *, skill=2.0, rng=1, ungradable=0.1, with_class=False) -> Predictions:
    """Zones with four grades; a share of them is ungradable, and the first case wholly."""
    case, patient, fold = patients_and_folds(n)
    generator = np.random.default_rng(0)
    truth = generator.choice(4, size=(n, 3), p=(0.4, 0.3, 0.2, 0.1)).astype(float)
    blank = generator.random((n, 3)) < ungradable
    blank[0] = True
    names = (*GRADES, "Ungradable") if with_class else GRADES
    filled = np.where(blank, 4 if with_class else 0, truth).astype(int)
    noise = np.random.default_rng(rng).normal(size=(n, 3, len(names)))
    logits = skill * np.eye(len(names))[filled] + noise
    truth[blank] = 4.0 if with_class else np.nan
    return Predictions(
        case_id=case,
        patient_id=patient,
        split=np.full(n, "test"),
        fold=fold,
        seed=np.full(n, 1),
        logits=logits.reshape(n, -1).astype(np.float32),
        targets=truth,
        classes=tuple(f"{zone}:{name}" for zone in ZONES for name in names),
        labels=ZONES,
        metadata={"decision": "argmax", "outputs": "zones", "class_names": list(names)},
    )

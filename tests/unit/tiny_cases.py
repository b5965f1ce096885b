"""A dataset of a few drawn images as the torch stages find it: manifest, folds, image cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from archbench.artifacts import Predictions, write_json, write_table
from archbench.cases import Cases, read_cases

SIDE, N, FOLDS = 32, 24, 2
CLASSES = ("none", "mild", "severe")


def write_cases(folder: Path, *, clahe: bool = False, side: int = SIDE, n: int = N) -> dict[str, Path]:
    """Write n cases of n/2 patients in two folds; the cache holds them in another order than the manifest."""
    generator = np.random.default_rng(0)
    case_ids = [f"case{i:02d}" for i in range(n)]
    targets = [None if i == 5 else i % len(CLASSES) for i in range(n)]
    lesions = ['[{"x": 20.0, "y": 12.0, "radius": 3.0, "kind": "spot"}]' if i % 2 else None for i in range(n)]
    manifest = pa.table(
        {
            "case_id": case_ids,
            "patient_id": [f"patient{i // 2:02d}" for i in range(n)],
            "sha256": [f"{i:064x}" for i in range(n)],
            "target_grade": pa.array(targets, pa.int8()),
            "lesions": pa.array(lesions, pa.string()),
        }
    )
    write_table(folder / "manifest.parquet", manifest, {"classes": list(CLASSES), "labels": ["grade"], "phantom": True})
    splits = [(c, f, split_of(i // 2, f)) for f in range(FOLDS) for i, c in enumerate(case_ids)]
    columns = dict(zip(("case_id", "fold", "split"), map(list, zip(*splits, strict=True)), strict=True))
    write_table(folder / "folds.parquet", pa.table(columns), {})
    cache = folder / "cache"
    cache.mkdir()
    order = generator.permutation(n)
    images = generator.integers(0, 256, size=(n, side, side, 3), dtype=np.uint8)
    np.save(cache / "images.npy", images)
    if clahe:
        np.save(cache / "clahe.npy", 255 - images)
    np.save(cache / "geometry.npy", np.tile(np.array([0, 0, side, side], np.float32), (n, 1)))
    write_json(cache / "index.json", {"case_ids": [case_ids[i] for i in order], "size": side, "clahe": clahe})
    write_json(folder / "images.json", {"path": str(cache)})
    return {name: folder / f for name, f in FILES.items()}


FILES = {"manifest": "manifest.parquet", "folds": "folds.parquet", "cache": "images.json"}


def split_of(patient: int, fold: int) -> str:
    """Patients of one parity are tested in a fold; a third of the others validate."""
    if patient % FOLDS == fold:
        return "test"
    return "val" if patient % 3 == 0 else "train"


def make_cases(folder: Path, **settings: object) -> Cases:
    """Write and read them."""
    return read_cases(**write_cases(folder, **settings))  # type: ignore[arg-type]


def random_predictions(cases: Cases, *, seed: int = 42, rng: int = 0) -> Predictions:
    """Random logits for the test part of both folds."""
    parts = [cases.part(fold, "test") for fold in range(FOLDS)]
    n = [len(part) for part in parts]
    return Predictions(
        case_id=np.concatenate([part.case_ids for part in parts]),
        patient_id=np.concatenate([part.patient_ids for part in parts]),
        split=np.full(sum(n), "test"),
        fold=np.repeat(np.arange(FOLDS), n),
        seed=np.full(sum(n), seed),
        logits=np.random.default_rng(rng).normal(size=(sum(n), len(CLASSES))).astype(np.float32),
        targets=np.concatenate([part.targets for part in parts]),
        classes=CLASSES,
        labels=("grade",),
    )

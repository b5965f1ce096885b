"""The real photographs that benchmarks train on, through the product's own image cache."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np

from archbench.image_cache import build_cache, open_cache
from archbench.training_epoch import TrainingData
from archbench_predict.images import Preprocessing

CACHE = Path("results/cache/benchmarks")


def read_photographs(
    root: Path, table: str, *, size: int, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return cached images (N, S, S, 3), grades (N, 1) and patients (N,) of a folder with a CSV.

    Args:
        table: CSV in the folder with the columns file, patient and grade.
        limit: Take the first images only.
    """
    with (root / table).open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["grade"]][:limit]  # without a grade: ungradable
    names = [row["file"] for row in rows]
    folder = build_cache(
        cache_dir=CACHE,
        root=root,
        case_ids=names,
        images=names,
        sha256s=[hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names],
        preprocessing=Preprocessing(size=size),
        max_pixels=200_000_000,
        threads=2,
        code="benchmark",
    )
    cache = open_cache(folder)
    grades = np.array([float(row["grade"]) for row in rows])[:, None]
    return cache.images, grades, np.array([row["patient"] for row in rows])


def split_by_patient(
    images: np.ndarray, grades: np.ndarray, patients: np.ndarray, *, fold: int, folds: int
) -> TrainingData:
    """Return the training and validation part of a fold; a patient is in one of them."""
    groups = np.unique(patients, return_inverse=True)[1] % folds
    train, val = np.flatnonzero(groups != fold), np.flatnonzero(groups == fold)
    return TrainingData(
        images=images,
        clahe=None,
        train_rows=train,
        train_targets=grades[train],
        val_rows=val,
        val_targets=grades[val],
        num_classes=5,
    )

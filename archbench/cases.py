"""The cases of one dataset as the torch stages read them: who is in which part, and where the pixels lie."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import ArtifactError, numeric_column, read_table
from archbench.image_cache import ImageCache, open_cache
from archbench.prompts import Prompts, read_prompts


@dataclass(frozen=True)
class Part:
    """Cases of one part of one fold.

    Attributes:
        case_ids, patient_ids: Shape (N,).
        rows: Rows of the image cache, shape (N,).
        targets: float64, shape (N, L), NaN where unknown.
    """

    case_ids: np.ndarray
    patient_ids: np.ndarray
    rows: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def known(self) -> Part:
        """The cases with any target known."""
        mask = ~np.isnan(self.targets).all(axis=1)
        return Part(self.case_ids[mask], self.patient_ids[mask], self.rows[mask], self.targets[mask])

    @property
    def y_true(self) -> np.ndarray:
        """Class indices, shape (N,), for tasks with one label; all targets must be known."""
        if np.isnan(self.targets).any():
            raise ValueError("y_true needs known targets: use .known() first")
        return self.targets[:, 0].astype(np.int64)


@dataclass(frozen=True)
class Cases:
    """Manifest, folds and image cache of a dataset, joined by case.

    Attributes:
        classes: Names of the K logits; labels: names of the L targets.
        table_metadata: What a prediction table says of its outputs (outputs, class_names); empty for plain classes.
        lesions: Per case the planted lesions in source pixels; empty without.
        sha256: Content hash of each source file, shape (N,), in the manifest's order.
        prompts: Of a prompted model, in the order of the cache; None for others.
    """

    case_ids: np.ndarray
    patient_ids: np.ndarray
    targets: np.ndarray
    sha256: np.ndarray
    lesions: dict[str, list[dict[str, Any]]]
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    table_metadata: dict[str, Any]
    phantom: bool
    cache: ImageCache
    parts: dict[tuple[int, str], list[str]]
    prompts: Prompts | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of one label or zone; without zones those of the logits."""
        return tuple(self.table_metadata.get("class_names") or self.classes)

    def part(self, fold: int, split: str) -> Part:
        """Return the cases of a part ("train", "val" or "test") of a fold, sorted by case."""
        chosen = sorted(self.parts.get((fold, split), []))
        index = {case: i for i, case in enumerate(self.case_ids.tolist())}
        rows = np.array([index[case] for case in chosen], dtype=np.int64)
        return Part(self.case_ids[rows], self.patient_ids[rows], self.cache.rows(chosen), self.targets[rows])


def read_cases(
    manifest: str | Path,
    folds: str | Path,
    cache: str | Path,
    *,
    prompts: str | Path | None = None,
    jitter: float = 0.0,
) -> Cases:
    """Read what a torch stage needs to know of a dataset.

    Args:
        prompts: Table of prompts, of a prompted model; they are moved by up to `jitter` in training.
    Raises:
        ArtifactError: If the files belong to different data.
    """
    table, metadata = read_table(manifest)
    fold_table, _ = read_table(folds)
    labels = tuple(metadata["labels"])
    case_ids = np.array(table["case_id"].to_pylist(), dtype=str)
    targets = [numeric_column(table, f"target_{name}") for name in labels]
    parts: dict[tuple[int, str], list[str]] = {}
    columns = (fold_table[name].to_pylist() for name in ("case_id", "fold", "split"))
    for case, fold, split in zip(*columns, strict=True):
        parts.setdefault((int(fold), split), []).append(case)
    strangers = {case for cases in parts.values() for case in cases} - set(case_ids.tolist())
    if strangers:
        raise ArtifactError(f"{folds} names cases that {manifest} lacks, such as {min(strangers)!r}")
    opened = open_cache(cache)
    return Cases(
        case_ids=case_ids,
        patient_ids=np.array(table["patient_id"].to_pylist(), dtype=str),
        targets=np.stack(targets, axis=1),
        sha256=np.array(table["sha256"].to_pylist(), dtype=str),
        lesions=_lesions(table),
        classes=tuple(metadata["classes"]),
        labels=labels,
        table_metadata={key: metadata[key] for key in ("outputs", "class_names") if key in metadata},
        phantom=bool(metadata.get("phantom")),
        cache=opened,
        parts=parts,
        prompts=read_prompts(prompts, opened.case_ids, jitter=jitter) if prompts else None,
    )


def _lesions(table: Any) -> dict[str, list[dict[str, Any]]]:
    pairs = zip(table["case_id"].to_pylist(), table["lesions"].to_pylist(), strict=True)
    return {case: json.loads(text) for case, text in pairs if text}

"""Predict the validation and test part of every fold with the weights that never saw them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from archbench.artifacts import Predictions
from archbench.batches import predict_logits
from archbench.cases import Cases
from archbench.checkpoints import Checkpoint
from archbench.image_cache import unit_of
from archbench.models.building import NormalizedNetwork
from archbench.models.weights import load_checkpoint


def predict_folds(
    network: NormalizedNetwork,
    checkpoints: Sequence[Checkpoint],
    cases: Cases,
    *,
    batch_size: int,
    device: torch.device,
    metadata: Mapping[str, Any],
) -> list[Predictions]:
    """Return one prediction table per checkpoint: the validation and test rows of its fold.

    Raises:
        FloatingPointError: If a prediction is not finite.
        WeightsError: If weights don't fit the network.
    """
    return [
        _predict_fold(network, checkpoint, cases, batch_size=batch_size, device=device, metadata=metadata)
        for checkpoint in checkpoints
    ]


def _predict_fold(
    network: NormalizedNetwork,
    checkpoint: Checkpoint,
    cases: Cases,
    *,
    batch_size: int,
    device: torch.device,
    metadata: Mapping[str, Any],
) -> Predictions:
    load_checkpoint(network, checkpoint.path, device)
    parts = {split: cases.part(checkpoint.fold, split) for split in ("val", "test")}
    rows = np.concatenate([part.rows for part in parts.values()])
    logits = predict_logits(network, cases.cache.images, rows, batch_size=batch_size, device=device)
    print(
        f"fold {checkpoint.fold} seed {checkpoint.seed}: {len(rows)} {unit_of(cases.cache.images)}",
        file=sys.stderr,
        flush=True,
    )
    n = len(rows)
    return Predictions(
        case_id=np.concatenate([part.case_ids for part in parts.values()]),
        patient_id=np.concatenate([part.patient_ids for part in parts.values()]),
        split=np.concatenate([np.full(len(part), split) for split, part in parts.items()]),
        fold=np.full(n, checkpoint.fold),
        seed=np.full(n, checkpoint.seed),
        logits=logits,
        targets=np.concatenate([part.targets for part in parts.values()]),
        classes=cases.classes,
        labels=cases.labels,
        metadata=dict(metadata),
    ).sorted()


def join_predictions(tables: Sequence[Predictions]) -> Predictions:
    """Return the rows of several folds and seeds as one table."""
    first = tables[0]
    columns = {
        name: np.concatenate([getattr(table, name) for table in tables])
        for name in ("case_id", "patient_id", "split", "fold", "seed", "logits", "targets")
    }
    return Predictions(**columns, classes=first.classes, labels=first.labels, metadata=first.metadata).sorted()

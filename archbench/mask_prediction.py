"""Masks of the test part of every fold by the weights that never saw it, in the pixels of the source files."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archbench.artifacts import atomic_path
from archbench.batches import predict_logits
from archbench.cases import Cases
from archbench.checkpoints import Checkpoint
from archbench.models.building import NormalizedNetwork
from archbench.models.weights import load_checkpoint
from archbench_predict.source_masks import to_source


def predict_masks(
    network: NormalizedNetwork,
    checkpoints: Sequence[Checkpoint],
    cases: Cases,
    shapes: dict[str, tuple[int, int]],
    output: Path,
    *,
    batch_size: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Write a PNG of class indices for every test case of every fold.

    Args:
        shapes: Rows and columns of each case's source picture.
        output: Folder that the files go into.
    Returns:
        case, fold, seed, file and seconds (network alone, its share of the batch) of each.
    Raises:
        FloatingPointError: If a prediction is not finite.
    """
    output.mkdir(parents=True, exist_ok=True)
    found = []
    prompts = None if cases.prompts is None else cases.prompts.values
    for checkpoint in checkpoints:
        load_checkpoint(network, checkpoint.path, device)
        part = cases.part(checkpoint.fold, "test")
        for start in range(0, len(part), batch_size):
            chosen = slice(start, start + batch_size)
            rows, names = part.rows[chosen], part.case_ids[chosen].tolist()
            begun = time.perf_counter()
            logits = predict_logits(
                network, cases.cache.images, rows, batch_size=batch_size, device=device, prompts=prompts
            )
            seconds = (time.perf_counter() - begun) / len(rows)
            for row, name, values in zip(rows.tolist(), names, logits, strict=True):
                file = f"{row:06d}-seed{checkpoint.seed}.png"
                x0, y0, x1, y1 = (int(edge) for edge in cases.cache.geometry[row])
                labels = to_source(values, box=(x0, y0, x1, y1), shape=shapes[name])
                _write(output / file, labels)
                found.append(
                    {"case": name, "fold": checkpoint.fold, "seed": checkpoint.seed, "file": file, "seconds": seconds}
                )
        print(f"fold {checkpoint.fold} seed {checkpoint.seed}: {len(part)} masks", file=sys.stderr, flush=True)
    return found


def _write(path: Path, labels: np.ndarray) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(labels).save(temporary, format="PNG")

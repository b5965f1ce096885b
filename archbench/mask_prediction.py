"""Masks of the test part of every fold by the weights that never saw it, in the pixels of the source files."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archbench.artifacts import atomic_path, softmax
from archbench.batches import predict_logits
from archbench.cases import Cases
from archbench.models.building import NormalizedNetwork
from archbench.models.weights import load_checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one fold and seed."""

    fold: int
    seed: int
    path: Path


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
                labels = to_source(values, box=cases.cache.geometry[row], shape=shapes[name])
                _write(output / file, labels)
                found.append(
                    {"case": name, "fold": checkpoint.fold, "seed": checkpoint.seed, "file": file, "seconds": seconds}
                )
        print(f"fold {checkpoint.fold} seed {checkpoint.seed}: {len(part)} masks", file=sys.stderr, flush=True)
    return found


def to_source(logits: np.ndarray, *, box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return class indices in source pixels, uint8: probabilities enlarged linearly, then the likeliest class.

    Args:
        logits: Of one cached image, shape (K, S, S).
        box: x0, y0, x1, y1 of the crop; outside it all is background.
        shape: Rows and columns of the source.
    """
    import cv2

    x0, y0, x1, y1 = (int(value) for value in box)
    scores = softmax(logits.reshape(len(logits), -1).T).reshape(*logits.shape[1:], -1).astype(np.float32)
    planes = [
        cv2.resize(scores[..., k], (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR) for k in range(len(logits))
    ]
    labels = np.zeros(shape, dtype=np.uint8)
    labels[y0:y1, x0:x1] = np.argmax(planes, axis=0)
    return labels


def _write(path: Path, labels: np.ndarray) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(labels).save(temporary, format="PNG")

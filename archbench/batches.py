"""Batches of cached images, and their logits."""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from torch import nn

from archbench.image_cache import unit_of


def to_batch(images: np.ndarray, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return cached images as uint8 pixels (B, C, H, W) on a device; volumes and features as they are.

    Args:
        images: The cache, memory-mapped: images, uint8, shape (N, H, W, C), volumes, int16 Hounsfield units, shape
            (N, D, H, W), or features, float32, shape (N, F), of slices (N, D, F).
        rows: Rows of the cache, shape (B,).
    """
    batch = torch.from_numpy(np.ascontiguousarray(images[rows]))
    batch = batch.to(device, non_blocking=True)
    return batch.permute(0, 3, 1, 2) if batch.dtype == torch.uint8 else batch


def affordable(network: nn.Module, batch_size: int) -> int:
    """Return the images per pass: fewer than asked for where the network says that they would take too much memory."""
    largest = getattr(getattr(network, "network", None), "largest_pass", None)
    return batch_size if largest is None else min(batch_size, int(largest))


def prompts_at(prompts: np.ndarray | None, rows: np.ndarray, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return what a network takes beside the images at some rows of the cache: their prompts, or nothing."""
    return () if prompts is None else (torch.from_numpy(np.ascontiguousarray(prompts[rows])).to(device),)


@torch.no_grad()
def predict_logits(
    network: nn.Module,
    images: np.ndarray,
    rows: np.ndarray,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    prompts: np.ndarray | None = None,
) -> np.ndarray:
    """Return the logits of cached images, float32, shape (B, K); the network is left in evaluation mode.

    Args:
        prompts: Of a prompted network, in the order of the cache, shape (N, L, 4) or (N, L, 2).
    """
    network.eval()
    batch_size = affordable(network, batch_size)
    parts: list[np.ndarray] = []
    start = 0
    while start < len(rows):
        try:
            chosen = rows[start : start + batch_size]
            batch = to_batch(images, chosen, device)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                parts.append(network(batch, *prompts_at(prompts, chosen, device)).float().cpu().numpy())
            start += batch_size
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size = math.ceil(batch_size / 2)
            print(f"out of memory: evaluating {batch_size} {unit_of(images)} per pass", file=sys.stderr, flush=True)
    logits = np.concatenate(parts)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise FloatingPointError(
            f"{bad} of {len(rows)} predictions are not finite: training has diverged; lower training.lr"
        )
    return logits

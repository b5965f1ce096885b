"""Batches of cached images, and their logits."""

from __future__ import annotations

import numpy as np
import torch

from archbench.models.building import NormalizedNetwork


def to_batch(images: np.ndarray, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return cached images as uint8 pixels (B, C, H, W) on a device.

    Args:
        images: The cache, uint8, shape (N, H, W, C), memory-mapped.
        rows: Rows of the cache, shape (B,).
    """
    batch = torch.from_numpy(np.ascontiguousarray(images[rows]))
    return batch.to(device, non_blocking=True).permute(0, 3, 1, 2)


@torch.no_grad()
def predict_logits(
    network: NormalizedNetwork,
    images: np.ndarray,
    rows: np.ndarray,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> np.ndarray:
    """Return the logits of cached images, float32, shape (B, K); the network is left in evaluation mode."""
    network.eval()
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = to_batch(images, rows[start : start + batch_size], device)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            parts.append(network(batch).float().cpu().numpy())
    logits = np.concatenate(parts)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise FloatingPointError(
            f"{bad} of {len(rows)} predictions are not finite: training has diverged; lower training.lr"
        )
    return logits

"""Which training cases an epoch sees, and in which batches."""

from __future__ import annotations

import math

import numpy as np


def sampling_weights(targets: np.ndarray, *, outputs: str, num_classes: int) -> np.ndarray:
    """Return the probability with which each case is drawn, so that rare targets come as often as frequent ones.

    One class per case: 1 / count of its class. Labels: the largest 1 / count among its positive labels; cases
    without any share one group. Zones: the largest 1 / count among its gradable zones.

    Args:
        targets: Of the training part, shape (N, L), NaN where unknown.
        outputs: classes, zones, labels, or masks, whose labels are the structures that are there.
    Returns:
        float64, shape (N,), sums to 1.
    """
    if outputs in ("labels", "masks"):
        positive = np.nan_to_num(targets) >= 0.5
        groups = np.concatenate([positive, ~positive.any(axis=1, keepdims=True)], axis=1)
    else:
        counted = num_classes - 1 if outputs == "zones" else num_classes
        groups = (targets[:, :, None] == np.arange(counted)).any(axis=1)
    rarity = 1 / np.maximum(groups.sum(axis=0), 1)
    weights = np.maximum((groups * rarity).max(axis=1), 1 / len(targets))
    return weights / weights.sum()


def epoch_batches(
    n: int, batch_size: int, *, generator: np.random.Generator, weights: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return shuffled positions 0..n-1 in batches of nearly equal size, so that none is left with one image.

    Args:
        weights: Probability of each position; then n positions are drawn with replacement.
    """
    order = generator.permutation(n) if weights is None else generator.choice(n, size=n, p=weights)
    return split_evenly(order, batch_size)


def split_evenly(positions: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return positions in as few batches as needed, nearly equal in size.

    Batch norm can't do with a single image; of an odd number in batches of two, one batch gets three.
    """
    count = math.ceil(len(positions) / batch_size)
    return np.array_split(positions, count if batch_size == 1 else max(1, min(count, len(positions) // 2)))

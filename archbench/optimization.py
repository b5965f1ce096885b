"""Optimizer, learning rate, batches and weight average of a training: how each step is taken."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from archbench.settings import Training


def build_optimizer(network: torch.nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Return the optimizer; weight decay is not applied to biases and norms (tensors of one dimension)."""
    named = list(network.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[settings.optimizer](groups, lr=settings.lr)


def epoch_lr(epoch: float, settings: Training, *, factor: float = 1.0) -> float:
    """Return the learning rate at the end of an epoch (1 is the first; fractions lie within).

    Args:
        factor: Product of the reductions so far (plateau).
    """
    lr, floor = settings.lr, settings.lr * settings.min_lr_ratio
    warmup = settings.warmup_epochs
    if warmup and epoch <= warmup:
        return lr * max(epoch, 0.05) / warmup
    if settings.schedule == "cosine":
        share = min(1.0, (epoch - warmup) / max(1, settings.epochs - warmup))
        return floor + (lr - floor) * 0.5 * (1 + math.cos(math.pi * share))
    if settings.schedule == "step":
        steps = int(max(0.0, math.ceil(epoch - warmup) - 1) // settings.step_epochs)
        return float(lr * settings.step_factor**steps)
    if settings.schedule == "plateau":
        return max(floor, lr * factor)
    return lr


def epoch_batches(n: int, batch_size: int, *, generator: np.random.Generator) -> list[np.ndarray]:
    """Return shuffled positions 0..n-1 in batches of nearly equal size, so that none is left with one image.

    Batch norm can't do with a single image; of an odd number in batches of two, one batch gets three.
    """
    order = generator.permutation(n)
    count = math.ceil(n / batch_size)
    return np.array_split(order, count if batch_size == 1 else max(1, min(count, n // 2)))


def average_share(step: int, horizon: float) -> float:
    """Return the share of the newest weights in the running average: all at first, then 1 / horizon (steps)."""
    return max(1 / (step + 1), 1 / max(horizon, 1.0))


@torch.no_grad()
def average_weights(averaged: torch.nn.Module, network: torch.nn.Module, *, share: float) -> None:
    """Move the running average towards the newest weights and statistics.

    Late steps of a short fine-tuning on few images are noisy; their mean is what is validated and kept.

    Source:
        Polyak and Juditsky, 1992; exponential form as in Tan and Le, EfficientNet, 2019.
    """
    for mean, newest in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(newest, share)
        else:
            mean.copy_(newest)

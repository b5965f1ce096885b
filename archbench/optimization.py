"""Optimizer, learning rate and weight average of a training: how each step is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from archbench.settings import Training

# OneCycle: where it starts and ends as a share of the peak, and how long it rises.
ONE_CYCLE_START, ONE_CYCLE_END, ONE_CYCLE_RISE = 1 / 25, 1 / 25e4, 0.1


def build_optimizer(
    stages: Sequence[tuple[str, list[torch.nn.Parameter]]], settings: Training
) -> torch.optim.Optimizer:
    """Return the optimizer; weight decay is not applied to biases and norms (tensors of one dimension).

    On a CPU it is torch's fused form, one pass over each tensor: a third of the time for small networks.

    Args:
        stages: Parameters from input to head; each stage's rate is `layer_decay` times that of the next.
    Source:
        Layer-wise decay: Clark et al., ELECTRA, 2020; Bao et al., BEiT, 2021.
    """
    groups: list[dict[str, Any]] = []
    if settings.layer_decay == 1:  # one rate: two groups step faster than two for each stage
        stages = [("all", [p for _, parameters in stages for p in parameters])]
    for depth, (_, parameters) in enumerate(reversed(stages)):
        scale = settings.layer_decay**depth
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) is decays]
            if chosen:
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": chosen, "weight_decay": decay, "lr": settings.lr * scale, "lr_scale": scale})
    fused = True if all(p.device.type == "cpu" for group in groups for p in group["params"]) else None
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=fused)
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[settings.optimizer](groups, lr=settings.lr, fused=fused)


@torch.no_grad()
def clip_gradients(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, limit: float) -> None:
    """See that the next step scales all gradients so that their norm together is at most `limit`.

    What torch.nn.utils.clip_grad_norm_ does, without its sorting of tensors by device and type at each step. A fused
    step divides by `grad_scale` while it reads the gradients, which saves a pass over them; a scaler that is at work
    sets that number itself.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        return
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if optimizer.defaults.get("fused") and not scaler.is_enabled():
        optimizer.grad_scale = ((norm + 1e-6) / limit).clamp(min=1.0)  # type: ignore[attr-defined]
    else:
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of the last stage; the others follow by their scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def epoch_lr(epoch: float, settings: Training, *, factor: float = 1.0) -> float:
    """Return the learning rate at the end of an epoch (1 is the first; fractions lie within).

    Args:
        factor: Product of the reductions so far (plateau).
    """
    lr, floor = settings.lr, settings.lr * settings.min_lr_ratio
    warmup = settings.warmup_epochs
    if warmup and epoch <= warmup:
        return lr * max(epoch, 0.05) / warmup
    share = min(1.0, (epoch - warmup) / max(1, settings.epochs - warmup))
    if settings.schedule == "cosine":
        return _cosine(lr, floor, share)
    if settings.schedule == "one_cycle":
        if share < ONE_CYCLE_RISE:
            return _cosine(lr * ONE_CYCLE_START, lr, share / ONE_CYCLE_RISE)
        return _cosine(lr, lr * ONE_CYCLE_END, (share - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE))
    if settings.schedule == "step":
        steps = int(max(0.0, math.ceil(epoch - warmup) - 1) // settings.step_epochs)
        return float(lr * settings.step_factor**steps)
    if settings.schedule == "plateau":
        return max(floor, lr * factor)
    return lr


def _cosine(start: float, end: float, share: float) -> float:
    """Return the way from start to end along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def average_share(step: int, horizon: float) -> float:
    """Return the share of the newest weights in the running average: all at first, then 1 / horizon (steps)."""
    return max(1 / (step + 1), 1 / max(horizon, 1.0))


class WeightAverage:
    """A running average of a network's weights and statistics.

    Late steps of a short fine-tuning on few images are noisy; their mean is what is validated and kept.
    The tensors are listed once, not at each step.

    Source:
        Polyak and Juditsky, 1992; exponential form as in Tan and Le, EfficientNet, 2019.
    """

    def __init__(self, averaged: torch.nn.Module, network: torch.nn.Module) -> None:
        pairs = list(zip(averaged.state_dict().values(), network.state_dict().values(), strict=True))
        self._means = [mean for mean, _ in pairs if mean.is_floating_point()]
        self._newest = [newest for mean, newest in pairs if mean.is_floating_point()]
        counters = [(mean, newest) for mean, newest in pairs if not mean.is_floating_point()]
        self._mean_counters = [mean for mean, _ in counters]
        self._newest_counters = [newest for _, newest in counters]

    @torch.no_grad()
    def update(self, share: float) -> None:
        """Move the average towards the newest weights by a share."""
        torch._foreach_lerp_(self._means, self._newest, share)
        if self._mean_counters:
            torch._foreach_copy_(self._mean_counters, self._newest_counters)

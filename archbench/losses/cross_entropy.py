"""Cross entropy, plain and with class weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.losses.loss import Loss, LossFunction
from archbench.registry import LOSSES

if TYPE_CHECKING:
    import torch


def build_cross_entropy(
    *, class_weights: torch.Tensor | None, focal_gamma: float, label_smoothing: float
) -> LossFunction:
    """Return (weighted) cross entropy; with weights, the mean is over the weights of the batch."""
    from torch.nn import functional

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits.float(), targets, weight=class_weights, label_smoothing=label_smoothing)

    return loss


LOSSES.register("cross_entropy", Loss(build=build_cross_entropy, weighted=False))
LOSSES.register("weighted_cross_entropy", Loss(build=build_cross_entropy, weighted=True))

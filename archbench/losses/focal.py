"""Focal loss for classes that exclude each other, plain and with class weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.losses.loss import Loss, LossFunction
from archbench.registry import LOSSES

if TYPE_CHECKING:
    import torch


def build_focal(*, class_weights: torch.Tensor | None, focal_gamma: float, label_smoothing: float) -> LossFunction:
    """Return the mean of alpha_t · (1 - p_t)^gamma · CE; rare classes get the larger alpha.

    Source:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equation 5, with softmax
        probabilities; label smoothing (not in the paper) applies to the cross entropy alone.
    """
    from torch.nn import functional

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        entropy = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
        p_true = logits.softmax(dim=1).gather(1, targets[:, None])[:, 0]
        values = (1 - p_true).clamp_min(0) ** focal_gamma * entropy
        if class_weights is None:
            return values.mean()
        alpha = class_weights[targets]
        return (alpha * values).sum() / alpha.sum()

    return loss


LOSSES.register("focal", Loss(build=build_focal, weighted=False))
LOSSES.register("weighted_focal", Loss(build=build_focal, weighted=True))

"""Binary cross entropy of several labels, plain and with a weight of each label's positive side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.losses.loss import Loss, LossFunction, LossNumbers, smooth_labels, unweighted
from archbench.registry import LOSSES

if TYPE_CHECKING:
    import torch


def build_bce(numbers: LossNumbers) -> LossFunction:
    """Return -(w t log p + (1 - t) log(1 - p)) with p = sigmoid(logit) and w the label's own positive weight."""
    from torch.nn import functional

    def values(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy_with_logits(
            logits,
            smooth_labels(targets, numbers.label_smoothing).to(logits),
            pos_weight=None if numbers.weights is None else numbers.weights.to(logits),
            reduction="none",
        )

    return LossFunction(values, unweighted)


LOSSES.register("bce", Loss(build=build_bce, weighted=False, outputs=("labels",)))
LOSSES.register("weighted_bce", Loss(build=build_bce, weighted=True, outputs=("labels",)))

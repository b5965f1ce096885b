"""Cross entropy, plain and with class weights, for one class per case or per zone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.losses.loss import Loss, LossFunction, LossNumbers, by_class, class_weigher, class_weights
from archbench.registry import LOSSES

if TYPE_CHECKING:
    import torch


def build_cross_entropy(numbers: LossNumbers) -> LossFunction:
    """Return (weighted) cross entropy; with weights, the mean is over the weights of the batch."""
    from torch.nn import functional

    weights = class_weights(numbers)

    def values(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits, index = by_class(logits, targets)
        return functional.cross_entropy(
            logits.transpose(1, 2),
            index,
            weight=None if weights is None else weights.to(logits),
            reduction="none",
            label_smoothing=numbers.label_smoothing,
        )

    return LossFunction(values, class_weigher(weights))


LOSSES.register("cross_entropy", Loss(build=build_cross_entropy, weighted=False))
LOSSES.register("weighted_cross_entropy", Loss(build=build_cross_entropy, weighted=True))

"""Focal loss for classes that exclude each other, plain and with class weights, and for labels that don't."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.losses.loss import (
    Loss,
    LossFunction,
    LossNumbers,
    PixelLoss,
    by_class,
    class_weigher,
    class_weights,
    smooth_labels,
    unweighted,
)
from archbench.registry import LOSSES

if TYPE_CHECKING:
    import torch


def build_focal(numbers: LossNumbers) -> LossFunction | PixelLoss:
    """Return the focal loss that fits the targets."""
    if numbers.outputs == "masks":
        return _pixel_focal(numbers)
    return _binary_focal(numbers) if numbers.outputs == "labels" else _class_focal(numbers)


def _class_focal(numbers: LossNumbers) -> LossFunction:
    """Return the mean of alpha_t · (1 - p_t)^gamma · CE; rare classes get the larger alpha.

    Source:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equation 5, with softmax
        probabilities; label smoothing (not in the paper) applies to the cross entropy alone.
    """
    from torch.nn import functional

    weigh = class_weigher(class_weights(numbers))

    def values(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits, index = by_class(logits, targets)
        entropy = functional.cross_entropy(
            logits.transpose(1, 2), index, reduction="none", label_smoothing=numbers.label_smoothing
        )
        p_true = logits.softmax(dim=-1).gather(-1, index[..., None])[..., 0]
        return weigh(targets).to(entropy) * (1 - p_true).clamp_min(0) ** numbers.focal_gamma * entropy

    return LossFunction(values, weigh)


def _binary_focal(numbers: LossNumbers) -> LossFunction:
    """Return -alpha_t · (1 - p_t)^gamma · log p_t of each label; alpha stands at the positive side.

    Source:
        Lin et al., 2017, equation 5: alpha for positives, 1 - alpha for negatives. A soft target t takes
        both sides with weights t and 1 - t.
    """
    from torch.nn import functional

    gamma = numbers.focal_gamma
    alpha, beta = (1.0, 1.0) if numbers.focal_alpha is None else (numbers.focal_alpha, 1 - numbers.focal_alpha)

    def values(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        targets = smooth_labels(targets, numbers.label_smoothing).to(logits)
        p, not_p = logits.sigmoid(), logits.neg().sigmoid()
        positive = alpha * not_p**gamma * functional.logsigmoid(logits)
        negative = beta * p**gamma * functional.logsigmoid(-logits)
        return -(targets * positive + (1 - targets) * negative)

    return LossFunction(values, unweighted)


def _pixel_focal(numbers: LossNumbers) -> PixelLoss:
    """Return the mean over the pixels of (1 - p_t)^gamma · CE.

    Source:
        Lin et al., 2017, equation 5 without alpha, with softmax probabilities.
    """
    from torch.nn import functional

    def values(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        entropy = functional.cross_entropy(logits, masks, reduction="none", label_smoothing=numbers.label_smoothing)
        p_true = logits.softmax(dim=1).gather(1, masks[:, None])[:, 0]
        return ((1 - p_true).clamp_min(0) ** numbers.focal_gamma * entropy).mean(dim=(1, 2))

    return PixelLoss(values)


NUMBERS = ("label_smoothing", "focal_gamma", "focal_alpha")
LOSSES.register(
    "focal", Loss(build=build_focal, weighted=False, outputs=("classes", "zones", "labels", "masks"), numbers=NUMBERS)
)
LOSSES.register("weighted_focal", Loss(build=build_focal, weighted=True, numbers=NUMBERS))

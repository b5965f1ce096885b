"""Asymmetric loss: the many easy negatives of rare labels count little."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.losses.loss import Loss, LossFunction, LossNumbers, smooth_labels, unweighted
from archbench.registry import LOSSES

if TYPE_CHECKING:
    import torch


def build_asymmetric(numbers: LossNumbers) -> LossFunction:
    """Return -(t (1 - p)^g+ log p + (1 - t) p_m^g- log(1 - p_m)) with p_m = max(p - clip, 0).

    The paper sums over labels and cases, which makes the step grow with the batch; here it is a mean.

    Source:
        Ridnik et al., Asymmetric Loss For Multi-Label Classification, ICCV 2021, equations 4 to 7.
    """
    from torch.nn import functional

    clip = numbers.asl_clip

    def values(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        targets = smooth_labels(targets, numbers.label_smoothing).to(logits)
        p, not_p = logits.sigmoid(), logits.neg().sigmoid()  # 1 - p would round to 0 for large logits
        positive = not_p**numbers.asl_gamma_positive * functional.logsigmoid(logits)
        log_not = (not_p + clip).clamp_max(1).log() if clip else functional.logsigmoid(-logits)
        negative = (p - clip).clamp_min(0) ** numbers.asl_gamma_negative * log_not
        return -(targets * positive + (1 - targets) * negative)

    return LossFunction(values, unweighted)


LOSSES.register(
    "asl",
    Loss(
        build=build_asymmetric,
        weighted=False,
        outputs=("labels",),
        numbers=("label_smoothing", "asl.gamma_negative", "asl.gamma_positive", "asl.clip"),
    ),
)

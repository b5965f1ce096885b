"""Losses of masks that count overlap: Dice with cross entropy, and Tversky."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.losses.loss import Loss, LossNumbers, PixelLoss
from archbench.registry import LOSSES

if TYPE_CHECKING:
    import torch


def build_dice_ce(numbers: LossNumbers) -> PixelLoss:
    """Return the sum of cross entropy over the pixels and of soft Dice over the structures, image by image.

    Source:
        Isensee et al., nnU-Net, 2021; MONAI's DiceLoss, without the background. Dice counts the structures that are in
        an image: of others it is 1 whatever is predicted, and cross entropy says that nothing should be.
    """
    import torch
    from monai.losses import DiceLoss
    from torch.nn import functional

    dice = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, reduction="none")

    def values(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        entropy = functional.cross_entropy(logits, masks, reduction="none", label_smoothing=numbers.label_smoothing)
        overlap: torch.Tensor = dice(logits, masks[:, None]).flatten(1)
        there = torch.stack([(masks == k).any(dim=2).any(dim=1) for k in range(1, logits.shape[1])], dim=1)
        return entropy.mean(dim=(1, 2)) + (overlap * there).sum(dim=1) / there.sum(dim=1).clamp_min(1)

    return PixelLoss(values)


def build_tversky(numbers: LossNumbers) -> PixelLoss:
    """Return the Tversky loss, which weighs misses and false positives apart, image by image.

    Source:
        Salehi et al., 2017, equation 4, alpha at the false positives; MONAI's TverskyLoss, without the background. One
        pixel is added above and below, so that of a structure that isn't there what is predicted costs something.
    """
    from monai.losses import TverskyLoss

    alpha = numbers.tversky_alpha
    tversky = TverskyLoss(
        include_background=False,
        softmax=True,
        to_onehot_y=True,
        alpha=alpha,
        beta=1 - alpha,
        reduction="none",
        smooth_nr=1.0,
        smooth_dr=1.0,
    )

    def values(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        lost: torch.Tensor = tversky(logits, masks[:, None])
        return lost.flatten(1).mean(dim=1)

    return PixelLoss(values)


LOSSES.register("dice_ce", Loss(build=build_dice_ce, weighted=False, outputs=("masks",)))
LOSSES.register("tversky", Loss(build=build_tversky, weighted=False, outputs=("masks",), numbers=("tversky_alpha",)))

"""MixUp and CutMix: pairs of images in one, and the loss of both targets by their shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Mix:
    """How the images of a batch are paired.

    Attributes:
        partner: Position of each image's partner, shape (B,).
        share: Share of the image itself, shape (B,), float32.
        boxes: Rectangle taken from the partner, top, left, bottom, right in pixels, shape (B, 4); None: blend.
    """

    partner: torch.Tensor
    share: torch.Tensor
    boxes: torch.Tensor | None

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mixed images, shape (B, C, H, W)."""
        others = images[self.partner.to(images.device)]
        if self.boxes is None:
            share = self.share.to(images.device).view(-1, 1, 1, 1)
            return share * images + (1 - share) * others
        top, left, bottom, right = self.boxes.to(images.device).T[:, :, None]
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
        return torch.where(inside[:, None], others, images)

    def blend(self, function: Callable[[torch.Tensor], torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        """Return share · f(own targets) + (1 - share) · f(the partner's), for cell values and for weights.

        Two losses are summed instead of mixing the targets, so that masks and class weights stay right.
        """
        share = self.share.to(targets.device)[:, None]
        return share * function(targets) + (1 - share) * function(targets[self.partner.to(targets.device)])


def draw_mix(n: int, *, mixup: float, cutmix: float, size: int, generator: np.random.Generator) -> Mix | None:
    """Return how a batch of n images is mixed, None if neither is asked for.

    Args:
        mixup, cutmix: Parameter a of Beta(a, a); 0 is off; if both are on, each batch gets one of them.
        size: Side of the images, pixels.
    Source:
        Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019. Shares are drawn per image.
    """
    if not mixup and not cutmix:
        return None
    cut = bool(cutmix) and (not mixup or generator.random() < 0.5)
    alpha = cutmix if cut else mixup
    share = generator.beta(alpha, alpha, size=n)
    partner = torch.from_numpy(generator.permutation(n))
    if not cut:
        return Mix(partner, torch.from_numpy(share).float(), None)
    half = np.sqrt(1 - share)[:, None] * size / 2
    centre = generator.uniform(0, size, size=(n, 2))
    corners = np.concatenate([centre - half, centre + half], axis=1).round().clip(0, size).astype(np.int64)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return Mix(partner, torch.from_numpy(1 - area / size**2).float(), torch.from_numpy(corners))


def blend(mix: Mix | None, function: Callable[[torch.Tensor], torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """Return a function of the targets, mixed or plain."""
    return function(targets) if mix is None else mix.blend(function, targets)

"""A backbone of feature maps with a decoder: logits of every pixel (torch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

WIDTH = 64
HEAD_STD = 0.01


class SegmentationNetwork(nn.Module):
    """Backbone and head; the head's logits are enlarged to the size of the input."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K, H, W) of normalised images (B, C, H, W)."""
        logits: torch.Tensor = self.head(_maps(self.backbone(images)))
        if logits.shape[-2:] == images.shape[-2:]:
            return logits
        return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def _maps(output: Any) -> Any:
    """What a head reads: one map, a list of maps, or a transformers encoder's maps of all stages."""
    return getattr(output, "hidden_states", output)


def pixel_head(features: int, num_classes: int) -> nn.Conv2d:
    """Return a 1 x 1 convolution with small weights: training starts from nearly equal probabilities."""
    head = nn.Conv2d(features, num_classes, kernel_size=1)
    nn.init.normal_(head.weight, std=HEAD_STD)
    nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    return head


class LightDecoder(nn.Module):
    """Maps of all stages brought to one width and to the size of the largest, added, and read pixel by pixel.

    Source:
        Kirillov et al., Panoptic Feature Pyramid Networks, 2019, without its upsampling stages.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, *, channels_last: bool) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.narrow = nn.ModuleList([nn.Conv2d(width, WIDTH, kernel_size=1) for width in channels])
        self.mix = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(WIDTH))
        self.classifier = pixel_head(WIDTH, num_classes)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return logits (B, K, h, w) at the size of the first map."""
        found = [m.permute(0, 3, 1, 2) if self.channels_last else m for m in maps]
        total = self.narrow[0](found[0])
        for layer, values in zip(list(self.narrow)[1:], found[1:], strict=True):
            total = total + functional.interpolate(
                layer(values), size=total.shape[-2:], mode="bilinear", align_corners=False
            )
        logits: torch.Tensor = self.classifier(functional.relu(self.mix(total)))
        return logits

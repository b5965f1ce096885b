"""U-Net for segmentation (MONAI's, with residual units)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.models.architecture import HALF_MEAN_STD, Architecture, Preset
from archbench.registry import ARCHITECTURES

if TYPE_CHECKING:
    import torch

CHANNELS = (16, 32, 64, 128, 256)
UNITS = 2


def build_unet(*, num_classes: int, image_size: int, drop_path: float = 0.0, in_channels: int = 3) -> torch.nn.Module:
    """Return a U-Net of five resolutions whose features go through a 1 x 1 convolution, logits (B, K, H, W)."""
    from monai.networks.nets import UNet

    from archbench.models.segmentation_network import SegmentationNetwork, pixel_head

    if drop_path:
        raise ValueError("unet has no residual branches that training.drop_path could drop")
    body = UNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=CHANNELS[0],
        channels=CHANNELS,
        strides=(2,) * (len(CHANNELS) - 1),
        num_res_units=UNITS,
        norm="batch",
    )
    return SegmentationNetwork(body, pixel_head(CHANNELS[0], num_classes))


ARCHITECTURES.register(
    "unet",
    Architecture(
        build=build_unet,
        family="segmentation",
        image_size=256,
        mean_std=HALF_MEAN_STD,
        head="head",
        cam_layer="backbone",
        paper="Ronneberger et al., 2015; Kerfoot et al., 2018 (residual units)",
        preset=Preset(lr=1e-3, batch_size=16),
        patch=16,
        drop_path=False,
        masks=True,
    ),
)

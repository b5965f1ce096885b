"""`custom1`: a plain five-layer CNN of about one million parameters, the baseline to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.models.architecture import HALF_MEAN_STD, Architecture, Preset
from archbench.registry import ARCHITECTURES

if TYPE_CHECKING:
    import torch

CHANNELS = (32, 64, 128, 192, 320)


def build_custom1(
    *, num_classes: int, image_size: int, drop_path: float = 0.0, in_channels: int = 3
) -> torch.nn.Module:
    """Return five blocks of convolution, batch norm, ReLU and pooling, then a linear head."""
    from torch import nn

    if drop_path:
        raise ValueError("custom1 has no residual branches that training.drop_path could drop")

    def block(c_in: int, c_out: int) -> nn.Sequential:
        convolution = nn.Conv2d(c_in, c_out, kernel_size=3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(c_out), nn.ReLU(), nn.MaxPool2d(2))

    widths = (in_channels, *CHANNELS)
    network = nn.Sequential()
    network.add_module("features", nn.Sequential(*[block(a, b) for a, b in zip(widths, CHANNELS, strict=False)]))
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("head", nn.Linear(CHANNELS[-1], num_classes))
    network.num_features = CHANNELS[-1]  # type: ignore[assignment]
    return network


ARCHITECTURES.register(
    "custom1",
    Architecture(
        build=build_custom1,
        family="custom",
        image_size=224,
        mean_std=HALF_MEAN_STD,
        head="head",
        cam_layer="features.-1",
        finer_cam_layers=(("features.3", 16), ("features.2", 8)),
        paper="none; the baseline of this product",
        preset=Preset(lr=1e-2, batch_size=64, epochs=20),
        drop_path=False,
    ),
)

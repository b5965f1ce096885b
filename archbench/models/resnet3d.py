"""Three-dimensional ResNets for small volumes, as in torchvision's video models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from archbench.models.architecture import Architecture, Builder, Preset
from archbench.registry import ARCHITECTURES

if TYPE_CHECKING:
    import torch

KINETICS_MEAN_STD = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
STEM_KERNEL, STEM_STRIDE, STEM_PADDING = (3, 7, 7), (1, 2, 2), (1, 3, 3)


def _builder(layers: Sequence[int], *, mixed: bool) -> Builder:
    """Return a builder.

    Args:
        layers: Blocks of each stage.
        mixed: Convolve over slices in the first stage alone.
    """

    def build(*, num_classes: int, image_size: int, drop_path: float = 0.0, in_channels: int = 3) -> torch.nn.Module:
        from torch import nn
        from torchvision.models.video import resnet

        if drop_path:
            raise ValueError("torchvision's video networks have no residual branches that training.drop_path drops")
        later = resnet.Conv3DNoTemporal if mixed else resnet.Conv3DSimple
        network: nn.Module = resnet.VideoResNet(
            resnet.BasicBlock,
            [resnet.Conv3DSimple, later, later, later],
            list(layers),
            resnet.BasicStem,
            num_classes=num_classes,
        )
        if in_channels != 3:
            first = nn.Conv3d(in_channels, 64, STEM_KERNEL, STEM_STRIDE, STEM_PADDING, bias=False)
            nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
            network.get_submodule("stem")[0] = first  # type: ignore[index, operator]
        return network

    return build


def _resnet3d(layers: Sequence[int], *, mixed: bool = False) -> Architecture:
    return Architecture(
        build=_builder(layers, mixed=mixed),
        family="ResNet 3D",
        image_size=112,
        mean_std=KINETICS_MEAN_STD,
        head="fc",
        cam_layer="layer4.-1",
        finer_cam_layers=(("layer4.-1", 16), ("layer3.-1", 8), ("layer2.-1", 4)),
        paper="Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018",
        preset=Preset(lr=1e-3, batch_size=8),
        attention=False,
        drop_path=False,
        dimensions=3,
    )


ARCHITECTURES.register("r3d_10", _resnet3d([1, 1, 1, 1]))
ARCHITECTURES.register("r3d_18", _resnet3d([2, 2, 2, 2]))
ARCHITECTURES.register("mc3_18", _resnet3d([2, 2, 2, 2], mixed=True))

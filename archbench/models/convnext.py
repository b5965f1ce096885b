"""ConvNeXt (Liu et al., 2022), as in timm."""

from __future__ import annotations

from archbench.models.architecture import IMAGENET_MEAN_STD, Architecture, Preset, WeightSource, timm_builder
from archbench.registry import ARCHITECTURES


def _convnext(name: str) -> Architecture:
    return Architecture(
        build=timm_builder(name),
        family="ConvNeXt",
        image_size=224,
        mean_std=IMAGENET_MEAN_STD,
        head="head.fc",
        cam_layer="stages.3",
        finer_cam_layers=(("stages.2", 16), ("stages.1", 8)),
        paper="Liu et al., A ConvNet for the 2020s, CVPR 2022",
        preset=Preset(lr=1e-4, batch_size=16, optimizer="adamw"),
        weights={"imagenet": WeightSource(location=f"{name}.fb_in1k", licence="Apache-2.0")},
    )


ARCHITECTURES.register("convnext_tiny", _convnext("convnext_tiny"))
ARCHITECTURES.register("convnext_small", _convnext("convnext_small"))
ARCHITECTURES.register("convnext_base", _convnext("convnext_base"))
ARCHITECTURES.register("convnext_large", _convnext("convnext_large"))

"""ResNet (He et al., 2016), as in timm."""

from __future__ import annotations

from archbench.models.architecture import IMAGENET_MEAN_STD, Architecture, Preset, WeightSource, timm_builder
from archbench.registry import ARCHITECTURES


def _resnet(name: str, *, tag: str) -> Architecture:
    return Architecture(
        build=timm_builder(name),
        family="ResNet",
        image_size=224,
        mean_std=IMAGENET_MEAN_STD,
        head="fc",
        cam_layer="layer4.-1",
        finer_cam_layers=(("layer3.-1", 16), ("layer2.-1", 8)),
        paper="He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
        preset=Preset(lr=1e-3, batch_size=32),
        weights={"imagenet": WeightSource(location=f"{name}.{tag}", licence="Apache-2.0")},
    )


ARCHITECTURES.register("resnet18", _resnet("resnet18", tag="a1_in1k"))
ARCHITECTURES.register("resnet34", _resnet("resnet34", tag="a1_in1k"))
ARCHITECTURES.register("resnet50", _resnet("resnet50", tag="a1_in1k"))
ARCHITECTURES.register("resnet101", _resnet("resnet101", tag="a1_in1k"))
ARCHITECTURES.register("resnet152", _resnet("resnet152", tag="a1_in1k"))

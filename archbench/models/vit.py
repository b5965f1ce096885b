"""Vision Transformer (Dosovitskiy et al., 2021), as in timm, built for the very size it is given."""

from __future__ import annotations

from archbench.models.architecture import HALF_MEAN_STD, Architecture, WeightSource, timm_builder
from archbench.registry import ARCHITECTURES

PAPER = "Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021"

ARCHITECTURES.register(
    "vit_tiny_patch16_224",
    Architecture(
        build=timm_builder("vit_tiny_patch16_224", sized=True),
        image_size=224,
        mean_std=HALF_MEAN_STD,
        head="head",
        cam_layer="blocks.-1.norm1",
        paper=PAPER,
        tokens=True,
        patch=16,
        weights={"imagenet": WeightSource(location="augreg_in21k_ft_in1k", licence="Apache-2.0")},
    ),
)

ARCHITECTURES.register(
    "vit_base_patch16_224",
    Architecture(
        build=timm_builder("vit_base_patch16_224", sized=True),
        image_size=224,
        mean_std=HALF_MEAN_STD,
        head="head",
        cam_layer="blocks.-1.norm1",
        paper=PAPER,
        tokens=True,
        patch=16,
        weights={"imagenet": WeightSource(location="augreg_in1k", licence="Apache-2.0")},
    ),
)

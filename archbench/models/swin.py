"""Swin (Liu et al., 2021) and Swin V2 (Liu et al., 2022), as in timm, built for the very size they are given."""

from __future__ import annotations

from archbench.models.architecture import IMAGENET_MEAN_STD, Architecture, Preset, WeightSource, timm_builder
from archbench.registry import ARCHITECTURES

PAPER = "Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, ICCV 2021"
PAPER_V2 = "Liu et al., Swin Transformer V2: Scaling Up Capacity and Resolution, CVPR 2022"


def _swin(name: str, *, size: int, tag: str, paper: str = PAPER, family: str = "Swin") -> Architecture:
    return Architecture(
        build=timm_builder(name, sized=True),
        family=family,
        image_size=size,
        mean_std=IMAGENET_MEAN_STD,
        head="head.fc",
        cam_layer="layers.3",
        finer_cam_layers=(("layers.2", 16), ("layers.1", 8)),
        paper=paper,
        preset=Preset(lr=1e-4, batch_size=16, optimizer="adamw"),
        patch=32,  # patches of 4 px, merged three times by two
        min_size=64,
        weights={"imagenet": WeightSource(location=f"{name}.{tag}", licence="MIT")},
    )


ARCHITECTURES.register("swin_tiny_patch4_window7_224", _swin("swin_tiny_patch4_window7_224", size=224, tag="ms_in1k"))
ARCHITECTURES.register("swin_small_patch4_window7_224", _swin("swin_small_patch4_window7_224", size=224, tag="ms_in1k"))
ARCHITECTURES.register("swin_base_patch4_window7_224", _swin("swin_base_patch4_window7_224", size=224, tag="ms_in1k"))
ARCHITECTURES.register(
    "swinv2_tiny_window8_256",
    _swin("swinv2_tiny_window8_256", size=256, tag="ms_in1k", paper=PAPER_V2, family="Swin V2"),
)
ARCHITECTURES.register(
    "swinv2_small_window8_256",
    _swin("swinv2_small_window8_256", size=256, tag="ms_in1k", paper=PAPER_V2, family="Swin V2"),
)
ARCHITECTURES.register(
    "swinv2-base-patch4-window12-192",
    _swin("swinv2_base_window12_192", size=192, tag="ms_in22k", paper=PAPER_V2, family="Swin V2"),
)

"""Vision Transformer (Dosovitskiy et al., 2021), as in timm, built for the very size it is given.

BiomedCLIP's image tower is one of them, in the layout of timm (open_clip holds it as `visual.trunk`).
"""

from __future__ import annotations

from archbench.models.architecture import HALF_MEAN_STD, Architecture, MeanStd, Preset, WeightSource, timm_builder
from archbench.registry import ARCHITECTURES

PAPER = "Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021"
BIOMEDCLIP_PAPER = "Zhang et al., BiomedCLIP, arXiv:2303.00915, 2023; " + PAPER
BIOMEDCLIP_HUB = WeightSource(
    location="open_clip_pytorch_model.bin",
    licence="MIT",
    repository="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
)
# Of the tower's preprocessing in open_clip_config.json of that repository.
CLIP_MEAN_STD: MeanStd = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def _vit(
    name: str, *, weights: dict[str, WeightSource], paper: str = PAPER, mean_std: MeanStd = HALF_MEAN_STD
) -> Architecture:
    return Architecture(
        build=timm_builder(name, sized=True),
        family="ViT",
        image_size=224,
        mean_std=mean_std,
        head="head",
        cam_layer="blocks.-1.norm1",
        paper=paper,
        preset=Preset(lr=1e-4, batch_size=16),
        patch=16,
        attention=False,
        weights=weights,
    )


def _imagenet(model: str) -> dict[str, WeightSource]:
    return {"imagenet": WeightSource(location=model, licence="Apache-2.0")}


ARCHITECTURES.register(
    "vit_tiny_patch16_224", _vit("vit_tiny_patch16_224", weights=_imagenet("vit_tiny_patch16_224.augreg_in21k_ft_in1k"))
)
ARCHITECTURES.register(
    "vit_small_patch16_224",
    _vit("vit_small_patch16_224", weights=_imagenet("vit_small_patch16_224.augreg_in21k_ft_in1k")),
)
ARCHITECTURES.register(
    "vit_base_patch16_224", _vit("vit_base_patch16_224", weights=_imagenet("vit_base_patch16_224.augreg_in1k"))
)
ARCHITECTURES.register(
    "vit_large_patch16_224",
    _vit("vit_large_patch16_224", weights=_imagenet("vit_large_patch16_224.augreg_in21k_ft_in1k")),
)
ARCHITECTURES.register(
    "biomedclip",
    _vit("vit_base_patch16_224", weights={"hub": BIOMEDCLIP_HUB}, paper=BIOMEDCLIP_PAPER, mean_std=CLIP_MEAN_STD),
)

"""SegFormer for segmentation (transformers), in the size of nvidia/mit-b0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.models.architecture import IMAGENET_MEAN_STD, Architecture, Preset, WeightSource
from archbench.registry import ARCHITECTURES

if TYPE_CHECKING:
    import torch


def build_segformer_b0(
    *, num_classes: int, image_size: int, drop_path: float = 0.0, in_channels: int = 3
) -> torch.nn.Module:
    """Return a Mix Transformer B0 with SegFormer's decoder, logits (B, K, H, W)."""
    from transformers import SegformerConfig, SegformerModel
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

    from archbench.models.segmentation_network import SegmentationNetwork

    config = SegformerConfig(num_channels=in_channels, drop_path_rate=drop_path)
    config.num_labels = num_classes
    config.output_hidden_states = True
    return SegmentationNetwork(SegformerModel(config), SegformerDecodeHead(config))  # type: ignore[no-untyped-call]


ARCHITECTURES.register(
    "segformer_b0",
    Architecture(
        build=build_segformer_b0,
        family="segmentation",
        image_size=256,
        mean_std=IMAGENET_MEAN_STD,
        head="head",
        cam_layer="backbone",
        paper="Xie et al., SegFormer, 2021",
        preset=Preset(lr=6e-5, batch_size=16),
        patch=32,
        weights={"hub": WeightSource(location="", licence="NVIDIA Source Code License", repository="nvidia/mit-b0")},
        requires=("transformers", "huggingface"),
        masks=True,
    ),
)

"""SAM, Segment Anything: a mask for each prompt, as `sam:<repository or folder>` (transformers' SamModel)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from archbench import hub
from archbench.models.architecture import IMAGENET_MEAN_STD, Architecture, Builder, Preset, WeightSource
from archbench.registry import ARCHITECTURES, UnknownName

if TYPE_CHECKING:
    import torch

PREFIX = "sam:"
PAPER = "Kirillov et al., Segment Anything, ICCV 2023"
LICENCE = "Apache-2.0 (others: see their card)"
PATCH, IMAGE_SIZE = 16, 1024


def _encoder(hidden_size: int, layers: int, heads: int, whole: list[int]) -> dict[str, Any]:
    """What the config.json of a published SAM says of its image encoder; `whole` are the layers without windows."""
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"vision_config": {**sizes, "mlp_dim": 4 * hidden_size, "global_attn_indexes": whole}}


# So that the published ones can be built without a network; prompt encoder and decoder are the same in all.
PUBLISHED = {
    "facebook/sam-vit-base": _encoder(768, 12, 12, [2, 5, 8, 11]),
    "facebook/sam-vit-large": _encoder(1024, 24, 16, [5, 11, 17, 23]),
    "facebook/sam-vit-huge": _encoder(1280, 32, 16, [7, 15, 23, 31]),
}


def sam_architecture(name: str) -> Architecture:
    """Return the architecture `sam:<id>`, of other repositories from their config.json.

    Images are squeezed to a square, where SAM's own processor pads them.

    Raises:
        UnknownName: If the repository's config.json can't be had, or describes no SAM.
    """
    repository = name.removeprefix(PREFIX)
    config = PUBLISHED.get(repository)
    try:
        config = hub.read_config(repository) if config is None else config
    except (hub.HubError, ValueError) as error:
        raise UnknownName(f"{name}: {error}") from None
    if "vision_config" not in config or config.get("model_type", "sam") != "sam":
        raise UnknownName(
            f"{name}: its config.json is none of SAM (model_type {config.get('model_type', 'missing')}); "
            f"published ones are {', '.join(PREFIX + known for known in PUBLISHED)}"
        )
    return Architecture(
        build=_builder(config),
        family="segmentation",
        image_size=int(config["vision_config"].get("image_size", IMAGE_SIZE)),
        mean_std=IMAGENET_MEAN_STD,
        head="mask_decoder",
        cam_layer="vision_encoder",
        paper=PAPER,
        preset=Preset(lr=1e-4, batch_size=4, optimizer="adamw"),
        patch=int(config["vision_config"].get("patch_size", PATCH)),
        drop_path=False,
        weights={"hub": WeightSource(location="", licence=LICENCE, repository=repository)},
        renames=((r"^shared_image_embedding\.", "prompt_encoder.shared_embedding."),),
        requires=("transformers", "huggingface"),
        masks=True,
        prompted=True,
    )


def _builder(config: dict[str, Any]) -> Builder:
    def build(*, num_classes: int, image_size: int, drop_path: float = 0.0, in_channels: int = 3) -> torch.nn.Module:
        from archbench.models.sam_network import build_sam

        if drop_path:
            raise ValueError("SAM is built without residual branches that training.drop_path could drop")
        return build_sam(config, num_classes=num_classes, image_size=image_size, in_channels=in_channels)

    return build


ARCHITECTURES.register_open("sam:", sam_architecture)

"""Vision backbones of Hugging Face: RAD-DINO by name, any other as `hf:<repository or folder>`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from archbench import hub
from archbench.models.architecture import AUTO, IMAGENET_MEAN_STD, Architecture, Builder, MeanStd, Preset, WeightSource
from archbench.registry import ARCHITECTURES, UnknownName

if TYPE_CHECKING:
    import torch

PREFIX = "hf:"
TRANSFORMERS = ("transformers", "huggingface")
RADDINO = "microsoft/rad-dino"
RADDINO_PAPER = "Pérez-García et al., RAD-DINO: Exploring Scalable Medical Image Encoders, arXiv:2401.10815, 2024"
# What its config.json and its processor say, so that the network can be built without a network.
RADDINO_CONFIG: dict[str, Any] = {
    "model_type": "dinov2",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0,
    "image_size": 518,
    "patch_size": 14,
}
RADDINO_MEAN_STD: MeanStd = ((0.5307, 0.5307, 0.5307), (0.2583, 0.2583, 0.2583))


def transformers_builder(config: dict[str, Any]) -> Builder:
    """Return a builder of a transformers backbone with random weights and a linear head."""

    def build(*, num_classes: int, image_size: int, drop_path: float = 0.0, in_channels: int = 3) -> torch.nn.Module:
        from archbench.models.transformers_network import build_backbone

        return build_backbone(
            config,
            num_classes=num_classes,
            image_size=image_size,
            drop_path=drop_path,
            in_channels=in_channels,
        )

    return build


def hub_architecture(name: str) -> Architecture:
    """Return the architecture `hf:<id>` from the repository's config.json and processor.

    Raises:
        UnknownName: If the repository's config.json can't be had, or describes no image model.
    """
    repository = name.removeprefix(PREFIX)
    try:
        config = hub.read_config(repository)
    except (hub.HubError, ValueError) as error:
        raise UnknownName(f"{name}: {error}") from None
    if "model_type" not in config or "num_channels" not in config:
        raise UnknownName(f"{name}: its config.json has no model_type and num_channels: it is no vision backbone")
    processor = hub.read_processor(repository)
    mean, std = processor.get("image_mean"), processor.get("image_std")
    patch = _patch(config)
    return Architecture(
        build=transformers_builder(config),
        family="Hugging Face",
        image_size=_image_size(config, processor),
        mean_std=(tuple(mean), tuple(std)) if mean and std else IMAGENET_MEAN_STD,
        head="head",
        cam_layer=AUTO,
        paper=f"see https://huggingface.co/{repository}",
        preset=Preset(lr=1e-4, batch_size=16, optimizer="adamw"),
        patch=patch,
        min_size=2 * patch if patch else 32,
        attention=False,
        drop_path="drop_path_rate" in config,
        weights={"hub": WeightSource(location="", licence="see its model card", repository=repository)},
        requires=TRANSFORMERS,
    )


def _image_size(config: dict[str, Any], processor: dict[str, Any]) -> int:
    for place in (config.get("image_size"), processor.get("crop_size"), processor.get("size")):
        value = place
        if isinstance(place, dict):
            value = place.get("height") or place.get("shortest_edge")
        if isinstance(place, list):
            value = place[0]
        if isinstance(value, int):
            return value
    return 224


def _patch(config: dict[str, Any]) -> int | None:
    """Return what the input must be a multiple of: the patch, times two for each merging of a pyramid."""
    patch = config.get("patch_size")
    if not isinstance(patch, int):
        return None
    merged = config.get("depths")
    return patch * 2 ** (len(merged) - 1) if isinstance(merged, list) else patch


ARCHITECTURES.register(
    "raddino",
    Architecture(
        build=transformers_builder(RADDINO_CONFIG),
        family="RAD-DINO",
        image_size=518,
        mean_std=RADDINO_MEAN_STD,
        head="head",
        cam_layer=AUTO,
        paper=RADDINO_PAPER,
        preset=Preset(lr=1e-5, batch_size=16, optimizer="adamw", epochs=50, patience=15),
        patch=14,
        min_size=28,
        attention=False,
        weights={"hub": WeightSource(location="", licence="MIT", repository=RADDINO)},
        requires=TRANSFORMERS,
    ),
)
ARCHITECTURES.register_open("hf:", hub_architecture)

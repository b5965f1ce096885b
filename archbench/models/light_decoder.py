"""Any backbone as the encoder of a segmentation network with a light decoder.

`decoder:<timm name>`, `decoder:biomedclip` (its image tower), or `decoder:hf:<repository or folder>` of Hugging Face.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from archbench import hub
from archbench.models.architecture import Architecture, Builder, Preset
from archbench.models.huggingface import PREFIX as HUB_PREFIX
from archbench.models.huggingface import hub_architecture
from archbench.models.timm_any import known_models, timm_architecture
from archbench.registry import ARCHITECTURES

if TYPE_CHECKING:
    import torch

PREFIX = "decoder:"
STRIDE = 32
RENAMES = ((r"^(?!backbone\.|head\.)", "backbone."),)
TOWERS = {"biomedclip": "vit_base_patch16_224"}  # registered here under a name of their own, and timm's name


def decoder_architecture(name: str) -> Architecture:
    """Return the architecture `decoder:<name>`, of timm also `decoder:<name>.<tag>` for the weights of a tag.

    Raises:
        UnknownName: If there is no such model, with the nearest names, or its config.json can't be had.
    """
    whole = name.removeprefix(PREFIX)
    if whole.startswith(HUB_PREFIX):
        return _of_hub(whole)
    tower = TOWERS.get(whole)
    encoder = ARCHITECTURES.get(whole) if tower else timm_architecture(f"timm:{whole}")
    model = tower or whole.partition(".")[0]
    facts = known_models()[model]
    return replace(
        encoder,
        build=_builder(model, native=facts["size"], sized=facts["fixed"]),
        family="segmentation",
        head="head",
        cam_layer="backbone",
        preset=Preset(lr=3e-4, batch_size=16),
        patch=STRIDE,
        finer_cam_layers=(),
        attention=True,
        renames=RENAMES,
        masks=True,
    )


def _of_hub(name: str) -> Architecture:
    """Return a backbone of Hugging Face with the decoder."""
    encoder = hub_architecture(name)
    config = hub.read_config(name.removeprefix(HUB_PREFIX))

    def build(*, num_classes: int, image_size: int, drop_path: float = 0.0, in_channels: int = 3) -> torch.nn.Module:
        from archbench.models.hub_encoder import build_encoder
        from archbench.models.segmentation_network import LightDecoder, SegmentationNetwork

        encoder = build_encoder(config, image_size=image_size, drop_path=drop_path, in_channels=in_channels)
        return SegmentationNetwork(encoder, LightDecoder(encoder.widths, num_classes, channels_last=False))

    return replace(
        encoder,
        build=build,
        family="segmentation",
        cam_layer="backbone",
        preset=Preset(lr=3e-4, batch_size=16),
        renames=RENAMES,
        masks=True,
    )


def _builder(model: str, *, native: int, sized: bool) -> Builder:
    def build(*, num_classes: int, image_size: int, drop_path: float = 0.0, in_channels: int = 3) -> torch.nn.Module:
        import timm

        from archbench.models.segmentation_network import LightDecoder, SegmentationNetwork

        settings: dict[str, Any] = {"in_chans": in_channels, "features_only": True}
        settings |= {"drop_path_rate": drop_path} if drop_path else {}
        settings |= {"img_size": image_size} if sized and image_size != native else {}
        try:
            encoder: Any = timm.create_model(model, pretrained=False, **settings)
        except (TypeError, AssertionError, RuntimeError) as error:
            raise ValueError(
                f"decoder:{model} can't be built with {image_size} px, drop_path {drop_path:g} and {in_channels} "
                f"channels ({error})"
            ) from error
        last = getattr(encoder, "output_fmt", None)
        channels_last = str(getattr(last, "value", last)) == "NHWC"
        return SegmentationNetwork(
            encoder, LightDecoder(encoder.feature_info.channels(), num_classes, channels_last=channels_last)
        )

    return build


ARCHITECTURES.register_open("decoder:", decoder_architecture)

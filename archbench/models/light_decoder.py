"""Any backbone of timm as the encoder of a segmentation network with a light decoder: `decoder:<timm name>`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from archbench.models.architecture import Architecture, Builder, Preset
from archbench.models.timm_any import known_models, timm_architecture
from archbench.registry import ARCHITECTURES

if TYPE_CHECKING:
    import torch

PREFIX = "decoder:"
STRIDE = 32


def decoder_architecture(name: str) -> Architecture:
    """Return the architecture `decoder:<timm name>`, or `decoder:<timm name>.<tag>` for the weights of a tag.

    Raises:
        UnknownName: If timm has no such model, with the nearest names.
    """
    whole = name.removeprefix(PREFIX)
    encoder = timm_architecture(f"timm:{whole}")
    model = whole.partition(".")[0]
    facts = known_models()[model]
    return replace(
        encoder,
        build=_builder(model, native=facts["size"], sized=facts["fixed"]),
        family="segmentation",
        head="head",
        cam_layer="backbone",
        preset=Preset(lr=3e-4, batch_size=16),
        patch=STRIDE,
        renames=((r"^(?!backbone\.|head\.)", "backbone."),),
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

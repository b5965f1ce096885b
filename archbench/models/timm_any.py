"""Any other model of timm, as `timm:<name>`; what is known of each stands in `timm_models.json` (`make docs`)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import read_json
from archbench.models.architecture import AUTO, Architecture, Builder, Preset, WeightSource
from archbench.registry import ARCHITECTURES, UnknownName, suggest

if TYPE_CHECKING:
    import torch

PREFIX = "timm:"
TABLE = Path(__file__).with_name("timm_models.json")


@cache
def known_models() -> dict[str, dict[str, Any]]:
    """Return timm's models by name: input size, normalisation, head, tag and licence of the default weights."""
    content: dict[str, dict[str, Any]] = read_json(TABLE)
    return content


def timm_architecture(name: str) -> Architecture:
    """Return the architecture `timm:<name>`, or `timm:<name>.<tag>` for the weights of a tag.

    Raises:
        UnknownName: If timm has no such model, with the nearest names.
    """
    model, _, tag = name.removeprefix(PREFIX).partition(".")
    facts = known_models().get(model)
    if facts is None:
        raise UnknownName(f"{name}: timm has no model '{model}'{suggest(model, list(known_models()))}")
    if not isinstance(facts["head"], str):
        raise UnknownName(f"{name}: it has no single last layer that could be replaced")
    tag = tag or facts["tag"]
    licence = facts["licence"] or "see its model card"
    weights = {"imagenet": WeightSource(location=f"{model}.{tag}", licence=licence)} if tag else {}
    return Architecture(
        build=_sized_builder(model, native=facts["size"], sized=facts["fixed"]),
        family="timm",
        image_size=facts["size"],
        mean_std=(tuple(facts["mean"]), tuple(facts["std"])),
        head=facts["head"],
        cam_layer=AUTO,
        paper=f"see timm's documentation of {model}",
        preset=Preset(lr=1e-4, batch_size=16),
        weights=weights,
    )


def _sized_builder(model: str, *, native: int, sized: bool) -> Builder:
    def build(*, num_classes: int, image_size: int, drop_path: float = 0.0, in_channels: int = 3) -> torch.nn.Module:
        settings: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels, "drop_path_rate": drop_path}
        settings |= {"img_size": image_size} if sized and image_size != native else {}
        try:
            return _create(model, settings)
        except (TypeError, AssertionError) as error:
            raise ValueError(
                f"timm:{model} can't be built with {image_size} px, drop_path {drop_path:g} and "
                f"{in_channels} channels ({error})"
            ) from error

    return build


def _create(model: str, settings: dict[str, Any]) -> torch.nn.Module:
    """Build a model; one that knows no drop path is built without, unless it is asked to drop."""
    import timm

    try:
        network: torch.nn.Module = timm.create_model(model, pretrained=False, **settings)
    except TypeError:
        if settings.pop("drop_path_rate"):
            raise
        network = timm.create_model(model, pretrained=False, **settings)
    return network


ARCHITECTURES.register_open("timm:", timm_architecture)

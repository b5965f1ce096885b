"""A transformers backbone that gives feature maps of several depths (torch)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from archbench.models.transformers_network import grid_side, hold_fixed, quiet, read_config

MAPS = 4  # of a plain transformer, whose blocks all have one size


class HubEncoder(nn.Module):
    """Feature maps (B, C, h, w), finest first.

    Attributes:
        widths: Channels of each map.
        config: Content of the config.json that it was built from.
    """

    def __init__(self, model: Any, *, image_size: int, in_channels: int, patch: int | None) -> None:
        super().__init__()
        self.model = model
        self.config: dict[str, Any] = {}
        self.patch = patch
        maps = self.eval()(torch.zeros(1, in_channels, image_size, image_size))
        self.widths = [found.shape[1] for found in maps]
        named = dict(self.named_parameters())
        gradients = torch.autograd.grad(
            torch.stack([found.sum() for found in maps]).sum(), list(named.values()), allow_unused=True
        )
        hold_fixed(self, [name for name, found in zip(named, gradients, strict=True) if found is None])
        self.train()

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the last map of each resolution, of a plain transformer those of four depths."""
        output = self.model(pixel_values=images, output_hidden_states=True)
        last: torch.Tensor = output.last_hidden_state
        hidden = list(getattr(output, "reshaped_hidden_states", None) or output.hidden_states)
        if last.ndim == 3 and hidden[0].ndim == 3:
            blocks = hidden[1:-1]
            places = {round((k + 1) * len(blocks) / MAPS) - 1 for k in range(MAPS - 1)}
            chosen = [blocks[place] for place in sorted(places) if place >= 0]
            return [self._as_map(tokens, images.shape[-1]) for tokens in (*chosen, last)]
        by_side = {found.shape[-1]: found for found in hidden}
        final = (
            last if last.ndim == 4 else last.transpose(1, 2).unflatten(2, hidden[-1].shape[2:])
        )  # after the last norm
        by_side[final.shape[-1]] = final
        return [by_side[side] for side in sorted(by_side, reverse=True)]

    def _as_map(self, tokens: torch.Tensor, size: int) -> torch.Tensor:
        side = grid_side(tokens.shape[1], size=size, patch=self.patch)
        grid = tokens[:, tokens.shape[1] - side * side :]
        return grid.transpose(1, 2).unflatten(2, (side, side))


def build_encoder(config: dict[str, Any], *, image_size: int, drop_path: float, in_channels: int) -> HubEncoder:
    """Return an encoder of random weights for exactly this input size.

    Args:
        config: Content of a config.json.
    """
    from transformers import AutoModel

    sized = {"image_size": image_size} if "image_size" in config else {}
    settings = {**config, **sized, "num_channels": in_channels, "drop_path_rate": drop_path}
    model = AutoModel.from_config(read_config(settings))  # type: ignore[no-untyped-call]
    quiet(model)
    patch = config.get("patch_size") if "depths" not in config else None
    encoder = HubEncoder(model, image_size=image_size, in_channels=in_channels, patch=patch)
    encoder.config = dict(config)
    return encoder

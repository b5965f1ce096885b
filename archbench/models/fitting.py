"""Tensors of a file brought to a network's names and shapes (torch)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import nn

from archbench.models.building import NormalizedNetwork
from archbench.models.transformers_network import grid_side
from archbench.registry import ARCHITECTURES

ENCODERS = ("backbone.", "backbone.model.")
MAX_PREFIX = 3  # parts of a name


def align_names(given: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], str]:
    """Return the tensors under the network's names, and the prefix that was taken off.

    Tried are all leading parts of the file's names (`module.`, `visual.trunk.`), and the network's own `backbone.`
    in their place, or what its encoder of feature maps is wrapped in; what matches most names is taken, of equals the
    shortest.
    """
    if all(name in own for name in given):
        return given, ""
    leading = {".".join(name.split(".")[:k]) + "." for name in given for k in range(1, MAX_PREFIX + 1) if "." in name}
    added = ["", *(on for on in ENCODERS if any(name.startswith(on) for name in own))]

    def names(off: str, on: str) -> dict[str, str]:
        return {name: _joined(on + name[len(off) :], own) for name in given if name.startswith(off)}

    choices = [(off, on) for off in sorted({"", *leading}, key=lambda text: (len(text), text)) for on in added]
    off, on = max(choices, key=lambda choice: sum(new in own for new in names(*choice).values()))
    new_names = names(off, on)
    return {new_names.get(name, name): tensor for name, tensor in given.items()}, off


def _joined(name: str, own: Mapping[str, torch.Tensor]) -> str:
    """Return a name of a whole network as timm's lists of feature stages spell it: layers.0.x is layers_0.x there."""
    flat = re.sub(r"^(backbone\.[^.]+)\.", r"\1_", name)
    return flat if name not in own and flat in own else name


def fit_shape(network: NormalizedNetwork, name: str, tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """Return a tensor brought to the shape of the network's; None where that makes no sense."""
    if name.endswith(("pos_embed", "position_embeddings")) and tensor.ndim == 3 and tensor.shape[2] == own.shape[2]:
        return _resize_position_embedding(network, tensor, own)
    if name.endswith("pos_embed") and tensor.ndim == 4 and tensor.shape[3] == own.shape[3]:
        return _resize_grid(tensor, own)
    if name.endswith(("rel_pos_h", "rel_pos_w")) and tensor.shape[1] == own.shape[1]:  # SAM resizes them so itself
        return nn.functional.interpolate(tensor.T[None], size=len(own), mode="linear")[0].T.contiguous()
    if name.endswith("relative_position_bias_table") and tensor.ndim == 2 and tensor.shape[1] == own.shape[1]:
        from timm.layers import resize_rel_pos_bias_table

        side = (math.isqrt(len(own)) + 1) // 2
        bias: torch.Tensor = resize_rel_pos_bias_table(tensor, new_window_size=(side, side), new_bias_shape=own.shape)
        return bias
    if tensor.ndim == 4 and tensor.shape[1] == 3 and own.shape == (tensor.shape[0], 1, *tensor.shape[2:]):
        return 3 * tensor.mean(dim=1, keepdim=True)  # three equal channels in one: their mean kernel, times three
    return None


def _resize_grid(tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return an embedding of each cell, shape (1, h, w, F), interpolated to another grid."""
    maps = tensor.permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(maps, size=own.shape[1:3], mode="bicubic", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).contiguous()


def _resize_position_embedding(
    network: NormalizedNetwork, tensor: torch.Tensor, own: torch.Tensor
) -> torch.Tensor | None:
    """Return the embedding interpolated to the network's grid; class tokens stay as they are."""
    from timm.layers import resample_abs_pos_embed

    entry = ARCHITECTURES.get(network.architecture)
    patch = None if entry.masks else entry.patch  # that of a decoder's encoder is its own
    side = grid_side(own.shape[1], size=network.image_size, patch=patch)
    prefix = own.shape[1] - side * side
    old = math.isqrt(tensor.shape[1] - prefix)
    if old * old + prefix != tensor.shape[1]:
        return None
    resized: torch.Tensor = resample_abs_pos_embed(
        tensor, new_size=[side, side], old_size=[old, old], num_prefix_tokens=prefix
    )
    return resized

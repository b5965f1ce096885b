"""Networks from architecture names: build, normalisation, head, Grad-CAM layer."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from archbench.models.architecture import AUTO, Architecture
from archbench.models.heads import add_attention, is_channels_last, replace_head
from archbench.models.transformers_network import grid_side
from archbench.registry import ARCHITECTURES

HEAD_STD = 0.01


class NormalizedNetwork(nn.Module):
    """A network that takes uint8 pixels: scaling and normalisation are its first step.

    Attributes:
        network: The network itself; its input is normalised float32 (B, C, H, W).
        image_size: The only input size that it accepts, pixels.
        in_channels: 3 for colour, 1 for gray.
        new_layers: Prefixes of the parameters that no pretrained weights have: the head, an attention block.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        normalization: str,
        architecture: str,
        image_size: int,
        in_channels: int = 3,
        new_layers: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        entry: Architecture = ARCHITECTURES.get(architecture)
        mean, std = entry.mean_std_of(normalization, in_channels=in_channels)
        self.network = network
        self.image_size = image_size
        self.in_channels = in_channels
        self.architecture = architecture
        self.new_layers = new_layers or (entry.head,)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Turn pixels 0-255, shape (B, C, H, W), into the network's input."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K), of segmentation (B, K, H, W), of pixels 0-255, shape (B, C, image_size, image_size)."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"built for {self.image_size} px, got images of shape {tuple(images.shape)}")
        logits: torch.Tensor = self.network(self.normalize(images))
        return logits


def build_network(
    architecture: str,
    *,
    num_classes: int,
    image_size: int,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    normalization: str = "auto",
    head: str = "linear",
    head_hidden: int = 512,
    attention: str = "none",
    in_channels: int = 3,
) -> NormalizedNetwork:
    """Return a network with random weights for exactly this input size.

    Args:
        num_classes: Outputs: classes or labels, zones times classes (the first zone's classes first), or 1.
        dropout: Before the last layer; of an `mlp` head before the hidden one, and half of it behind.
        drop_path: Probability of a dropped residual branch in the deepest block, rising from 0 at the first.
        head: `linear` or `mlp`, with `head_hidden` units in between.
        attention: `none`, `se` or `cbam`, on the feature map before pooling.
        in_channels: 1 for gray images.
    Raises:
        UnknownName: If no architecture has this name.
        ValueError: If the architecture can't take this input size, attention block or drop path.
    """
    entry: Architecture = ARCHITECTURES.get(architecture)
    problems = [*entry.size_problems(image_size), *entry.package_problems("none")]
    if problems:
        raise ValueError(f"{architecture}: {problems[0]}")
    network = entry.build(num_classes=num_classes, image_size=image_size, drop_path=drop_path, in_channels=in_channels)
    if not entry.masks:
        _start_head_small(replace_head(network, entry.head, kind=head, hidden=head_hidden, dropout=dropout))
    blocks = () if attention == "none" else (add_attention(network, attention),)
    return NormalizedNetwork(
        network,
        normalization=normalization,
        architecture=architecture,
        image_size=image_size,
        in_channels=in_channels,
        new_layers=(entry.head, *blocks),
    )


def _start_head_small(last: nn.Linear) -> None:
    """Give the last layer small weights, so that every architecture starts from nearly equal class probabilities.

    timm draws an EfficientNet head from ±1/sqrt(classes): with 5 classes and 1280 features the first loss was
    3.4 instead of 1.6, and a short fine-tuning ended before it had unlearned the noise.
    """
    nn.init.normal_(last.weight, std=HEAD_STD)
    if last.bias is not None:
        nn.init.zeros_(last.bias)


def is_new(network: NormalizedNetwork, name: str) -> bool:
    """Return whether a parameter of the bare network belongs to the head or to an attention block."""
    return name.startswith(tuple(f"{prefix}." for prefix in network.new_layers))


def head_parameters(network: NormalizedNetwork) -> list[nn.Parameter]:
    """Return the parameters that no pretrained weights have: of the head, and of an attention block before it."""
    return [parameter for name, parameter in network.network.named_parameters() if is_new(network, name)]


def parameter_stages(network: NormalizedNetwork) -> list[tuple[str, list[nn.Parameter]]]:
    """Return the parameters as ordered stages from the input to the head, each parameter in exactly one.

    A stage is what timm groups coarsely (stem, residual stages, transformer blocks), else each part of the
    network in the order of its definition. The last stage is named `head`.
    """
    named = dict(network.network.named_parameters())
    groups = _backbone_groups(network.network, [name for name in named if not is_new(network, name)])
    stages = {stage: [named[name] for name in names] for stage, names in groups.items()}
    return [*stages.items(), ("head", head_parameters(network))]


def _backbone_groups(network: nn.Module, names: list[str]) -> dict[str, list[str]]:
    """Return the names of the backbone's parameters by stage, from the input on."""
    groups: dict[str, list[str]] = {}
    if hasattr(network, "group_matcher"):
        from timm.models._manipulate import group_with_matcher

        named = [(name, None) for name in names]
        for group in group_with_matcher(named, network.group_matcher(coarse=True)).values():  # type: ignore[operator]
            groups[_stage_name(group, groups)] = group
        return groups
    for name in names:
        numbered = re.match(r"(.*?\.\d+)\.", name)  # a block of several
        groups.setdefault(numbered[1] if numbered else ".".join(name.split(".")[:2]), []).append(name)
    return groups


def _stage_name(names: list[str], taken: Mapping[str, object]) -> str:
    """Return the dotted path of a stage, at most two parts: what its names share, else where its first one lies."""
    paths = [name.split(".")[:-1] or [name] for name in names]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    choices = [".".join(path[:2]) for path in (shared, paths[0]) if path]
    return next((choice for choice in choices if choice not in taken), f"stage {len(taken)}")


def cam_layer_name(network: NormalizedNetwork) -> str:
    """Return the dotted path of the layer for Grad-CAM at the network's input size."""
    path = str(ARCHITECTURES.get(network.architecture).cam_layer_at(network.image_size))
    return _deepest_layer(network.network) if path == AUTO else path


def _deepest_layer(network: nn.Module) -> str:
    """Return the layer for Grad-CAM of a network that no entry describes."""
    if hasattr(network, "cam_path"):
        return str(network.cam_path)
    blocks = getattr(network, "blocks", None)
    if getattr(network, "global_pool", None) == "token" and hasattr(blocks[-1], "norm1"):  # type: ignore[index]
        return "blocks.-1.norm1"  # behind it no gradient reaches the patches
    return str(network.feature_info[-1]["module"])  # type: ignore[index]


def cam_layer(network: NormalizedNetwork) -> nn.Module:
    """Return the layer whose output Grad-CAM weighs."""
    layer: nn.Module = network.network
    for part in cam_layer_name(network).split("."):
        layer = list(layer.children())[int(part)] if re.fullmatch(r"-?\d+", part) else getattr(layer, part)
    return layer


def cam_maps(network: NormalizedNetwork, activations: torch.Tensor) -> torch.Tensor:
    """Return a layer's output as maps (B, C, h, w): tokens on their grid, without class tokens; channels second."""
    if activations.ndim == 4:
        return activations.permute(0, 3, 1, 2) if is_channels_last(network.network) else activations
    patch = ARCHITECTURES.get(network.architecture).patch
    side = grid_side(activations.shape[1], size=network.image_size, patch=patch)
    grid = activations[:, activations.shape[1] - side * side :]
    return grid.reshape(len(grid), side, side, -1).permute(0, 3, 1, 2)


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())

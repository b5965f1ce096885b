"""Networks from architecture names: build, normalisation, head, Grad-CAM layer."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from archbench.models.architecture import HALF_MEAN_STD, IMAGENET_MEAN_STD, Architecture
from archbench.registry import ARCHITECTURES

HEAD_STD = 0.01
NORMALIZATIONS = {"imagenet": IMAGENET_MEAN_STD, "half": HALF_MEAN_STD}


class NormalizedNetwork(nn.Module):
    """A network that takes uint8 pixels: scaling and normalisation are its first step.

    Attributes:
        network: The network itself; its input is normalised float32 (B, 3, H, W).
        image_size: The only input size that it accepts, pixels.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, *, normalization: str, architecture: str, image_size: int) -> None:
        super().__init__()
        entry: Architecture = ARCHITECTURES.get(architecture)
        mean, std = NORMALIZATIONS.get(normalization, entry.mean_std)
        self.network = network
        self.image_size = image_size
        self.architecture = architecture
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Turn pixels 0-255, shape (B, 3, H, W), into the network's input."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of pixels 0-255, shape (B, 3, image_size, image_size)."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"built for {self.image_size} px, got images of shape {tuple(images.shape)}")
        logits: torch.Tensor = self.network(self.normalize(images))
        return logits


def build_network(
    architecture: str, *, num_classes: int, image_size: int, dropout: float = 0.0, normalization: str = "auto"
) -> NormalizedNetwork:
    """Return a network with random weights for exactly this input size.

    Raises:
        UnknownName: If no architecture has this name.
        ValueError: If the architecture can't take this input size.
    """
    entry: Architecture = ARCHITECTURES.get(architecture)
    problems = entry.size_problems(image_size)
    if problems:
        raise ValueError(f"{architecture}: {problems[0]}")
    network = entry.build(num_classes=num_classes, image_size=image_size, dropout=dropout)
    _start_head_small(network, entry.head)
    return NormalizedNetwork(network, normalization=normalization, architecture=architecture, image_size=image_size)


def _start_head_small(network: nn.Module, head: str) -> None:
    """Give the last layer small weights, so that every architecture starts from nearly equal class probabilities.

    timm draws an EfficientNet head from ±1/sqrt(classes): with 5 classes and 1280 features the first loss was
    3.4 instead of 1.6, and a short fine-tuning ended before it had unlearned the noise.
    """
    for name, parameter in network.named_parameters():
        if name.startswith(head + "."):
            nn.init.zeros_(parameter) if parameter.ndim == 1 else nn.init.normal_(parameter, std=HEAD_STD)


def head_name(network: NormalizedNetwork) -> str:
    """Return the prefix of the last layer's parameters."""
    return str(ARCHITECTURES.get(network.architecture).head)


def head_parameters(network: NormalizedNetwork) -> list[nn.Parameter]:
    """Return the parameters of the last layer."""
    prefix = head_name(network) + "."
    found = [p for name, p in network.network.named_parameters() if name.startswith(prefix)]
    if not found:
        raise ValueError(f"{network.architecture}: no parameter starts with '{prefix}'")
    return found


def parameter_stages(network: NormalizedNetwork) -> list[tuple[str, list[nn.Parameter]]]:
    """Return the parameters as ordered stages from the input to the head, each parameter in exactly one.

    A stage is what timm groups coarsely (stem, residual stages, transformer blocks), else each part of the
    network in the order of its definition. The last stage is named `head`.
    """
    named, prefix = dict(network.network.named_parameters()), head_name(network) + "."
    stages: dict[str, list[nn.Parameter]] = {}
    for group in _backbone_groups(network.network, [name for name in named if not name.startswith(prefix)]):
        stages[_unused(_common_path(group), stages)] = [named[name] for name in group]
    return [*stages.items(), ("head", head_parameters(network))]


def _backbone_groups(network: nn.Module, names: list[str]) -> list[list[str]]:
    """Return the names of the backbone's parameters in groups from the input on."""
    if hasattr(network, "group_matcher"):
        from timm.models._manipulate import group_with_matcher

        named = [(name, None) for name in names]
        return list(group_with_matcher(named, network.group_matcher(coarse=True)).values())  # type: ignore[operator]
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(".".join(name.split(".")[:2]), []).append(name)
    return list(groups.values())


def _common_path(names: list[str]) -> str:
    """Return the dotted path of a stage, at most two parts: what its names share, else where its first one lies."""
    paths = [name.split(".")[:-1] or [name] for name in names]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join((shared or paths[0])[:2])


def _unused(name: str, taken: Mapping[str, object]) -> str:
    while name in taken:
        name += "_"
    return name


def set_training_mode(network: NormalizedNetwork, *, backbone: bool) -> None:
    """Put the network into training mode; a backbone at rest has no gradients and fixed statistics."""
    network.train(backbone)
    head = {id(p) for p in head_parameters(network)}
    for parameter in network.network.parameters():
        parameter.requires_grad = backbone or id(parameter) in head


def cam_layer_name(network: NormalizedNetwork) -> str:
    """Return the dotted path of the layer for Grad-CAM at the network's input size."""
    return str(ARCHITECTURES.get(network.architecture).cam_layer_at(network.image_size))


def cam_layer(network: NormalizedNetwork) -> nn.Module:
    """Return the layer whose output Grad-CAM weighs."""
    layer: nn.Module = network.network
    for part in cam_layer_name(network).split("."):
        layer = list(layer.children())[int(part)] if re.fullmatch(r"-?\d+", part) else getattr(layer, part)
    return layer


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())

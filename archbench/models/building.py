"""Networks from architecture names: build, normalisation, head, Grad-CAM layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from archbench.models.architecture import AUTO, Architecture
from archbench.models.heads import add_attention, is_channels_last, replace_head, take_head
from archbench.models.transformers_network import grid_side
from archbench.models.volumes import VolumeBody
from archbench.registry import ARCHITECTURES

HEAD_STD = 0.01
BACKBONE = "backbone."  # before the names of a backbone's tensors in a network of volumes


class NormalizedNetwork(nn.Module):
    """A network that takes uint8 pixels: scaling and normalisation are its first step.

    Attributes:
        network: The network itself; its input is normalised float32 (B, C, H, W).
        image_size: The only input size that it accepts, pixels.
        in_channels: 3 for colour, 1 for gray; of a volume, what its backbone takes.
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
        mean, std = _mean_std(entry, normalization, in_channels)
        self.network = network
        self.image_size = image_size
        self.in_channels = in_channels
        self.architecture = architecture
        self.new_layers = new_layers or (entry.head,)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def backbone(self) -> nn.Module:
        """The architecture's own network, which the paths of its entry lead into."""
        return self.network

    @property
    def head(self) -> nn.Module:
        """The module of the last layer."""
        return self.network.get_submodule(ARCHITECTURES.get(self.architecture).head)

    @property
    def top(self) -> nn.Module:
        """What trains on the features of a frozen backbone, up to the logits."""
        return self.head

    @property
    def feature_reader(self) -> nn.Module:
        """The module whose input are the features of the backbone."""
        return self.head

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one input: channels, height, width."""
        return self.in_channels, self.image_size, self.image_size

    @property
    def input_dtype(self) -> torch.dtype:
        """Type of the numbers in the image cache."""
        return torch.uint8

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Turn pixels 0-255, shape (B, C, H, W), into the network's input."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def forward(self, images: torch.Tensor, *prompts: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K), of segmentation (B, K, H, W), of pixels 0-255, shape (B, C, image_size, image_size).

        Args:
            prompts: Of a prompted network alone: one tensor, boxes (B, L, 4) or points (B, L, 2), NaN for none.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"built for {self.image_size} px, got images of shape {tuple(images.shape)}")
        logits: torch.Tensor = self.network(self.normalize(images), *prompts)
        return logits


class VolumeNetwork(NormalizedNetwork):
    """A network that takes volumes, int16 Hounsfield units (B, D, S, S), as if their slices were channels.

    Window and normalisation are the first step of its body, so that an exported file needs nothing before it; what
    is asked of `normalize` is a plain conversion to float.
    """

    network: VolumeBody

    def __init__(self, body: VolumeBody, *, n_slices: int, **settings: Any) -> None:
        """Wrap a body.

        Args:
            n_slices: The only number of slices that it accepts.
            settings: As of NormalizedNetwork.
        """
        super().__init__(body, **settings)
        self.n_slices = n_slices
        self.mean, self.std = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)

    @property
    def backbone(self) -> nn.Module:
        """The network that reads slices, or the whole volume."""
        return self.network.backbone

    @property
    def head(self) -> nn.Module:
        """The module of the last layer."""
        return self.network.head

    @property
    def top(self) -> nn.Module:
        """Pooling over slices, and the last layer."""
        return nn.Sequential(self.network.pooling, self.network.head)

    @property
    def feature_reader(self) -> nn.Module:
        """The pooling."""
        return self.network.pooling

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one input: slices, height, width."""
        return self.n_slices, self.image_size, self.image_size

    @property
    def input_dtype(self) -> torch.dtype:
        """Type of the numbers in the image cache."""
        return torch.int16

    def forward(self, images: torch.Tensor, *prompts: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of Hounsfield units, shape (B, D, image_size, image_size)."""
        if images.ndim != 4 or images.shape[1] != self.n_slices:
            raise ValueError(f"built for volumes of {self.n_slices} slices, got shape {tuple(images.shape)}")
        return super().forward(images, *prompts)


def _mean_std(entry: Architecture, normalization: str, in_channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of pixels 0-255, shape (1, C, 1, 1)."""
    mean, std = entry.mean_std_of(normalization, in_channels=in_channels)
    return 255 * torch.tensor(mean).view(1, -1, 1, 1), 255 * torch.tensor(std).view(1, -1, 1, 1)


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
    volume: Mapping[str, Any] | None = None,
) -> NormalizedNetwork:
    """Return a network with random weights for exactly this input size.

    Args:
        num_classes: Outputs: classes or labels, zones times classes (the first zone's classes first), or 1.
        dropout: Before the last layer; of an `mlp` head before the hidden one, and half of it behind.
        drop_path: Probability of a dropped residual branch in the deepest block, rising from 0 at the first.
        head: `linear` or `mlp`, with `head_hidden` units in between.
        attention: `none`, `se` or `cbam`, on the feature map before pooling.
        in_channels: 1 for gray images.
        volume: Of a volume: hu_window, slices, pooling, slice_input; None: images.
    Raises:
        UnknownName: If no architecture has this name.
        ValueError: If the architecture can't take this input, attention block or drop path.
    """
    entry: Architecture = ARCHITECTURES.get(architecture)
    problems = [*entry.size_problems(image_size), *entry.package_problems("none")]
    problems += entry.input_problems(volumes=volume is not None)
    if problems:
        raise ValueError(f"{architecture}: {problems[0]}")
    whole = entry.dimensions == 3
    in_channels = 1 if whole else in_channels
    network = entry.build(num_classes=num_classes, image_size=image_size, drop_path=drop_path, in_channels=in_channels)
    num_features = getattr(network.get_submodule(entry.head), "in_features", 0)
    if not entry.masks:
        _start_head_small(replace_head(network, entry.head, kind=head, hidden=head_hidden, dropout=dropout))
    blocks = () if attention == "none" else (add_attention(network, attention),)
    settings: dict[str, Any] = {"normalization": normalization, "architecture": architecture}
    settings |= {"image_size": image_size, "in_channels": in_channels}
    if volume is None:
        return NormalizedNetwork(network, new_layers=(entry.head, *blocks), **settings)
    mean, std = _mean_std(entry, normalization, in_channels)
    top = take_head(network, entry.head)
    body = VolumeBody(network, top, whole=whole, mean=mean, std=std, num_features=num_features, volume=volume)
    new_layers = ("head", "pooling", *(f"{BACKBONE}{block}" for block in blocks))
    return VolumeNetwork(body, n_slices=int(volume["slices"]), new_layers=new_layers, **settings)


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
    prefix = BACKBONE if isinstance(network, VolumeNetwork) else ""
    old = [name for name, _ in network.network.named_parameters() if not is_new(network, name)]
    named = dict(network.backbone.named_parameters())
    groups = _backbone_groups(network.backbone, [name.removeprefix(prefix) for name in old])
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
    return _deepest_layer(network.backbone) if path == AUTO else path


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
    layer: nn.Module = network.backbone
    for part in cam_layer_name(network).split("."):
        layer = list(layer.children())[int(part)] if re.fullmatch(r"-?\d+", part) else getattr(layer, part)
    return layer


def cam_maps(network: NormalizedNetwork, activations: torch.Tensor) -> torch.Tensor:
    """Return a layer's output as maps (B, C, h, w): tokens on their grid, without class tokens; channels second.

    Of volumes read slice by slice, the first dimension is that of all slices; of those read whole, (B, C, d, h, w).
    """
    if activations.ndim > 3:
        return activations.permute(0, 3, 1, 2) if is_channels_last(network.backbone) else activations
    patch = ARCHITECTURES.get(network.architecture).patch
    side = grid_side(activations.shape[1], size=network.image_size, patch=patch)
    grid = activations[:, activations.shape[1] - side * side :]
    return grid.reshape(len(grid), side, side, -1).permute(0, 3, 1, 2)


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())

"""Heads and attention blocks, put into a network after it is built."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

REDUCTION = 16


class DropoutLinear(nn.Linear):
    """A linear layer that drops its inputs in training; its tensors are named as a plain one's."""

    def __init__(self, plain: nn.Linear, *, dropout: float) -> None:
        # On the meta device, then with the given tensors: wrapping draws no random numbers.
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        self.dropout = dropout

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (…, K) of features (…, F)."""
        return functional.linear(functional.dropout(features, self.dropout, self.training), self.weight, self.bias)


class AttendedPool(nn.Module):
    """An attention block on the feature map, then the network's own pooling."""

    def __init__(self, attention: nn.Module, pool: nn.Module, *, channels_last: bool) -> None:
        super().__init__()
        self.attention = attention
        self.pool = pool
        self.channels_last = channels_last

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return what the pooling makes of the weighed maps, (B, C, h, w) or (B, h, w, C)."""
        if self.channels_last:
            maps = self.attention(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        else:
            maps = self.attention(maps)
        pooled: torch.Tensor = self.pool(maps)
        return pooled


def replace_head(network: nn.Module, path: str, *, kind: str, hidden: int, dropout: float) -> nn.Linear:
    """Replace the last layer and return the one that gives the logits.

    Args:
        path: Dotted path of the last layer, a linear one.
        kind: `linear`, or `mlp`: dropout, hidden layer, ReLU, half the dropout, logits.
        hidden: Width of the hidden layer.
    Raises:
        ValueError: If the last layer is not a plain linear one.
    """
    parent, name = _parent(network, path)
    last = getattr(parent, name)
    if not isinstance(last, nn.Linear):
        raise ValueError(f"the last layer '{path}' is a {type(last).__name__}, not a linear one")
    if kind == "mlp":
        logits = nn.Linear(hidden, last.out_features)
        first = nn.Linear(last.in_features, hidden)
        setattr(parent, name, nn.Sequential(nn.Dropout(dropout), first, nn.ReLU(), nn.Dropout(dropout / 2), logits))
        return logits
    wrapped = DropoutLinear(last, dropout=dropout)
    setattr(parent, name, wrapped)
    return wrapped


def take_head(network: nn.Module, path: str) -> nn.Module:
    """Take the last layer off and return it; the network then returns what that layer read."""
    parent, name = _parent(network, path)
    head: nn.Module = getattr(parent, name)
    setattr(parent, name, nn.Identity())
    return head


def add_attention(network: nn.Module, kind: str) -> str:
    """Put a squeeze-and-excitation (`se`) or CBAM block on the feature map before pooling; return its path.

    Raises:
        ValueError: If the network pools no feature map.
    Source:
        Hu et al., Squeeze-and-Excitation Networks, 2018; Woo et al., CBAM, 2018; reduction 16, as in timm.
    """
    from timm.layers import SEModule
    from timm.layers.cbam import CbamModule

    path = next((p for p in ("global_pool", "head.global_pool", "pool") if _is_module(network, p)), None)
    if path is None:
        raise ValueError(f"{type(network).__name__} pools no feature map, so attention: {kind} has no place; use none")
    parent, name = _parent(network, path)
    block = {"se": SEModule, "cbam": CbamModule}[kind](int(network.num_features), rd_ratio=1 / REDUCTION)  # type: ignore[arg-type]
    attended = AttendedPool(block, getattr(parent, name), channels_last=is_channels_last(network))
    if isinstance(network, nn.Sequential):
        network._modules[name] = attended
    else:
        setattr(parent, name, attended)
    return f"{path}.attention"


def is_channels_last(network: nn.Module) -> bool:
    """Return whether the network's feature maps are (B, h, w, C), as Swin's are."""
    return str(getattr(network, "output_fmt", "")) == "NHWC"


def _parent(network: nn.Module, path: str) -> tuple[nn.Module, str]:
    *parents, name = path.split(".")
    for part in parents:
        network = getattr(network, part)
    return network, name


def _is_module(network: nn.Module, path: str) -> bool:
    *parents, name = path.split(".")
    holder: object = network
    for part in parents:
        holder = getattr(holder, part, None)
    return isinstance(getattr(holder, name, None), nn.Module)

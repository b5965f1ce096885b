"""Networks of whole volumes: Hounsfield units in, one set of logits out.

A two-dimensional backbone reads each slice with its neighbours, and its features are pooled over the slices
(multiple-instance learning: one loss for each volume, none for a slice); a three-dimensional one reads it whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

ATTENTION_UNITS = 128
SLICES_PER_PASS = 64  # where no gradient is needed, so that a long volume takes no more memory than a short one


class SlicePooling(nn.Module):
    """Features of slices into those of a volume: each slice counts by its weight."""

    def __init__(self, kind: str, num_features: int) -> None:
        """Make a pooling of one kind.

        Args:
            kind: mean, max (of each feature by itself), or attention (gated).
            num_features: Features of a slice.
        Source:
            Ilse et al., Attention-based Deep Multiple Instance Learning, ICML 2018, equation 9.
        """
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.content = nn.Linear(num_features, ATTENTION_UNITS)
            self.gate = nn.Linear(num_features, ATTENTION_UNITS)
            self.score = nn.Linear(ATTENTION_UNITS, 1, bias=False)

    def weights(self, features: torch.Tensor) -> torch.Tensor:
        """Return how much each slice counts, shape (B, D), rows sum to 1, of features (B, D, F).

        Of max pooling it is the share of the features whose largest value stands in that slice.
        """
        n_slices = features.shape[1]
        if self.kind == "attention":
            gated = torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features))
            return torch.softmax(self.score(gated).squeeze(2), dim=1)
        if self.kind == "max":
            winners = nn.functional.one_hot(features.argmax(dim=1), n_slices)  # (B, F, D)
            return winners.float().mean(dim=1)
        return torch.full(features.shape[:2], 1 / n_slices, device=features.device)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return features of volumes, shape (B, F), of those of their slices, shape (B, D, F)."""
        if self.kind == "mean":
            return features.mean(dim=1)
        if self.kind == "max":
            return features.amax(dim=1)
        return (self.weights(features).unsqueeze(2) * features).sum(dim=1)


class VolumeBody(nn.Module):
    """Window, normalisation, backbone, pooling over slices and head: all that an exported file holds.

    Attributes:
        backbone: The architecture's own network, whose last layer was taken off.
        pooling: Over slices; of a network that reads the volume whole, nothing.
        head: The last layer.
        whole: Whether the backbone is three-dimensional.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        whole: bool,
        mean: torch.Tensor,
        std: torch.Tensor,
        num_features: int,
        volume: Mapping[str, Any],
    ) -> None:
        """Put the parts together.

        Args:
            mean, std: Of the channels, in pixels 0-255, shape (1, C, 1, 1).
            volume: hu_window, pooling and slice_input.
        """
        super().__init__()
        self.backbone = backbone
        self.pooling = nn.Identity() if whole else SlicePooling(volume["pooling"], num_features)
        self.head = head
        self.whole = whole
        self.hu_window = (float(volume["hu_window"][0]), float(volume["hu_window"][1]))
        self.triplets = volume["slice_input"] == "triplet"
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def windowed(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return pixels 0-255, shape (B, D, S, S), of Hounsfield units."""
        low, high = self.hu_window
        return (volumes.clamp(low, high) - low) * (255 / (high - low))

    def channels(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return the backbone's input: slices (B · D, C, S, S), or the whole volume (B, C, D, S, S)."""
        pixels, n_channels = self.windowed(volumes), self.mean.shape[1]
        if self.whole:
            return ((pixels.unsqueeze(1) - self.mean.unsqueeze(2)) / self.std.unsqueeze(2)).contiguous()
        if self.triplets:
            before = torch.cat([pixels[:, :1], pixels[:, :-1]], dim=1)
            after = torch.cat([pixels[:, 1:], pixels[:, -1:]], dim=1)
            slices = torch.stack([before, pixels, after], dim=2)
        else:
            slices = pixels.unsqueeze(2).expand(-1, -1, n_channels, -1, -1)
        return (slices.flatten(0, 1) - self.mean) / self.std

    def features(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return what is pooled: features of slices (B, D, F), or of whole volumes (B, F)."""
        inputs = self.channels(volumes)
        features = self.backbone(inputs) if self._at_once(inputs) else self._in_parts(inputs)
        return features if self.whole else features.unflatten(0, (-1, volumes.shape[1]))

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of Hounsfield units, shape (B, D, S, S)."""
        logits: torch.Tensor = self.head(self.pooling(self.features(volumes)))
        return logits

    def _at_once(self, inputs: torch.Tensor) -> bool:
        """Whether the backbone takes all inputs in one pass: gradients or batch statistics need it, and exporters."""
        # To an exporter the batch has no size yet: asking for it would fix it.
        if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export() or len(inputs) <= SLICES_PER_PASS:
            return True
        wanted = torch.is_grad_enabled() and any(p.requires_grad for p in self.backbone.parameters())
        return wanted or any(module.training for module in self.backbone.modules())

    @torch.no_grad()
    def _in_parts(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.backbone(part) for part in inputs.split(SLICES_PER_PASS)])

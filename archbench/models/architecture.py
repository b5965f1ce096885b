"""What the product knows about an architecture before any network is built (no torch here)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF_MEAN_STD = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

MIN_CAM_CELLS = 7

Builder = Callable[..., "torch.nn.Module"]


@dataclass(frozen=True)
class WeightSource:
    """Where pretrained weights come from.

    Attributes:
        location: timm tag (`imagenet`) or file inside a Python package (`package`).
        package: Python package that carries the file, for `package`.
        licence: Licence of the weights.
        sha256: SHA-256 of the published file, where it is known; the fetched file must have it.
    """

    location: str
    licence: str
    package: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Architecture:
    """One architecture: how to build it, what it expects, where to look inside.

    Attributes:
        build: Called with num_classes, image_size and dropout; returns the network.
        image_size: Default side of the input, pixels.
        mean_std: Normalisation that its weights expect.
        head: Prefix of the parameters of the last layer.
        cam_layer: Dotted path of the deepest layer for Grad-CAM; -1 is the last child.
        finer_cam_layers: Paths and strides of layers before it, for inputs at which its map would be too coarse.
        paper: Where it was published.
        tokens: Whether that layer gives tokens (B, 1 + h·w, C) instead of maps (B, C, h, w).
        patch: Side of a patch, pixels; the input must be a multiple of it.
        min_size: Smallest legal side of the input.
        weights: Pretrained weights by source name.
    """

    build: Builder
    image_size: int
    mean_std: tuple[tuple[float, ...], tuple[float, ...]]
    head: str
    cam_layer: str
    paper: str
    finer_cam_layers: tuple[tuple[str, int], ...] = ()
    tokens: bool = False
    patch: int | None = None
    min_size: int = 32
    weights: Mapping[str, WeightSource] = field(default_factory=dict)

    def cam_layer_at(self, size: int) -> str:
        """Return the deepest layer whose map has 7 cells a side at this input size, as at 224 px; else the finest."""
        layers = ((self.cam_layer, self.patch or 32), *self.finer_cam_layers)
        fine_enough = [path for path, stride in layers if size // stride >= MIN_CAM_CELLS]
        return fine_enough[0] if fine_enough else layers[-1][0]

    def size_problems(self, size: int) -> list[str]:
        """Return why an input size can't be used, with the nearest legal one; empty if it can."""
        if size < self.min_size:
            return [f"{size} px is too small; at least {self.min_size}"]
        if self.patch is not None and size % self.patch:
            below = max(self.patch, size // self.patch * self.patch)
            legal = f"use {below} or {below + self.patch}"
            return [f"{size} px is no multiple of the patch size {self.patch}; {legal}"]
        return []

    def weight_problems(self, source: str) -> list[str]:
        """Return why weights of a source can't be had; empty if they can."""
        if source == "none" or source in self.weights:
            return []
        known = ", ".join(["none", *self.weights, "file:<path>"])
        return [f"there are no '{source}' weights for this architecture (known: {known})"]


def timm_builder(name: str, **fixed: object) -> Builder:
    """Return a builder of a timm model with random weights; ViTs are built for the very size they get."""

    def build(*, num_classes: int, image_size: int, dropout: float) -> torch.nn.Module:
        import timm

        settings = dict(fixed)
        if settings.pop("sized", False):
            settings["img_size"] = image_size
        network: torch.nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, drop_rate=dropout, **settings
        )
        return network

    return build

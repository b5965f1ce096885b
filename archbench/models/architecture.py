"""What the product knows about an architecture before any network is built (no torch here)."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MeanStd = tuple[tuple[float, ...], tuple[float, ...]]
IMAGENET_MEAN_STD: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF_MEAN_STD: MeanStd = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NORMALIZATIONS = {"imagenet": IMAGENET_MEAN_STD, "half": HALF_MEAN_STD}

MIN_CAM_CELLS = 7
AUTO = "auto"

Builder = Callable[..., "torch.nn.Module"]


@dataclass(frozen=True)
class WeightSource:
    """Where pretrained weights come from.

    Attributes:
        location: timm model with its tag (`imagenet`), file inside a Python package (`package`), file in a repository
            (`hub`; empty for the one that transformers finds).
        licence: Licence of the weights.
        package: Python package that carries the file, for `package`.
        repository: Hugging Face repository, or folder, for `hub`.
        sha256: SHA-256 of the published file, where it is known; the fetched file must have it.
    """

    location: str
    licence: str
    package: str | None = None
    sha256: str | None = None
    repository: str | None = None


@dataclass(frozen=True)
class Preset:
    """Recipe that an architecture is usually trained with; used where a study says `training.preset: true`.

    Attributes:
        patience: Epochs without a gain before training ends.
        A value of None leaves the study's own.
    """

    lr: float
    batch_size: int
    optimizer: str | None = None
    epochs: int | None = None
    patience: int | None = None

    def training(self) -> dict[str, Any]:
        """Return the keys of `training` that the preset sets."""
        keys = {"lr": self.lr, "batch_size": self.batch_size, "optimizer": self.optimizer, "epochs": self.epochs}
        named: dict[str, Any] = {key: value for key, value in keys.items() if value is not None}
        return named | ({"early_stopping": {"patience": self.patience}} if self.patience else {})


@dataclass(frozen=True)
class Architecture:
    """One architecture: how to build it, what it expects, where to look inside.

    Attributes:
        build: Called with num_classes, image_size, drop_path and in_channels; returns the network.
        family: Name under which the table lists it.
        image_size: Default side of the input, pixels.
        mean_std: Normalisation that its weights expect.
        head: Prefix of the parameters of the last layer.
        cam_layer: Dotted path of the deepest layer for Grad-CAM; -1 is the last child; `auto` asks the network.
        paper: Where it was published.
        preset: Its usual recipe.
        finer_cam_layers: Paths and strides of layers before it, for inputs at which its map would be too coarse.
        patch: Side of a patch, pixels; the input must be a multiple of it.
        min_size: Smallest legal side of the input.
        attention: Whether an attention block fits before its pooling; one that classifies by a class token pools none.
        drop_path: Whether whole residual branches can be dropped in training.
        weights: Pretrained weights by source name.
        demands: Why it can't start from random or ImageNet weights; empty if it can.
        renames: Pattern and replacement of tensor names in files of other tools.
        requires: Optional Python package that it is built with, and the extra that installs it.
        masks: Whether it gives logits of every pixel (task segmentation) instead of the picture's.
        dimensions: 2 reads images, or the slices of volumes; 3 reads volumes alone.
        prompted: Whether it draws what a box or a point beside the image asks for.
    """

    build: Builder
    family: str
    image_size: int
    mean_std: MeanStd
    head: str
    cam_layer: str
    paper: str
    preset: Preset
    finer_cam_layers: tuple[tuple[str, int], ...] = ()
    patch: int | None = None
    min_size: int = 32
    attention: bool = True
    drop_path: bool = True
    weights: Mapping[str, WeightSource] = field(default_factory=dict)
    demands: str = ""
    renames: tuple[tuple[str, str], ...] = ()
    requires: tuple[str, str] | None = None
    masks: bool = False
    dimensions: int = 2
    prompted: bool = False

    def cam_layer_at(self, size: int) -> str:
        """Return the deepest layer whose map has 7 cells a side at this input size, as at 224 px; else the finest."""
        layers = ((self.cam_layer, self.patch or 32), *self.finer_cam_layers)
        fine_enough = [path for path, stride in layers if size // stride >= MIN_CAM_CELLS]
        return fine_enough[0] if fine_enough else layers[-1][0]

    def mean_std_of(self, normalization: str, *, in_channels: int) -> MeanStd:
        """Return mean and standard deviation per channel, of pixels 0 to 1; `auto` is what the weights expect."""
        mean, std = NORMALIZATIONS.get(normalization, self.mean_std)
        if in_channels == 1:  # a gray image stands for three equal channels
            return (sum(mean) / len(mean),), (sum(std) / len(std),)
        return mean, std

    def smallest_size(self) -> int:
        """Return the smallest legal side of the input, pixels."""
        patch = self.patch or 1
        return -(-self.min_size // patch) * patch

    def size_problems(self, size: int) -> list[str]:
        """Return why an input size can't be used, with the nearest legal one; empty if it can."""
        if size < self.min_size:
            return [f"{size} px is too small; at least {self.min_size}"]
        if self.patch is not None and size % self.patch:
            below = max(self.smallest_size(), size // self.patch * self.patch)
            legal = f"use {below} or {below + self.patch}"
            return [f"{size} px is no multiple of the patch size {self.patch}; {legal}"]
        return []

    def input_problems(self, *, volumes: bool) -> list[str]:
        """Return why images, or volumes, can't be its input; empty if they can."""
        if self.dimensions == 3 and not volumes:
            return ["reads volumes alone, and these are images; take an architecture of another family"]
        return []

    def weight_problems(self, source: str) -> list[str]:
        """Return why weights of a source can't be had; empty if they can."""
        if self.demands and source not in self.weights:
            return [self.demands]
        if source == "none" or source in self.weights:
            return []
        known = ", ".join(["none", *self.weights, "file:<path>"])
        return [f"there are no '{source}' weights for this architecture (known: {known})"]

    def package_problems(self, source: str) -> list[str]:
        """Return which optional packages are missing for the network or its weights, with the extra to install."""
        needed = [self.requires] if self.requires is not None else []
        given = self.weights.get(source) if source == "package" else None
        needed += [(given.package, "weights")] if given is not None and given.package else []
        return [
            f"needs the package '{package}', which is not installed: pip install '.[{extra}]'"
            for package, extra in needed
            if importlib.util.find_spec(package) is None
        ]

    def renamed(self, name: str) -> str:
        """Return the name that a tensor of another tool's file has here."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name


def timm_builder(name: str, *, sized: bool = False, branches: bool = True) -> Builder:
    """Return a builder of a timm model with random weights.

    Args:
        sized: Whether it is built for the very size it gets.
        branches: Whether it has residual branches that can be dropped.
    """

    def build(*, num_classes: int, image_size: int, drop_path: float = 0.0, in_channels: int = 3) -> torch.nn.Module:
        import timm

        if drop_path and not branches:
            raise ValueError(f"{name} has no residual branches that training.drop_path could drop")
        settings: dict[str, Any] = {"img_size": image_size} if sized else {}
        if branches:  # zero too: Swin's own default is .1
            settings["drop_path_rate"] = drop_path
        network: torch.nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **settings
        )
        return network

    return build

"""Trainings of a tiny network on drawn classes, small enough that a test runs them in a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from archbench.models.building import NormalizedNetwork
from archbench.settings import Training
from archbench.training import TrainingResult, train
from archbench.training_epoch import TrainingData

SIDE = 32
CLASSES = 3
CPU = torch.device("cpu")
Weights = dict[str, torch.Tensor]


class Interrupted(Exception):
    """Stands for a kill right after an epoch."""


def recipe(**changes: Any) -> Training:
    stopping = {"metric": "qwk", "patience": 20, **changes.pop("early_stopping", {})}
    settings = {
        "loss": "weighted_cross_entropy",
        "lr": 0.01,
        "epochs": 4,
        "batch_size": 8,
        "average_epochs": 0,
        **changes,
    }
    return Training.model_validate({**settings, "early_stopping": stopping})


def tiny_network(*, dropout: float = 0.0, seed: int = 0) -> NormalizedNetwork:
    """A network of a few hundred parameters with batch norm, dropout and a head named as in custom1."""
    torch.manual_seed(seed)
    body = nn.Sequential()
    body.add_module("features", nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU()))
    body.add_module("pool", nn.AdaptiveAvgPool2d(1))
    body.add_module("flatten", nn.Flatten())
    body.add_module("dropout", nn.Dropout(dropout))
    body.add_module("head", nn.Linear(8, CLASSES))
    return NormalizedNetwork(body, normalization="half", architecture="custom1", image_size=SIDE)


def tiny_data(*, n_train: int = 41, n_val: int = 30, clahe: bool = False) -> TrainingData:
    """Noise whose brightness tells the class, not without overlap."""
    generator = np.random.default_rng(0)
    targets = generator.choice(CLASSES, size=n_train + n_val, p=[0.6, 0.3, 0.1])
    targets[:3] = targets[n_train : n_train + 3] = [0, 1, 2]
    means = 90 + 35 * targets + generator.normal(0, 15, size=len(targets))
    pixels = generator.normal(means[:, None, None, None], 40, size=(len(targets), SIDE, SIDE, 3))
    images = pixels.clip(0, 255).astype(np.uint8)
    return TrainingData(
        images=images,
        clahe=255 - images if clahe else None,
        train_rows=np.arange(n_train),
        train_targets=targets[:n_train, None].astype(float),
        val_rows=np.arange(n_train, n_train + n_val),
        val_targets=targets[n_train:, None].astype(float),
        num_classes=CLASSES,
    )


@dataclass
class Run:
    network: NormalizedNetwork
    result: TrainingResult

    @property
    def weights(self) -> Weights:
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    @property
    def figures(self) -> list[tuple[Any, ...]]:
        """The history without clock times."""
        return [(r["epoch"], r["train_loss"], r["val_loss"], r["lr"]) for r in self.result.history]


def run(state: Path, *, seed: int = 7, network: NormalizedNetwork | None = None, **changes: Any) -> Run:
    """Train the tiny network; what `train` itself takes stands beside changes of the recipe."""
    own = {key: changes.pop(key) for key in ("identity", "on_epoch", "data", "fixed_epochs") if key in changes}
    settings = recipe(**changes)
    network = network or tiny_network(dropout=settings.dropout)
    data = own.pop("data", None) or tiny_data()
    call = {
        "settings": settings,
        "seed": seed,
        "device": CPU,
        "dtype": torch.float32,
        "decision": "argmax",
        "state_path": state,
    }
    return Run(network, train(network, data, **{**call, "decision": "argmax", "identity": "a", **own}))


def equal(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def stop_after(epoch: int) -> Callable[[list[Any]], None]:
    def on_epoch(history: list[Any]) -> None:
        if len(history) == epoch:
            raise Interrupted

    return on_epoch


def staged_network() -> NormalizedNetwork:
    """Three stages with batch norm and a head, as `parameter_stages` finds them."""
    torch.manual_seed(0)
    body = nn.Sequential()
    for k, width in enumerate((3, 4, 6)):
        block = nn.Sequential()
        block.add_module(
            "block", nn.Sequential(nn.Conv2d(width, (4, 6, 8)[k], 3, stride=2), nn.BatchNorm2d((4, 6, 8)[k]))
        )
        body.add_module(f"stage{k}", block)
    body.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    body.add_module("head", nn.Linear(8, CLASSES))
    return NormalizedNetwork(body, normalization="half", architecture="custom1", image_size=SIDE)

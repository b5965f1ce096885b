"""One training job, from the settings and the cases to a trained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from archbench import devices
from archbench.cases import Cases, Part
from archbench.features import FeatureHead, open_features
from archbench.models import building, weights
from archbench.tasks import TASKS
from archbench.training import History, TrainingResult, seed_start, train
from archbench.training_epoch import TrainingData

if TYPE_CHECKING:
    from archbench.settings import Dataset, Model, Training


@dataclass(frozen=True)
class Job:
    """What is trained, with which recipe, on what.

    Attributes:
        image_size: Side of the input, pixels.
        weights: Safetensors file to start from; None starts from random weights.
        device: auto, cpu, cuda or mps.
    """

    model: Model
    dataset: Dataset
    recipe: Training
    image_size: int
    seed: int
    weights: str | None
    device: str
    threads: int


@dataclass(frozen=True)
class Trained:
    """A trained network and how it came about."""

    network: building.NormalizedNetwork
    result: TrainingResult
    device: str
    precision: str


def start_network(job: Job, cases: Cases) -> building.NormalizedNetwork:
    """Return the network of a job with its start weights; the seed decides what is random."""
    seed_start(job.seed)
    network = building.build_network(
        job.model.architecture,
        num_classes=n_logits(job.dataset.task, cases),
        image_size=job.image_size,
        dropout=job.recipe.dropout,
        normalization=job.dataset.preprocessing.normalization,
    )
    if job.weights:
        head = building.head_name(network)
        report = weights.load_weights(network.network, job.weights, head=head, same_head=False)
        weights.print_report(report, job.weights)
    return network


def n_logits(task: str, cases: Cases) -> int:
    """Return the number of outputs: one per class, per label, or per zone and class."""
    outputs = TASKS[task].outputs
    if outputs == "zones":
        return len(cases.labels) * len(cases.classes)
    return len(cases.classes) if outputs == "classes" else len(cases.labels)


def run_training(
    job: Job,
    cases: Cases,
    parts: tuple[Part, Part],
    *,
    state_path: Path,
    identity: str,
    features: str | None = None,
    fixed_epochs: int | None = None,
    on_epoch: Callable[[History], None] | None = None,
) -> Trained:
    """Train the network of a job.

    Args:
        parts: Training and validation part; cases of which nothing is known are left out.
        features: Pointer file of cached features; the head trains on them alone.
        state_path, identity, fixed_epochs, on_epoch: See `archbench.training.train`.
    """
    devices.prepare_torch(threads=job.threads)
    device = devices.resolve_device(job.device)
    dtype = devices.resolve_precision(job.recipe.precision, device)
    network = start_network(job, cases)
    data = training_data(job.dataset.task, cases, parts)
    trained: building.NormalizedNetwork | FeatureHead = network
    if features:
        arrays = open_features(features, n_images=len(cases.cache.images))
        data = replace(data, images=arrays, clahe=None)
        trained = FeatureHead(network, dropout=job.recipe.dropout)
    result = train(
        trained,
        data,
        settings=job.recipe,
        seed=job.seed,
        device=device,
        dtype=dtype,
        decision=TASKS[job.dataset.task].decision,
        state_path=state_path,
        identity=identity,
        fixed_epochs=fixed_epochs,
        on_epoch=on_epoch,
    )
    return Trained(network, result, devices.device_name(device), str(dtype).removeprefix("torch."))


def training_data(task: str, cases: Cases, parts: tuple[Part, Part]) -> TrainingData:
    """Return the rows and targets of the training and the validation part."""
    known = [~np.isnan(part.targets).all(axis=1) for part in parts]
    rows = [part.rows[mask] for part, mask in zip(parts, known, strict=True)]
    targets = [part.targets[mask] for part, mask in zip(parts, known, strict=True)]
    return TrainingData(
        images=cases.cache.images,
        clahe=cases.cache.clahe,
        train_rows=rows[0],
        train_targets=targets[0],
        val_rows=rows[1],
        val_targets=targets[1],
        num_classes=len(cases.classes),
        outputs=TASKS[task].outputs,
    )

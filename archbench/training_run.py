"""One training job, from the settings and the cases to a trained network."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archbench import devices
from archbench.cases import Cases, Part
from archbench.features import FeatureHead, open_features
from archbench.models.building import NormalizedNetwork
from archbench.starting import Job, start_network
from archbench.tasks import TASKS
from archbench.training import History, TrainingResult, train
from archbench.training_epoch import TrainingData


@dataclass(frozen=True)
class Trained:
    """A trained network and how it came about."""

    network: NormalizedNetwork
    result: TrainingResult
    device: str
    precision: str
    loaded_weights: dict[str, Any] | None = None
    peak_memory_mib: float | None = None


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
    network, report = start_network(job, cases)
    data = training_data(job.dataset.task, cases, parts, volume=job.network.get("volume"))
    print(_start_line(job, data, device, dtype), file=sys.stderr, flush=True)
    trained: NormalizedNetwork | FeatureHead = network
    if features:
        arrays = open_features(features, n_images=len(cases.cache.images))
        data = replace(data, images=arrays, clahe=None, hu_window=None)
        trained = FeatureHead(network)
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
    precision = str(dtype).removeprefix("torch.")
    loaded = None if report is None else report.summary()
    return Trained(network, result, devices.device_name(device), precision, loaded, devices.peak_memory_mib(device))


def _start_line(job: Job, data: TrainingData, device: torch.device, dtype: torch.dtype) -> str:
    mixed = f"on ({str(dtype).removeprefix('torch.')})" if dtype != torch.float32 else "off"
    inputs = "images" if data.hu_window is None else f"volumes of {job.network['volume']['slices']} slices"
    return (
        f"{job.model.architecture} at {job.network['image_size']} px on {devices.device_name(device)}, mixed precision "
        f"{mixed}, {len(data.train_rows)} training and {len(data.val_rows)} validation {inputs}{_unused_gpu(device)}"
    )


def _unused_gpu(device: torch.device) -> str:
    """A remark where SLURM gave the job a GPU that torch doesn't see."""
    given = any(os.environ.get(name) for name in ("SLURM_JOB_GPUS", "SLURM_GPUS", "SLURM_GPUS_ON_NODE"))
    if device.type != "cpu" or not given or torch.cuda.is_available():
        return ""
    return "; SLURM gave this job a GPU, but torch sees none: check the node's driver (nvidia-smi)"


def training_data(
    task: str, cases: Cases, parts: tuple[Part, Part], *, volume: Mapping[str, Any] | None = None
) -> TrainingData:
    """Return the rows and targets of the training and the validation part.

    Args:
        volume: Of a network of volumes, what `build_network` takes.
    """
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
        num_classes=len(cases.class_names),
        outputs=TASKS[task].outputs,
        class_names=cases.class_names,
        prompts=cases.prompts,
        masks=cases.cache.masks if TASKS[task].outputs == "masks" else None,
        hu_window=None if volume is None else (float(volume["hu_window"][0]), float(volume["hu_window"][1])),
    )

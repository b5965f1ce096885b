"""What all epochs of one training share: stages, optimizer, loss, memory layout."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from archbench.features import FeatureHead
from archbench.freezing import Stages
from archbench.losses.loss import LossFunction, LossNumbers, PixelLoss, training_weights
from archbench.models.building import NormalizedNetwork, parameter_stages
from archbench.optimization import WeightAverage, build_optimizer
from archbench.registry import LOSSES
from archbench.sampling import sampling_weights
from archbench.training_epoch import Trainer, TrainingData, TrainingError

if TYPE_CHECKING:
    from archbench.settings import Training


def stages_of(network: NormalizedNetwork | FeatureHead) -> Stages:
    """Return the parameters from input to head; a head on features is one stage."""
    if isinstance(network, FeatureHead):
        return [("head", list(network.parameters()))]
    return parameter_stages(network)


def prepare(
    network: NormalizedNetwork | FeatureHead,
    data: TrainingData,
    weights: np.ndarray | None,
    *,
    settings: Training,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Trainer:
    """Put together what all epochs share."""
    if data.outputs == "value":
        _start_at_mean(network, data.train_targets)
    network.to(device)
    if settings.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.gradient_checkpointing and isinstance(network, NormalizedNetwork):
        checkpoint_gradients(network)
    stages = stages_of(network)
    averaged = copy.deepcopy(network)
    balanced = settings.sampler == "balanced"
    loss = _build_loss(data, weights, settings, device)
    targets = torch.from_numpy(data.train_targets).float().to(device)
    return Trainer(
        network=network,
        averaged=averaged,
        average=WeightAverage(averaged, network),
        forward=torch.compile(network) if settings.compile else network,
        stages=stages,
        optimizer=build_optimizer(stages, settings),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        loss=loss,
        data=data,
        sampling=sampling_weights(data.train_targets, outputs=data.outputs, num_classes=data.num_classes)
        if balanced
        else None,
        case_weights=loss.weights(targets).flatten(1).sum(dim=1, keepdim=True),
        settings=settings,
        seed=seed,
        device=device,
        dtype=dtype,
    )


def checkpoint_gradients(network: NormalizedNetwork) -> None:
    """Recompute activations in the backward pass (timm's and Hugging Face's own switch).

    Raises:
        TrainingError: If the architecture has no such switch.
    """
    for module in network.modules():
        for name in ("set_grad_checkpointing", "gradient_checkpointing_enable"):
            switch = getattr(module, name, None)
            if switch is not None:
                switch()
                return
    raise TrainingError(
        f"{network.architecture} can't recompute its activations: set training.gradient_checkpointing: false"
    )


def _start_at_mean(network: nn.Module, targets: np.ndarray) -> None:
    """Let the last layer start from the mean of the training targets, in their unit."""
    means = torch.tensor(np.nanmean(targets, axis=0), dtype=torch.float32)
    bias = [p for p in stages_of(network)[-1][1] if p.ndim == 1 and len(p) == len(means)]  # type: ignore[arg-type]
    if bias:
        with torch.no_grad():
            bias[-1].copy_(means)


def loss_weights(data: TrainingData, settings: Training) -> np.ndarray | None:
    """Return the class or label weights of a weighted loss, from the training part alone; None for others."""
    if not LOSSES.get(str(settings.loss)).weighted:
        return None
    return training_weights(data.train_targets, outputs=data.outputs, num_classes=data.num_classes)


def _build_loss(
    data: TrainingData, weights: np.ndarray | None, settings: Training, device: torch.device
) -> LossFunction | PixelLoss:
    numbers = LossNumbers(
        outputs=data.outputs,
        num_classes=data.num_classes,
        weights=None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device),
        focal_gamma=settings.focal_gamma,
        focal_alpha=settings.focal_alpha,
        label_smoothing=settings.label_smoothing,
        asl_gamma_negative=settings.asl.gamma_negative,
        asl_gamma_positive=settings.asl.gamma_positive,
        asl_clip=settings.asl.clip,
        tversky_alpha=settings.tversky_alpha,
        huber_delta=settings.huber_delta,
        ungradable_weight=settings.ungradable_weight,
    )
    loss: LossFunction | PixelLoss = LOSSES.get(str(settings.loss)).build(numbers)
    return loss

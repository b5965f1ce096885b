"""One epoch of training: draw, augment, mix, forward, backward, step."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from archbench.augmentation import augment, augment_volumes, augment_with_masks
from archbench.batches import to_batch
from archbench.freezing import Stages, open_stages, set_trainable
from archbench.losses.loss import LossFunction, PixelLoss, mean_of
from archbench.mixing import Mix, blend, draw_mix
from archbench.optimization import WeightAverage, average_share, clip_gradients, epoch_lr, set_lr
from archbench.prompts import Prompts, training_prompts
from archbench.sampling import epoch_batches, split_evenly

if TYPE_CHECKING:
    from archbench.settings import Training

LARGE_PRIME = 1_000_003
STEPS_PER_AVERAGE = 2  # consecutive weights hardly differ: every second one makes the same running average


class TrainingError(RuntimeError):
    """Training can't go on; the message says what to change."""


@dataclass(frozen=True)
class TrainingData:
    """The cached inputs and the rows of both parts.

    Attributes:
        images: Images, uint8, shape (N, S, S, 3), volumes, int16, shape (N, D, S, S), or features, float32, shape
            (N, F), of slices (N, D, F); memory-mapped.
        clahe: The images after contrast equalisation, used for training alone; None without.
        train_rows, val_rows: Rows of the cache.
        train_targets, val_targets: Targets of these rows, float64, shape (n, L), NaN where unknown.
        num_classes: Length of the fixed class list.
        outputs: What the logits are: classes, labels, zones or value.
        class_names: Names of the classes of one zone, for the validation metric, which leaves out ungradable ones.
        masks: Class indices of segmentation, uint8, shape (N, S, S), memory-mapped; the targets then say which
            structures a case holds.
        prompts: Of a prompted network, in the order of `images`; in training they are made of the moved masks.
        hu_window: Of volumes, the window in Hounsfield units; None: these are images.
    """

    images: np.ndarray
    clahe: np.ndarray | None
    train_rows: np.ndarray
    train_targets: np.ndarray
    val_rows: np.ndarray
    val_targets: np.ndarray
    num_classes: int
    outputs: str = "classes"
    class_names: tuple[str, ...] = ()
    masks: np.ndarray | None = None
    hu_window: tuple[float, float] | None = None
    prompts: Prompts | None = None

    @property
    def size(self) -> int:
        """Side of the images, pixels; of features it means nothing."""
        return int(self.images.shape[min(2, self.images.ndim - 1)])

    @property
    def unit(self) -> str:
        """What a row is: an image, or a volume, whose features are those of its slices."""
        return "image" if self.hu_window is None and self.images.ndim != 3 else "volume"


@dataclass(frozen=True)
class Trainer:
    """What stays the same over the epochs of one training.

    Attributes:
        network: The weights that are trained; `averaged` is their running average, moved by `average`.
        forward: The network, compiled if asked for.
        stages: Its parameters from input to head.
        sampling: Probability of each training case; None draws each once per epoch.
        case_weights: Weight of each training case in the loss, summed over its cells, shape (N, 1).
    """

    network: nn.Module
    averaged: nn.Module
    average: WeightAverage
    forward: Callable[[torch.Tensor], torch.Tensor]
    stages: Stages
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loss: LossFunction | PixelLoss
    data: TrainingData
    sampling: np.ndarray | None
    case_weights: torch.Tensor
    settings: Training
    seed: int
    device: torch.device
    dtype: torch.dtype


def train_epoch(trainer: Trainer, *, epoch: int, factor: float, pass_size: int) -> tuple[float, int]:
    """Train for one epoch; its draws follow from seed and epoch alone.

    Args:
        factor: Product of the plateau's reductions so far.
        pass_size: Images per forward pass.
    Returns:
        The mean loss, and the pass size that fitted into the memory.
    Raises:
        TrainingError: If the loss is not finite, or not even one image fits into the memory.
    """
    settings, data = trainer.settings, trainer.data
    n_open = open_stages(epoch, len(trainer.stages), settings)
    set_trainable(trainer.network, trainer.stages, n_open=n_open)
    draws = np.random.default_rng([trainer.seed, epoch])
    generator = torch.Generator().manual_seed(trainer.seed * LARGE_PRIME + epoch)
    updates = epoch_batches(
        len(data.train_rows),
        settings.batch_size * settings.accumulation_steps,
        generator=draws,
        weights=trainer.sampling,
    )
    averages = math.ceil(len(updates) / STEPS_PER_AVERAGE)
    total, weight = (torch.zeros((), device=trainer.device) for _ in range(2))
    for step, positions in enumerate(updates):
        set_lr(trainer.optimizer, epoch_lr(epoch - 1 + (step + 1) / len(updates), settings, factor=factor))
        values, weights, pass_size = _update_within_memory(trainer, positions, draws, generator, pass_size)
        total += values
        weight += weights
        if (len(updates) - 1 - step) % STEPS_PER_AVERAGE == 0:  # always after the last one
            taken = (epoch - 1) * averages + step // STEPS_PER_AVERAGE
            trainer.average.update(average_share(taken, settings.average_epochs * averages))
    mean = float(mean_of(total, weight))
    if not math.isfinite(mean):
        raise TrainingError(f"the training loss is {mean} in epoch {epoch}: lower training.lr (now {settings.lr:g})")
    return mean, pass_size


def _update_within_memory(
    trainer: Trainer, positions: np.ndarray, draws: np.random.Generator, generator: torch.Generator, pass_size: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Take one step; where memory runs out, with smaller passes that make the same step."""
    while True:
        try:
            return (*_update(trainer, split_evenly(positions, pass_size), draws, generator), pass_size)
        except torch.OutOfMemoryError:
            if pass_size == 1:
                raise TrainingError(
                    f"out of memory with a single {trainer.data.unit} per pass: lower image_size, or set "
                    "training.gradient_checkpointing: true"
                ) from None
        trainer.optimizer.zero_grad(set_to_none=True)
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()
        pass_size = max(1, math.ceil(min(pass_size, len(positions)) / 2))
        print(
            f"out of memory: going on with {pass_size} {trainer.data.unit}s per pass; an update still takes "
            f"{trainer.settings.batch_size * trainer.settings.accumulation_steps}",
            file=sys.stderr,
            flush=True,
        )


def _update(
    trainer: Trainer, passes: list[np.ndarray], draws: np.random.Generator, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one step of the optimizer over several passes; return the sums of loss values and of weights.

    The weight of all passes is known before the first one, so that their gradients add up to that of one batch.
    """
    settings, loss, optimizer, scaler = trainer.settings, trainer.loss, trainer.optimizer, trainer.scaler
    targets = [torch.from_numpy(trainer.data.train_targets[p]).float().to(trainer.device) for p in passes]
    size, mixing = trainer.data.size, {"mixup": settings.mixup, "cutmix": settings.cutmix}
    mixes = [draw_mix(len(p), **mixing, size=size, generator=draws) for p in passes]
    places = [torch.from_numpy(p).to(trainer.device) for p in passes]
    weights = [blend(m, trainer.case_weights.__getitem__, p).sum() for m, p in zip(mixes, places, strict=True)]
    weight = weights[0] if len(weights) == 1 else torch.stack(weights).sum()
    total = torch.zeros((), device=trainer.device)
    optimizer.zero_grad(set_to_none=True)
    for positions, mix, target in zip(passes, mixes, targets, strict=True):
        if trainer.data.masks is None:
            images = training_batch(trainer, positions, mix, draws, generator)
        else:
            images, target = training_batch_with_masks(trainer, positions, mix, draws, generator)
        beside = _prompts_of(trainer, target, draws)
        with torch.autocast(trainer.device.type, dtype=trainer.dtype, enabled=trainer.dtype != torch.float32):
            logits = trainer.forward(images, *beside).float()  # losses lose digits in half precision
            values = blend(mix, partial(loss.cells, logits), target).sum()
        scaler.scale(mean_of(values, weight)).backward()
        total += values.detach()
    if settings.grad_clip is not None:
        scaler.unscale_(optimizer)
        clip_gradients(optimizer, scaler, settings.grad_clip)
    scaler.step(optimizer)
    scaler.update()
    return total, weight


def training_batch(
    trainer: Trainer,
    positions: np.ndarray,
    mix: Mix | None,
    draws: np.random.Generator,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return the augmented and mixed inputs at some positions of the training part."""
    images = _pixels(trainer, positions, draws)
    if images.ndim < 4:  # features of a frozen backbone
        return images
    settings, hu_window = trainer.settings, trainer.data.hu_window
    change = augment if hu_window is None else partial(augment_volumes, hu_window=hu_window)
    images = change(images, strength=settings.augmentation, flips=_flips(settings), generator=generator)
    images = images if mix is None else mix.images(images)
    return images if hu_window is not None else _laid_out(images, settings)  # slices are no channels


def training_batch_with_masks(
    trainer: Trainer,
    positions: np.ndarray,
    mix: Mix | None,
    draws: np.random.Generator,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return augmented inputs and their masks, class indices (B, H, W), which moved along.

    Images are blended where mixing is on; the masks stay, since the loss takes both by their shares.
    """
    settings, rows = trainer.settings, trainer.data.train_rows[positions]
    assert trainer.data.masks is not None
    masks = torch.from_numpy(np.ascontiguousarray(trainer.data.masks[rows])).to(trainer.device)
    images, masks = augment_with_masks(
        _pixels(trainer, positions, draws),
        masks,
        strength=settings.augmentation,
        flips=_flips(settings),
        generator=generator,
    )
    return _laid_out(images if mix is None else mix.images(images), settings), masks


def _prompts_of(trainer: Trainer, masks: torch.Tensor, draws: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Return what a prompted network takes beside the images: prompts of their masks, as these were moved."""
    prompts = trainer.data.prompts
    if prompts is None:
        return ()
    structures = prompts.values.shape[1]
    found = training_prompts(
        masks.cpu().numpy(), structures=structures, kind=prompts.kind, jitter=prompts.jitter, generator=draws
    )
    return (torch.from_numpy(found).to(trainer.device),)


def _pixels(trainer: Trainer, positions: np.ndarray, draws: np.random.Generator) -> torch.Tensor:
    """Return the inputs at some positions, a share of the images after contrast equalisation."""
    data, settings = trainer.data, trainer.settings
    rows = data.train_rows[positions]
    images = to_batch(data.images, rows, trainer.device).float()
    if images.ndim > 3 and data.clahe is not None:
        chosen = np.flatnonzero(draws.random(len(rows)) < settings.clahe_probability)
        if len(chosen):
            picked = torch.from_numpy(chosen).to(trainer.device)
            images[picked] = to_batch(data.clahe, rows[chosen], trainer.device).float()
    return images


def _flips(settings: Training) -> str:
    return "both" if settings.flips == "auto" else settings.flips


def _laid_out(images: torch.Tensor, settings: Training) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last) if settings.channels_last else images

"""Train one network on one fold: best epoch kept and used, resumable to the same weights."""

from __future__ import annotations

import copy
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from archbench.artifacts import softmax
from archbench.augmentation import augment
from archbench.batches import predict_logits, to_batch
from archbench.losses.loss import LossFunction, balanced_class_weights
from archbench.models.building import NormalizedNetwork, set_training_mode
from archbench.optimization import average_share, average_weights, build_optimizer, epoch_batches, epoch_lr
from archbench.registry import LOSSES, METRICS

if TYPE_CHECKING:
    from archbench.settings import Training

LARGE_PRIME = 1_000_003


class TrainingError(RuntimeError):
    """Training can't go on; the message says what to change."""


@dataclass(frozen=True)
class TrainingData:
    """The cached images and the rows of both parts.

    Attributes:
        images: uint8, shape (N, S, S, 3), memory-mapped.
        clahe: The same after contrast equalisation, used for training alone; None without.
        train_rows, val_rows: Rows of the cache.
        train_targets, val_targets: Class indices of these rows.
        num_classes: Length of the fixed class list.
    """

    images: np.ndarray
    clahe: np.ndarray | None
    train_rows: np.ndarray
    train_targets: np.ndarray
    val_rows: np.ndarray
    val_targets: np.ndarray
    num_classes: int


@dataclass
class Progress:
    """What an interrupted training needs to go on; everything else follows from seed and epoch."""

    epoch: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_value: float | None = None
    history: list[dict[str, float | int | None]] = field(default_factory=list)
    best_tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    plateau_factor: float = 1.0


@dataclass(frozen=True)
class TrainingResult:
    """History and account of a finished training; the network carries the best epoch's weights."""

    history: list[dict[str, float | int | None]]
    best_epoch: int
    best_value: float
    metric: str
    seconds: float
    stopped_early: bool
    class_weights: list[float] | None
    resumed_from: int


def train(
    network: NormalizedNetwork,
    data: TrainingData,
    *,
    settings: Training,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    decision: str,
    state_path: Path,
    identity: str,
    on_epoch: Callable[[list[dict[str, float | int | None]]], None] | None = None,
) -> TrainingResult:
    """Train with early stopping and leave the best epoch's weights in the network.

    Each epoch's order, augmentation and dropout follow from seed and epoch alone, so a training that
    goes on after an interruption ends with the weights of an undisturbed one (CPU).

    Args:
        network: Start weights loaded.
        dtype: Autocast type; float32 for none.
        decision: How probabilities become a class in the validation metric, see `archbench.artifacts.decide`.
        state_path: Where the state of the last finished epoch is kept.
        identity: Hash of data, settings and code; a state of another identity is not used.
        on_epoch: Called with the history after each epoch.
    Raises:
        TrainingError: If the loss is not finite or the validation metric is never defined.
    """
    network.to(device)
    optimizer = build_optimizer(network, settings)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    averaged = copy.deepcopy(network)
    parts = {"network": network, "averaged": averaged, "optimizer": optimizer, "scaler": scaler}
    progress = _load_state(state_path, identity, parts)
    resumed_from = progress.epoch
    weights, loss = _build_loss(data, settings, device)
    metric = str(settings.early_stopping.metric)
    while not _finished(progress, settings):
        started = time.perf_counter()
        epoch = progress.epoch + 1
        lr = epoch_lr(epoch, settings, factor=progress.plateau_factor)
        torch.manual_seed(seed * LARGE_PRIME + epoch)
        train_loss = _train_epoch(
            network,
            averaged,
            data,
            settings,
            optimizer,
            scaler,
            loss,
            seed=seed,
            epoch=epoch,
            device=device,
            dtype=dtype,
            factor=progress.plateau_factor,
        )
        val_loss, value = _validate(
            averaged, data, loss, metric, decision, batch_size=settings.eval_batch_size, device=device, dtype=dtype
        )
        seconds = time.perf_counter() - started
        row = {
            "epoch": epoch,
            "train_loss": train_loss,
            "val_loss": val_loss,
            f"val_{metric}": value,
            "lr": lr,
            "images_per_s": len(data.train_rows) / seconds,
            "seconds": seconds,
        }
        _advance(progress, row, value, averaged, settings)
        _report_epoch(progress, row, settings, metric)
        _save_state(state_path, identity, parts, progress)
        if on_epoch is not None:
            on_epoch(progress.history)
    if progress.best_value is None:
        raise TrainingError(
            f"the validation {metric} was undefined in all {progress.epoch} epochs: the validation part has too few "
            "classes; enlarge protocol.validation_fraction or set training.early_stopping.metric: loss"
        )
    network.load_state_dict(progress.best_tensors)
    return TrainingResult(
        history=progress.history,
        best_epoch=progress.best_epoch,
        best_value=progress.best_value,
        metric=metric,
        seconds=progress.seconds,
        stopped_early=progress.epoch < settings.epochs,
        class_weights=None if weights is None else weights.tolist(),
        resumed_from=resumed_from,
    )


def seed_start(seed: int) -> None:
    """Seed the random start weights of a network that is about to be built."""
    torch.manual_seed(seed)


def _build_loss(data: TrainingData, settings: Training, device: torch.device) -> tuple[np.ndarray | None, LossFunction]:
    entry = LOSSES.get(str(settings.loss))
    weights = balanced_class_weights(data.train_targets, num_classes=data.num_classes) if entry.weighted else None
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
    loss = entry.build(class_weights=tensor, focal_gamma=settings.focal_gamma, label_smoothing=settings.label_smoothing)
    return weights, loss


def _train_epoch(
    network: NormalizedNetwork,
    averaged: NormalizedNetwork,
    data: TrainingData,
    settings: Training,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    loss: LossFunction,
    *,
    seed: int,
    epoch: int,
    device: torch.device,
    dtype: torch.dtype,
    factor: float,
) -> float:
    set_training_mode(network, backbone=epoch > settings.freeze_epochs)
    draws = np.random.default_rng([seed, epoch])
    generator = torch.Generator().manual_seed(seed * LARGE_PRIME + epoch)
    batches = epoch_batches(len(data.train_rows), settings.batch_size, generator=draws)
    total = torch.zeros((), device=device)
    for step, positions in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = epoch_lr(epoch - 1 + (step + 1) / len(batches), settings, factor=factor)
        images = _training_batch(data, positions, settings, draws, generator, device)
        targets = torch.from_numpy(data.train_targets[positions]).to(device)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            value = loss(network(images), targets)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(value).backward()
        if settings.grad_clip is not None:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.grad_clip)
        scaler.step(optimizer)
        scaler.update()
        steps_done = (epoch - 1) * len(batches) + step
        average_weights(averaged, network, share=average_share(steps_done, settings.average_epochs * len(batches)))
        total += value.detach() * len(positions)
    mean = float(total) / len(data.train_rows)
    if not math.isfinite(mean):
        raise TrainingError(f"the training loss is {mean} in epoch {epoch}: lower training.lr (now {settings.lr:g})")
    return mean


def _training_batch(
    data: TrainingData,
    positions: np.ndarray,
    settings: Training,
    draws: np.random.Generator,
    generator: torch.Generator,
    device: torch.device,
) -> torch.Tensor:
    rows = data.train_rows[positions]
    images = to_batch(data.images, rows, device).float()
    if data.clahe is not None:
        chosen = np.flatnonzero(draws.random(len(rows)) < settings.clahe_probability)
        if len(chosen):
            images[torch.from_numpy(chosen).to(device)] = to_batch(data.clahe, rows[chosen], device).float()
    return augment(images, strength=settings.augmentation, flips=settings.flips, generator=generator)


def _validate(
    network: NormalizedNetwork,
    data: TrainingData,
    loss: LossFunction,
    metric: str,
    decision: str,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[float, float | None]:
    logits = predict_logits(network, data.images, data.val_rows, batch_size=batch_size, device=device, dtype=dtype)
    targets = torch.from_numpy(data.val_targets).to(device)
    val_loss = float(loss(torch.from_numpy(logits).to(device), targets))
    if metric == "loss":
        return val_loss, val_loss
    value = METRICS.get(metric).value(softmax(logits), data.val_targets, decision)
    return val_loss, None if math.isnan(value) else value


def _advance(
    progress: Progress,
    row: dict[str, float | int | None],
    value: float | None,
    network: NormalizedNetwork,
    settings: Training,
) -> None:
    """Count the epoch; keep the weights if it is the best, lower the plateau's factor if it drags on."""
    progress.epoch += 1
    progress.seconds += float(row["seconds"] or 0)
    progress.history.append(row)
    sign = 1 if _greater_is_better(settings) else -1
    gain = None if value is None or progress.best_value is None else sign * (value - progress.best_value)
    if value is not None and (gain is None or gain > settings.early_stopping.min_delta):
        progress.best_epoch, progress.best_value = progress.epoch, value
        progress.best_tensors = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
    waited = progress.epoch - progress.best_epoch
    if waited and waited % settings.step_epochs == 0:
        progress.plateau_factor *= settings.step_factor


def _greater_is_better(settings: Training) -> bool:
    metric = str(settings.early_stopping.metric)
    return metric != "loss" and bool(METRICS.get(metric).greater_is_better)


def _finished(progress: Progress, settings: Training) -> bool:
    waited = progress.epoch - max(progress.best_epoch, settings.freeze_epochs)
    return progress.epoch >= settings.epochs or waited >= settings.early_stopping.patience


def _report_epoch(progress: Progress, row: dict[str, float | int | None], settings: Training, metric: str) -> None:
    left = int((settings.epochs - progress.epoch) * progress.seconds / progress.epoch)
    value = row[f"val_{metric}"]
    best = " *" if progress.best_epoch == progress.epoch else ""
    print(
        f"epoch {progress.epoch}/{settings.epochs}  loss {row['train_loss']:.4f}  val_loss {row['val_loss']:.4f}  "
        f"val_{metric} {'undefined' if value is None else format(value, '.4f')}{best}  lr {row['lr']:.2e}  "
        f"{row['images_per_s']:.0f} images/s  remaining {left // 60}:{left % 60:02d}",
        file=sys.stderr,
        flush=True,
    )


def _save_state(
    path: Path,
    identity: str,
    parts: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Replace the state file in one step; no flush to disk, a lost epoch is only trained again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    content = {
        "identity": identity,
        **{name: part.state_dict() for name, part in parts.items()},
        "progress": {k: getattr(progress, k) for k in asdict(Progress())},
    }
    torch.save(content, temporary)
    os.replace(temporary, path)


def _load_state(
    path: Path,
    identity: str,
    parts: Mapping[str, Any],
) -> Progress:
    """Load the state of the last finished epoch; without one of this identity that can be read, start over."""
    for torn in path.parent.glob(f"{path.name}.*.part"):
        torn.unlink()  # of a process that was ended while it wrote
    if not path.is_file():
        return Progress()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn file can fail in many ways; the remedy is the same
        print(f"{path} can't be read ({error}): starting over", file=sys.stderr)
        return Progress()
    if content.get("identity") != identity:
        print(f"{path} belongs to other settings, data or code: starting over", file=sys.stderr)
        return Progress()
    for name, part in parts.items():
        part.load_state_dict(content[name])
    progress = Progress(**content["progress"])
    print(f"continuing after epoch {progress.epoch}", file=sys.stderr, flush=True)
    return progress


def history_csv(history: Sequence[dict[str, float | int | None]]) -> str:
    """Return the history as CSV text; undefined values are empty."""
    columns = list(history[0])
    lines = [",".join("" if row[c] is None else f"{row[c]:.8g}" for c in columns) for row in history]
    return "\n".join([",".join(columns), *lines]) + "\n"

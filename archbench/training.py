"""Train one network on one fold: best epoch kept and used, resumable to the same weights."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from archbench.artifacts import softmax
from archbench.batches import affordable, predict_logits
from archbench.features import FeatureHead
from archbench.freezing import open_stages
from archbench.mask_validation import validate_masks
from archbench.metrics.scoring import validation_value
from archbench.models.building import NormalizedNetwork
from archbench.optimization import epoch_lr
from archbench.registry import METRICS
from archbench.training_epoch import LARGE_PRIME, Trainer, TrainingData, TrainingError, train_epoch
from archbench.training_setup import loss_weights, prepare
from archbench.training_state import Progress, load_state, save_state

if TYPE_CHECKING:
    from archbench.settings import Training

History = list[dict[str, float | int | None]]


@dataclass(frozen=True)
class TrainingResult:
    """History and account of a finished training; the network carries the best epoch's weights."""

    history: History
    best_epoch: int
    best_value: float | None
    metric: str
    seconds: float
    stopped_early: bool
    class_weights: list[float] | None
    resumed_from: int
    pass_size: int


def train(
    network: NormalizedNetwork | FeatureHead,
    data: TrainingData,
    *,
    settings: Training,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    decision: str,
    state_path: Path,
    identity: str,
    fixed_epochs: int | None = None,
    on_epoch: Callable[[History], None] | None = None,
) -> TrainingResult:
    """Train with early stopping and leave the best epoch's weights in the network.

    Each epoch's order, augmentation and dropout follow from seed and epoch alone, so a training that
    goes on after an interruption ends with the weights of an undisturbed one (CPU).

    Args:
        network: Start weights loaded; a FeatureHead trains on cached features.
        dtype: Autocast type; float32 for none.
        decision: How probabilities become a class in the validation metric, see `archbench.artifacts.decide`.
        state_path: Where the state of the last finished epoch is kept.
        identity: Hash of data, settings and code; a state of another identity is not used.
        fixed_epochs: Train this many epochs of the schedule without validation and keep the last one's weights.
        on_epoch: Called with the history after each epoch.
    Raises:
        TrainingError: If the loss is not finite or the validation metric is never defined.
    """
    weights = loss_weights(data, settings)
    trainer = prepare(network, data, weights, settings=settings, seed=seed, device=device, dtype=dtype)
    parts = {name: getattr(trainer, name) for name in ("network", "averaged", "optimizer", "scaler")}
    progress = load_state(state_path, identity, parts)
    resumed_from, metric = progress.epoch, str(settings.early_stopping.metric)
    while not _finished(progress, settings, fixed_epochs):
        started = time.perf_counter()
        epoch = progress.epoch + 1
        torch.manual_seed(seed * LARGE_PRIME + epoch)
        train_loss, progress.pass_size = train_epoch(
            trainer,
            epoch=epoch,
            factor=progress.plateau_factor,
            pass_size=progress.pass_size or affordable(network, settings.batch_size),
        )
        val_loss, value = (None, None) if fixed_epochs else _validate(trainer, metric, decision)
        seconds = time.perf_counter() - started
        row = {
            "epoch": epoch,
            "train_loss": train_loss,
            "val_loss": val_loss,
            f"val_{metric}": value,
            "lr": epoch_lr(epoch, settings, factor=progress.plateau_factor),
            "images_per_s": len(data.train_rows) / seconds,
            "seconds": seconds,
        }
        _advance(progress, row, value, trainer, last=epoch == fixed_epochs)
        _report_epoch(progress, row, settings, metric, n_stages=len(trainer.stages), unit=data.unit)
        save_state(state_path, identity, parts, progress)
        if on_epoch is not None:
            on_epoch(progress.history)
    if not progress.best_tensors:
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
        stopped_early=progress.epoch < settings.epochs and fixed_epochs is None,
        class_weights=None if weights is None else weights.tolist(),
        resumed_from=resumed_from,
        pass_size=progress.pass_size,
    )


def _validate(trainer: Trainer, metric: str, decision: str) -> tuple[float, float | None]:
    """Return the validation loss and metric of the averaged weights."""
    data, device = trainer.data, trainer.device
    if data.masks is not None:
        return validate_masks(trainer, metric)
    batch_size = trainer.settings.eval_batch_size
    logits = predict_logits(
        trainer.averaged, data.images, data.val_rows, batch_size=batch_size, device=device, dtype=trainer.dtype
    )
    targets = torch.from_numpy(data.val_targets).float().to(device)
    val_loss = float(trainer.loss(torch.from_numpy(logits).to(device), targets))
    if metric == "loss":
        return val_loss, val_loss
    value = validation_metric(
        metric, logits, data.val_targets, outputs=data.outputs, decision=decision, class_names=data.class_names
    )
    return val_loss, None if math.isnan(value) else value


def validation_metric(
    metric: str,
    logits: np.ndarray,
    targets: np.ndarray,
    *,
    outputs: str,
    decision: str,
    class_names: Sequence[str] = (),
) -> float:
    """Return a metric of the validation part, NaN where undefined.

    Args:
        logits: Shape (N, K).
        targets: Shape (N, L), NaN where unknown.
        outputs: What the logits are.
        class_names: Names of the classes of one zone.
    """
    if outputs != "classes":
        metadata = {"outputs": outputs, "class_names": list(class_names), "decision": decision}
        return validation_value(METRICS.get(metric), logits, targets, metadata=metadata)
    return float(METRICS.get(metric).value(softmax(logits), targets[:, 0].astype(np.int64), decision))


def _advance(
    progress: Progress,
    row: dict[str, float | int | None],
    value: float | None,
    trainer: Trainer,
    *,
    last: bool,
) -> None:
    """Count the epoch; keep the weights if it is the best, lower the plateau's factor if it drags on."""
    settings = trainer.settings
    progress.epoch += 1
    progress.seconds += float(row["seconds"] or 0)
    progress.history.append(row)
    sign = 1 if _greater_is_better(settings) else -1
    gain = None if value is None or progress.best_value is None else sign * (value - progress.best_value)
    if last or (value is not None and (gain is None or gain > settings.early_stopping.min_delta)):
        progress.best_epoch, progress.best_value = progress.epoch, value
        progress.best_tensors = {k: v.detach().cpu().clone() for k, v in trainer.averaged.state_dict().items()}
    waited = progress.epoch - progress.best_epoch
    validated = row["val_loss"] is not None  # the final model on all data is not: its rate stays
    if validated and waited and waited % settings.step_epochs == 0:
        progress.plateau_factor *= settings.step_factor


def _greater_is_better(settings: Training) -> bool:
    metric = str(settings.early_stopping.metric)
    return metric != "loss" and bool(METRICS.get(metric).greater_is_better)


def _finished(progress: Progress, settings: Training, fixed_epochs: int | None) -> bool:
    if fixed_epochs is not None:
        return progress.epoch >= fixed_epochs
    waited = progress.epoch - max(progress.best_epoch, settings.freeze_epochs)
    return progress.epoch >= settings.epochs or waited >= settings.early_stopping.patience


def _report_epoch(
    progress: Progress, row: dict[str, float | int | None], settings: Training, metric: str, *, n_stages: int, unit: str
) -> None:
    left = int((settings.epochs - progress.epoch) * progress.seconds / progress.epoch)
    value, val_loss = row[f"val_{metric}"], row["val_loss"]
    best = " *" if progress.best_epoch == progress.epoch else ""
    waited = progress.epoch - progress.best_epoch
    patience = f"  patience {waited}/{settings.early_stopping.patience}" if waited and val_loss is not None else ""
    n_open = open_stages(progress.epoch, n_stages, settings)
    frozen = f"  {n_stages - n_open} of {n_stages} stages frozen" if n_open < n_stages else ""
    rate = float(row["images_per_s"] or 0.0)
    print(
        f"epoch {progress.epoch}/{settings.epochs}  loss {row['train_loss']:.4f}  "
        f"val_loss {'none' if val_loss is None else format(val_loss, '.4f')}  "
        f"val_{metric} {'undefined' if value is None else format(value, '.4f')}{best}  lr {row['lr']:.2e}  "
        f"{rate:.{0 if rate >= 10 else 1}f} {unit}s/s  remaining {left // 60}:{left % 60:02d}{patience}{frozen}",
        file=sys.stderr,
        flush=True,
    )


def history_csv(history: Sequence[dict[str, float | int | None]]) -> str:
    """Return the history as CSV text; undefined values are empty."""
    columns = list(history[0])
    lines = [",".join("" if row[c] is None else f"{row[c]:.8g}" for c in columns) for row in history]
    return "\n".join([",".join(columns), *lines]) + "\n"

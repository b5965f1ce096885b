"""Validation of a segmentation network during training: pixels counted batch by batch, no logits are kept."""

from __future__ import annotations

import math

import numpy as np
import torch

from archbench.batches import affordable, prompts_at, to_batch
from archbench.metrics.segmentation import counted_value
from archbench.training_epoch import Trainer


@torch.no_grad()
def validate_masks(trainer: Trainer, metric: str) -> tuple[float, float | None]:
    """Return the validation loss and a metric of the averaged weights, in the cache's pixels.

    Args:
        metric: loss, or a name of `archbench.metrics.segmentation.COUNTED`: the mean over images of the mean over the
            structures that are there.
    Raises:
        FloatingPointError: If logits are not finite.
    """
    data, device, network = trainer.data, trainer.device, trainer.averaged
    assert data.masks is not None
    network.eval()
    prompts = None if data.prompts is None else data.prompts.values
    loss, counts = 0.0, []
    batch_size = affordable(network, trainer.settings.eval_batch_size)
    for start in range(0, len(data.val_rows), batch_size):
        rows = data.val_rows[start : start + batch_size]
        masks = torch.from_numpy(np.ascontiguousarray(data.masks[rows])).to(device)
        with torch.autocast(device.type, dtype=trainer.dtype, enabled=trainer.dtype != torch.float32):
            logits = network(to_batch(data.images, rows, device), *prompts_at(prompts, rows, device)).float()
        if not torch.isfinite(logits).all():
            raise FloatingPointError("logits of the validation part are not finite: lower training.lr")
        loss += float(trainer.loss.cells(logits, masks.float()).sum())
        counts.append(count_pixels(logits.argmax(dim=1), masks, structures=logits.shape[1] - 1).cpu().numpy())
    val_loss = loss / len(data.val_rows)
    if metric == "loss":
        return val_loss, val_loss
    value = counted_value(metric, np.concatenate(counts), pixels=math.prod(data.masks.shape[1:]))
    return val_loss, None if math.isnan(value) else value


def count_pixels(said: torch.Tensor, true: torch.Tensor, *, structures: int) -> torch.Tensor:
    """Return the pixels of truth, prediction and both, shape (B, L, 3), of class indices (B, H, W)."""
    index = torch.arange(1, structures + 1, device=true.device)[:, None, None]
    is_true, is_said = true[:, None] == index, said[:, None] == index
    return torch.stack([m.sum(dim=(2, 3)) for m in (is_true, is_said, is_true & is_said)], dim=2)

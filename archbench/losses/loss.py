"""What a loss is to the rest of the product (no torch here).

Every loss works on cells: one cell per case and label (class tasks have one label, zone tasks one per zone).
A cell's value already carries its weight, and the weights follow from the targets alone, so that the mean of a
batch is the sum of values over the sum of weights, and several small batches add up to exactly one large one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LossNumbers:
    """The recipe's numbers that losses are built from; each loss takes those it knows.

    Attributes:
        outputs: What the logits are: classes, labels, zones or value (archbench.tasks).
        num_classes: Length of the class list.
        weights: Class weights (C,), or weights of the positive side (L,), for weighted losses.
        focal_gamma, focal_alpha: Focusing exponent; share of the positive side (labels), None for no balance.
        label_smoothing: Share of the targets that is spread evenly.
        asl_gamma_negative, asl_gamma_positive, asl_clip: Asymmetric loss.
        tversky_alpha: Weight of false positives; that of misses is 1 - alpha.
        huber_delta: Error from which the Huber loss grows linearly.
        ungradable_weight: Weight of the last class of a zone (ungradable); 0 masks it.
    """

    outputs: str = "classes"
    num_classes: int = 0
    weights: torch.Tensor | None = None
    focal_gamma: float = 2.0
    focal_alpha: float | None = None
    label_smoothing: float = 0.0
    asl_gamma_negative: float = 4.0
    asl_gamma_positive: float = 1.0
    asl_clip: float = 0.05
    tversky_alpha: float = 0.3
    huber_delta: float = 1.0
    ungradable_weight: float = 1.0


CellFunction = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
WeightFunction = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class LossFunction:
    """A loss ready for use; an unknown target (NaN) adds neither loss nor weight.

    Attributes:
        values: Of logits (B, K) and known targets (B, L), the weighted value of each cell, shape (B, L).
        weigh: Of known targets (B, L), the weight of each cell, shape (B, L).
    """

    values: CellFunction
    weigh: WeightFunction

    def cells(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the weighted value of each cell, shape (B, L), 0 where the target is NaN."""
        known = ~targets.isnan()
        return self.values(logits.float(), targets.nan_to_num(0.0)).where(known, 0.0)

    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        """Return the weight of each cell, float32, shape (B, L), 0 where the target is NaN."""
        return self.weigh(targets.nan_to_num(0.0)).float().where(~targets.isnan(), 0.0)

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean over the known cells of logits (B, K) and targets (B, L); 0 if none is known."""
        return mean_of(self.cells(logits, targets).sum(), self.weights(targets).sum())


@dataclass(frozen=True)
class PixelLoss:
    """A loss of masks, used as a LossFunction is: one cell of weight 1 per image.

    Attributes:
        values: Of logits (B, K, H, W) and class indices (B, H, W), the value of each image, shape (B,).
    """

    values: CellFunction

    def cells(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Return the value of each image, shape (B, 1)."""
        return self.values(logits.float(), masks.long())[:, None]

    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        """Return one for each image, float32, shape (B, 1); targets of any shape (B, …)."""
        return targets.new_ones((len(targets), 1)).float()

    def __call__(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Return the mean over the images."""
        return self.cells(logits, masks).mean()


@dataclass(frozen=True)
class Loss:
    """A registered loss.

    Attributes:
        build: Called with LossNumbers; returns a LossFunction, or a PixelLoss where the outputs are masks.
        weighted: Whether it uses weights from the training part.
        outputs: Kinds of outputs that it fits: classes, labels, zones, value, masks.
        ordered: Whether the classes must have an order.
        numbers: Keys of `training` that decide its value, where they mean something for the outputs.
    """

    build: Callable[[LossNumbers], LossFunction | PixelLoss]
    weighted: bool
    outputs: tuple[str, ...] = ("classes", "zones")
    ordered: bool = False
    numbers: tuple[str, ...] = ("label_smoothing",)

    def depends_on(self, number: str, outputs: str) -> bool:
        """Whether a key of `training` (asl.clip for nested ones) changes the loss of these outputs."""
        if number == "ungradable_weight":
            return outputs == "zones"
        return number in self.numbers and (number != "focal_alpha" or outputs == "labels")

    def fits(self, outputs: str, *, ordered: bool) -> bool:
        """Whether the loss can train a task with these outputs."""
        return outputs in self.outputs and (ordered or not self.ordered)


def mean_of(total: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return total / weight, and 0 with zero gradients where no cell has weight."""
    return total / weight.where(weight > 0, 1.0)


def unweighted(targets: torch.Tensor) -> torch.Tensor:
    """Return one for each cell."""
    return targets.new_ones(targets.shape)


def smooth_labels(targets: torch.Tensor, amount: float) -> torch.Tensor:
    """Return t (1 - a) + a / 2 for labels t between 0 and 1."""
    return targets * (1 - amount) + amount / 2


def by_class(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (B, L, C) and class indices (B, L) of logits (B, L·C) and targets (B, L)."""
    return logits.unflatten(1, (targets.shape[1], -1)), targets.long()


def class_weights(numbers: LossNumbers) -> torch.Tensor | None:
    """Return the weight of each class, shape (C,): balanced or even, or None if all weigh 1.

    The last class of a zone (ungradable) has a weight of its own.
    """
    if numbers.outputs != "zones":
        return numbers.weights
    import torch

    weights = torch.ones(numbers.num_classes) if numbers.weights is None else numbers.weights.clone()
    weights[-1] = numbers.ungradable_weight
    return weights


def class_weigher(weights: torch.Tensor | None) -> WeightFunction:
    """Return the function that gives each cell the weight of its class."""
    return unweighted if weights is None else lambda targets: weights.to(targets.device)[targets.long()]


def training_weights(targets: np.ndarray, *, outputs: str, num_classes: int) -> np.ndarray:
    """Return the weights of a weighted loss from the training part: per class (C,), or per label (L,).

    Args:
        targets: Of the training part alone, shape (N, L), NaN where unknown.
        outputs: classes, zones (the last class, ungradable, weighs 1 and counts for nothing here) or labels.
        num_classes: Length of the fixed class list.
    """
    if outputs == "labels":
        return positive_weights(targets)
    known = targets[~np.isnan(targets)].astype(np.int64)
    if outputs == "zones":
        gradable = balanced_class_weights(known[known < num_classes - 1], num_classes=num_classes - 1)
        return np.append(gradable, 1.0)
    return balanced_class_weights(known, num_classes=num_classes)


def positive_weights(targets: np.ndarray) -> np.ndarray:
    """Return negatives / positives of each label among its known targets, 1 where a side has no case.

    Args:
        targets: Shape (N, L), NaN where unknown; at least .5 counts as positive.
    Returns:
        float64, shape (L,).
    """
    known = ~np.isnan(targets)
    positives = (known & (np.nan_to_num(targets) >= 0.5)).sum(axis=0).astype(np.float64)
    negatives = known.sum(axis=0) - positives
    both = (positives > 0) & (negatives > 0)
    return np.divide(negatives, positives, out=np.ones_like(positives), where=both)


def balanced_class_weights(y_train: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Return N / (K · n_c) for each class of a fixed list, 0 for a class without a training case.

    An absent class keeps its place: the weights of the others stay at their own index.

    Args:
        y_train: Class indices of the training part alone, shape (N,).
    Returns:
        float64, shape (num_classes,).
    Source:
        King and Zeng, Logistic Regression in Rare Events Data, 2001 (scikit-learn's "balanced").
    """
    counts = np.bincount(y_train, minlength=num_classes).astype(np.float64)
    with np.errstate(divide="ignore"):
        weights = np.where(counts > 0, counts.sum() / (num_classes * counts), 0.0)
    return weights

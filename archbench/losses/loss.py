"""What a loss is to the rest of the product (no torch here)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

LossFunction = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class Loss:
    """A registered loss.

    Attributes:
        build: Called with class_weights (K,) or None, focal_gamma and label_smoothing; returns a function of
            logits (B, K) and class indices (B,) that gives the mean loss.
        weighted: Whether it uses class weights.
    """

    build: Callable[..., LossFunction]
    weighted: bool


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

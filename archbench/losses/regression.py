"""Losses of measured values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.losses.loss import Loss, LossFunction, LossNumbers, unweighted
from archbench.registry import LOSSES

if TYPE_CHECKING:
    import torch


def build_mse(numbers: LossNumbers) -> LossFunction:
    """Return the squared error."""

    def values(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (logits - targets.to(logits)) ** 2

    return LossFunction(values, unweighted)


def build_huber(numbers: LossNumbers) -> LossFunction:
    """Return half the squared error up to huber_delta, from there on linear.

    Source:
        Huber, Robust Estimation of a Location Parameter, 1964; with delta 1 it is torch's smooth L1.
    """
    from torch.nn import functional

    def values(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.huber_loss(logits, targets.to(logits), reduction="none", delta=numbers.huber_delta)

    return LossFunction(values, unweighted)


LOSSES.register("mse", Loss(build=build_mse, weighted=False, outputs=("value",), numbers=()))
LOSSES.register("huber", Loss(build=build_huber, weighted=False, outputs=("value",), numbers=("huber_delta",)))

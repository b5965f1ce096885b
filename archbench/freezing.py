"""Which stages of a network train in which epoch; what rests keeps its weights and its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from archbench.settings import Training

Stages = Sequence[tuple[str, list[nn.Parameter]]]


def open_stages(epoch: int, n_stages: int, settings: Training) -> int:
    """Return how many stages, counted from the head, train in an epoch (1 is the first)."""
    if settings.freeze == "backbone" or epoch <= settings.freeze_epochs:
        return 1
    if settings.unfreeze == "all":
        return n_stages
    return min(n_stages, 2 + (epoch - settings.freeze_epochs - 1) // settings.unfreeze_every)


def set_trainable(network: nn.Module, stages: Stages, *, n_open: int) -> None:
    """Put the last `n_open` stages into training mode; the others get no gradients and fixed statistics.

    Args:
        stages: From input to head.
    """
    active = {id(p) for _, parameters in stages[len(stages) - n_open :] for p in parameters}
    for _, parameters in stages:
        for parameter in parameters:
            parameter.requires_grad = id(parameter) in active
    network.train()
    if n_open < len(stages):
        _rest(network, active)


def _rest(module: nn.Module, active: set[int]) -> None:
    """Put every part without an active parameter into evaluation mode.

    A part without any parameter goes with its neighbours: dropout before the head stays on.
    """
    parameters = list(module.parameters())
    if parameters and not any(id(p) in active for p in parameters):
        module.eval()
        return
    if not parameters and isinstance(module, nn.modules.batchnorm._NormBase):
        module.eval()
    for child in module.children():
        _rest(child, active)

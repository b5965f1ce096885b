"""Ordinal loss: each threshold between two grades is a binary question, answered from the class probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.losses.loss import (
    Loss,
    LossFunction,
    LossNumbers,
    by_class,
    class_weigher,
    class_weights,
    smooth_labels,
)
from archbench.registry import LOSSES

if TYPE_CHECKING:
    import torch


def build_cumulative_link(numbers: LossNumbers) -> LossFunction:
    """Return the mean over the C - 1 thresholds of the cross entropy of P(grade > k).

    A grade missed by three costs more than one missed by one. The published ordinal networks have C - 1 outputs;
    here P(grade > k) is the sum of the softmax of C logits above k, so that predictions stay class logits and
    every probability is defined (never crossing). The score is proper: the expected loss is least at the
    true probabilities.

    Source:
        Cao, Mirjalili and Raschka, Rank consistent ordinal regression, 2020, equation 4, with these
        probabilities; as a score of forecasts: Tödter and Ahrens, The ignorance score of ranks, 2012.
    """
    weights = class_weights(numbers)
    weigh = class_weigher(weights)

    def values(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits, index = by_class(logits, targets)
        whole = logits.logsumexp(dim=-1, keepdim=True)
        log_below = logits.logcumsumexp(dim=-1)[..., :-1] - whole
        log_above = logits.flip(-1).logcumsumexp(dim=-1).flip(-1)[..., 1:] - whole
        thresholds = index.new_tensor(range(logits.shape[-1] - 1))
        above = smooth_labels((index[..., None] > thresholds).to(logits), numbers.label_smoothing)
        entropy = -(above * log_above + (1 - above) * log_below).mean(dim=-1)
        return weigh(targets).to(entropy) * entropy

    return LossFunction(values, weigh)


LOSSES.register(
    "cumulative_link", Loss(build=build_cumulative_link, weighted=False, outputs=("classes",), ordered=True)
)
LOSSES.register(
    "weighted_cumulative_link", Loss(build=build_cumulative_link, weighted=True, outputs=("classes",), ordered=True)
)

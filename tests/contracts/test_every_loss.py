"""What every registered loss must do; a new one joins these tests by itself."""

from __future__ import annotations

import pytest
import torch

from archbench.losses.loss import LossFunction
from archbench.registry import LOSSES

N, K = 6, 4
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.0])
TARGETS = torch.tensor([0, 1, 2, 3, 0, 1])


def build(name: str, *, label_smoothing: float = 0.0) -> LossFunction:
    entry = LOSSES.get(name)
    weights = WEIGHTS if entry.weighted else None
    return entry.build(class_weights=weights, focal_gamma=2.0, label_smoothing=label_smoothing)


def logits(n: int = N) -> torch.Tensor:
    return torch.randn(n, K, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture(params=LOSSES.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_one_finite_number_with_a_gradient(name: str, label_smoothing: float) -> None:
    given = logits()
    value = build(name, label_smoothing=label_smoothing)(given, TARGETS)
    assert value.shape == () and value.dtype == torch.float32 and torch.isfinite(value) and value > 0
    value.backward()
    assert torch.isfinite(given.grad).all()
    assert (given.grad != 0).all(), "every case and class takes part"


def test_it_falls_as_the_right_logit_grows(name: str) -> None:
    loss, given = build(name), logits().detach()
    right = torch.nn.functional.one_hot(TARGETS, K).float()
    values = [float(loss(given + step * right, TARGETS)) for step in (0.0, 1.0, 3.0, 6.0)]
    assert values == sorted(values, reverse=True) and values[0] > values[-1]
    loss(given.requires_grad_(), TARGETS).backward()
    assert (given.grad[torch.arange(N), TARGETS] < 0).all()


def test_it_is_a_mean_not_a_sum(name: str) -> None:
    """A batch twice over costs the same, so that a learning rate holds for every batch size."""
    loss, given = build(name), logits().detach()
    torch.testing.assert_close(loss(given.repeat(2, 1), TARGETS.repeat(2)), loss(given, TARGETS))


def test_order_within_the_batch_doesnt_matter(name: str) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss, given = build(name), logits().detach()
    torch.testing.assert_close(loss(given[order], TARGETS[order]), loss(given, TARGETS))


def test_half_precision_logits_are_summed_in_full(name: str) -> None:
    value = build(name)(logits().detach().bfloat16(), TARGETS)
    assert value.dtype == torch.float32 and torch.isfinite(value)


@pytest.mark.parametrize("scale", [100.0, 1000.0])
def test_extreme_logits_stay_finite(name: str, scale: float) -> None:
    given = (scale * logits().detach()).requires_grad_()
    value = build(name)(given, TARGETS)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(given.grad).all()

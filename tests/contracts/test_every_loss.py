"""What every registered loss must do with every kind of target that it fits; a new one joins by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from archbench.losses.loss import LossFunction, LossNumbers
from archbench.recipe_effects import LOSS_KEYS
from archbench.registry import LOSSES

N, K, ZONES = 6, 4, 3
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.0])
TARGETS = {
    "classes": torch.tensor([[0.0], [1.0], [2.0], [3.0], [0.0], [1.0]]),
    "zones": torch.tensor([[0.0, 1, 2], [3, 0, 1], [2, 3, 0], [1, 2, 3], [0, 0, 1], [1, 3, 2]]),
    "labels": torch.tensor([[0.0, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]]),
    "value": torch.tensor([[0.5, 1, 2, 3], [0, 0, 1, 1], [2, 1, 0, 1], [3, 3, 1, 0], [1, 2, 1, 2], [0, 1, 0, 1]]),
}
KINDS = [(name, kind) for name in LOSSES.names() for kind in LOSSES.get(name).outputs if kind != "masks"]


def build(name: str, kind: str, **numbers: Any) -> LossFunction:
    entry = LOSSES.get(name)
    weights = WEIGHTS if entry.weighted else None
    return entry.build(LossNumbers(outputs=kind, num_classes=K, weights=weights, ungradable_weight=0.3, **numbers))


def logits(kind: str) -> torch.Tensor:
    """Moderate logits, so that no probability is below the clip of the asymmetric loss."""
    width = ZONES * K if kind == "zones" else K
    return (torch.randn(N, width, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)).requires_grad_()


@pytest.fixture(params=KINDS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return tuple(request.param)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_one_finite_number_with_a_gradient(case: tuple[str, str], label_smoothing: float) -> None:
    name, kind = case
    given = logits(kind)
    value = build(name, kind, label_smoothing=label_smoothing)(given, TARGETS[kind])
    assert value.shape == () and value.dtype == torch.float32 and torch.isfinite(value) and value > 0
    value.backward()
    assert torch.isfinite(given.grad).all()
    assert (given.grad != 0).all(), "every case and class takes part"


@pytest.mark.parametrize("key", LOSS_KEYS)
def test_it_depends_on_the_numbers_that_it_names_and_on_no_other(case: tuple[str, str], key: str) -> None:
    """The search space is checked by these names: a value that no loss looks at must not be searched."""
    name, kind = case
    entry = LOSSES.get(name)
    start = {"ungradable_weight": 0.3, "focal_alpha": 0.5}

    def value(**changes: float) -> float:
        weights = WEIGHTS if entry.weighted else None
        numbers = LossNumbers(outputs=kind, num_classes=K, weights=weights, **{**start, **changes})
        return float(entry.build(numbers)(logits(kind).detach(), TARGETS[kind]))

    assert (value() != value(**{key.replace(".", "_"): 0.2})) is entry.depends_on(key, kind)


def test_it_falls_as_the_prediction_nears_the_truth(case: tuple[str, str]) -> None:
    name, kind = case
    loss, given, targets = build(name, kind), logits(kind).detach(), TARGETS[kind]
    if kind == "value":
        steps = [given + share * (targets - given) for share in (0.0, 0.3, 0.7, 1.0)]
    else:
        right = 2 * targets - 1 if kind == "labels" else torch.nn.functional.one_hot(targets.long(), K).flatten(1)
        steps = [given + step * right for step in (0.0, 1.0, 3.0, 6.0)]
    values = [float(loss(step, targets)) for step in steps]
    assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_it_is_a_mean_not_a_sum(case: tuple[str, str]) -> None:
    """A batch twice over costs the same, so that a learning rate holds for every batch size."""
    name, kind = case
    loss, given, targets = build(name, kind), logits(kind).detach(), TARGETS[kind]
    torch.testing.assert_close(loss(given.repeat(2, 1), targets.repeat(2, 1)), loss(given, targets))


def test_order_within_the_batch_doesnt_matter(case: tuple[str, str]) -> None:
    name, kind = case
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss, given = build(name, kind), logits(kind).detach()
    torch.testing.assert_close(loss(given[order], TARGETS[kind][order]), loss(given, TARGETS[kind]))


def test_small_batches_add_up_to_the_large_one(case: tuple[str, str]) -> None:
    """What gradient accumulation relies on: the weights of a batch are known before any of its logits."""
    name, kind = case
    loss, targets = build(name, kind), TARGETS[kind]
    whole, parts = logits(kind), logits(kind)
    loss(whole, targets).backward()
    weight = loss.weights(targets).sum()
    for rows in (slice(0, 1), slice(1, 3), slice(3, 6)):
        (loss.cells(parts[rows], targets[rows]).sum() / weight).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_a_masked_cell_adds_neither_loss_nor_weight(case: tuple[str, str]) -> None:
    """Fault of S1: masked cells still added loss."""
    name, kind = case
    loss, given, targets = build(name, kind), logits(kind), TARGETS[kind].clone()
    targets[2] = float("nan")
    targets[4, -1] = float("nan")
    value = loss(given, targets)
    value.backward()
    cells = given.shape[1] // targets.shape[1]
    masked = targets.isnan().repeat_interleave(cells, dim=1)
    assert (given.grad[masked] == 0).all()
    assert (given.grad[~masked] != 0).all()
    other = given.detach().where(~masked, 17.0)
    torch.testing.assert_close(loss(other, targets), value.detach(), rtol=0, atol=0)
    if targets.shape[1] == 1:  # whole cases are masked, so that leaving them out must give the same
        rows = ~targets.isnan()[:, 0]
        torch.testing.assert_close(loss(given.detach()[rows], targets[rows]), value.detach())


def test_a_fully_masked_batch_costs_nothing(case: tuple[str, str]) -> None:
    """Fault of S1: blanks became NaN."""
    name, kind = case
    given = logits(kind)
    value = build(name, kind)(given, torch.full_like(TARGETS[kind], float("nan")))
    value.backward()
    assert float(value.detach()) == 0
    assert (given.grad == 0).all()


def test_half_precision_logits_are_summed_in_full(case: tuple[str, str]) -> None:
    name, kind = case
    value = build(name, kind)(logits(kind).detach().bfloat16(), TARGETS[kind])
    assert value.dtype == torch.float32 and torch.isfinite(value)


def test_targets_of_the_manifest_are_taken_as_they_are(case: tuple[str, str]) -> None:
    name, kind = case
    loss, given = build(name, kind), logits(kind).detach()
    torch.testing.assert_close(loss(given, TARGETS[kind].double()), loss(given, TARGETS[kind]))


@pytest.mark.parametrize("scale", [100.0, 1000.0])
def test_extreme_logits_stay_finite(case: tuple[str, str], scale: float) -> None:
    name, kind = case
    given = (scale * logits(kind).detach()).requires_grad_()
    value = build(name, kind)(given, TARGETS[kind])
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(given.grad).all()

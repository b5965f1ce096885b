"""Losses against hand-computed values, torch and scikit-learn; class weights keep their places."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from archbench.losses.loss import LossFunction, balanced_class_weights
from archbench.registry import LOSSES


def build(
    name: str, *, weights: list[float] | None = None, gamma: float = 2.0, label_smoothing: float = 0.0
) -> LossFunction:
    tensor = None if weights is None else torch.tensor(weights)
    return LOSSES.get(name).build(class_weights=tensor, focal_gamma=gamma, label_smoothing=label_smoothing)


def logits_of(probabilities: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


RANDOM = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 2, 3] * 3)


def test_focal_of_two_cases_by_hand() -> None:
    # p of the true class .8 and .3: the focusing factors (1 - p)^2 are .04 and .49.
    logits = logits_of([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3]])
    expected = (0.04 * -math.log(0.8) + 0.49 * -math.log(0.3)) / 2
    assert float(build("focal")(logits, torch.tensor([0, 2]))) == pytest.approx(expected, rel=1e-5)


def test_weighted_focal_by_hand() -> None:
    logits = logits_of([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3]])
    weighted = 0.5 * 0.04 * -math.log(0.8) + 3.0 * 0.49 * -math.log(0.3)
    loss = build("weighted_focal", weights=[0.5, 1.0, 3.0])
    assert float(loss(logits, torch.tensor([0, 2]))) == pytest.approx(weighted / 3.5, rel=1e-5)


@pytest.mark.parametrize("name", ["weighted_focal", "weighted_cross_entropy"])
def test_rare_class_weighs_more_not_less(name: str) -> None:
    """Fault of S0: the weights were inverted, so that the rare class counted least."""
    y_train = np.array([0] * 90 + [1] * 10)
    weights = balanced_class_weights(y_train, num_classes=2)
    assert weights[1] > weights[0]
    # Two cases equally wrong: the gradient on the rare one's logits must be the larger.
    logits = logits_of([[0.3, 0.7], [0.7, 0.3]]).requires_grad_()
    build(name, weights=weights.tolist())(logits, torch.tensor([0, 1])).backward()
    frequent, rare = logits.grad.abs().sum(dim=1).tolist()
    assert rare == pytest.approx(9 * frequent, rel=1e-4)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 4.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_without_focus_is_cross_entropy(weights: list[float] | None, smoothing: float) -> None:
    if weights and smoothing:
        pytest.skip("torch weighs smoothed targets otherwise")
    loss = build("weighted_focal" if weights else "focal", weights=weights, gamma=0.0, label_smoothing=smoothing)
    plain = torch.nn.CrossEntropyLoss(None if weights is None else torch.tensor(weights), label_smoothing=smoothing)
    torch.testing.assert_close(loss(RANDOM, TARGETS), plain(RANDOM, TARGETS))


def test_focus_shrinks_easy_cases_most() -> None:
    easy, hard = logits_of([[0.95, 0.05]]), logits_of([[0.1, 0.9]])
    target = torch.tensor([0])
    ratios = [float(build("focal")(case, target) / build("cross_entropy")(case, target)) for case in (easy, hard)]
    assert ratios == pytest.approx([0.05**2, 0.9**2], rel=1e-3)


def test_weighted_cross_entropy_is_torchs() -> None:
    weights = [0.5, 1.0, 2.0, 4.0]
    ours = build("weighted_cross_entropy", weights=weights, label_smoothing=0.1)(RANDOM, TARGETS)
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(weights), label_smoothing=0.1)(RANDOM, TARGETS)
    torch.testing.assert_close(ours, theirs)


def test_the_plain_losses_take_no_weights() -> None:
    assert {name: LOSSES.get(name).weighted for name in LOSSES.names()} == {
        "cross_entropy": False,
        "weighted_cross_entropy": True,
        "focal": False,
        "weighted_focal": True,
    }


def test_focal_gradient_is_finite_at_certainty() -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    build("focal", gamma=0.5)(logits, torch.tensor([0, 0])).backward()
    assert torch.isfinite(logits.grad).all()


def test_balanced_weights_are_scikit_learns() -> None:
    y_train = np.random.default_rng(0).choice(5, size=200, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    expected = compute_class_weight("balanced", classes=np.arange(5), y=y_train)
    np.testing.assert_allclose(balanced_class_weights(y_train, num_classes=5), expected)


def test_an_absent_middle_class_shifts_no_weight() -> None:
    """Fault of S0: the weights of the classes after an absent one stood one place too low."""
    y_train = np.array([0] * 8 + [1] * 4 + [3] * 2 + [4] * 2)
    weights = balanced_class_weights(y_train, num_classes=5)
    np.testing.assert_allclose(weights, [16 / 40, 16 / 20, 0.0, 16 / 10, 16 / 10])


@pytest.mark.parametrize("name", ["weighted_focal", "weighted_cross_entropy"])
def test_an_absent_class_leaves_the_loss_finite(name: str) -> None:
    weights = balanced_class_weights(np.array([0, 0, 2]), num_classes=3)
    assert torch.isfinite(build(name, weights=weights.tolist())(torch.zeros(2, 3), torch.tensor([0, 1])))

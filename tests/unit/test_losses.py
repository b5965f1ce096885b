"""Losses against hand-computed values, published formulas, torch and scikit-learn; weights keep their places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torchvision.ops import sigmoid_focal_loss

from archbench.losses.loss import (
    LossFunction,
    LossNumbers,
    balanced_class_weights,
    positive_weights,
    training_weights,
)
from archbench.registry import LOSSES

NAN = float("nan")


def build(name: str, *, weights: list[float] | None = None, gamma: float = 2.0, **numbers: Any) -> LossFunction:
    tensor = None if weights is None else torch.tensor(weights)
    return LOSSES.get(name).build(LossNumbers(weights=tensor, focal_gamma=gamma, **numbers))


def cells(*classes: int) -> torch.Tensor:
    """Class indices as the loss gets them: float, one label per case."""
    return torch.tensor(classes, dtype=torch.float64)[:, None]


def logits_of(probabilities: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


RANDOM = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 2, 3] * 3)
CELLS = cells(*TARGETS.tolist())


def test_focal_of_two_cases_by_hand() -> None:
    # p of the true class .8 and .3: the focusing factors (1 - p)^2 are .04 and .49.
    logits = logits_of([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3]])
    expected = (0.04 * -math.log(0.8) + 0.49 * -math.log(0.3)) / 2
    assert float(build("focal")(logits, cells(0, 2))) == pytest.approx(expected, rel=1e-5)


def test_weighted_focal_by_hand() -> None:
    logits = logits_of([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3]])
    weighted = 0.5 * 0.04 * -math.log(0.8) + 3.0 * 0.49 * -math.log(0.3)
    loss = build("weighted_focal", weights=[0.5, 1.0, 3.0])
    assert float(loss(logits, cells(0, 2))) == pytest.approx(weighted / 3.5, rel=1e-5)


@pytest.mark.parametrize("name", ["weighted_focal", "weighted_cross_entropy"])
def test_rare_class_weighs_more_not_less(name: str) -> None:
    """Fault of S0: the weights were inverted, so that the rare class counted least."""
    y_train = np.array([0] * 90 + [1] * 10)
    weights = balanced_class_weights(y_train, num_classes=2)
    assert weights[1] > weights[0]
    # Two cases equally wrong: the gradient on the rare one's logits must be the larger.
    logits = logits_of([[0.3, 0.7], [0.7, 0.3]]).requires_grad_()
    build(name, weights=weights.tolist())(logits, cells(0, 1)).backward()
    frequent, rare = logits.grad.abs().sum(dim=1).tolist()
    assert rare == pytest.approx(9 * frequent, rel=1e-4)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 4.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_without_focus_is_cross_entropy(weights: list[float] | None, smoothing: float) -> None:
    if weights and smoothing:
        pytest.skip("torch weighs smoothed targets otherwise")
    loss = build("weighted_focal" if weights else "focal", weights=weights, gamma=0.0, label_smoothing=smoothing)
    plain = torch.nn.CrossEntropyLoss(None if weights is None else torch.tensor(weights), label_smoothing=smoothing)
    torch.testing.assert_close(loss(RANDOM, CELLS), plain(RANDOM, TARGETS))


def test_focus_shrinks_easy_cases_most() -> None:
    easy, hard = logits_of([[0.95, 0.05]]), logits_of([[0.1, 0.9]])
    target = cells(0)
    ratios = [float(build("focal")(case, target) / build("cross_entropy")(case, target)) for case in (easy, hard)]
    assert ratios == pytest.approx([0.05**2, 0.9**2], rel=1e-3)


def test_weighted_cross_entropy_is_torchs() -> None:
    weights = [0.5, 1.0, 2.0, 4.0]
    ours = build("weighted_cross_entropy", weights=weights, label_smoothing=0.1)(RANDOM, CELLS)
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(weights), label_smoothing=0.1)(RANDOM, TARGETS)
    torch.testing.assert_close(ours, theirs)


def test_the_weighted_losses_say_so_in_their_names() -> None:
    assert {name for name in LOSSES.names() if LOSSES.get(name).weighted} == {
        name for name in LOSSES.names() if name.startswith("weighted_")
    }


def test_focal_gradient_is_finite_at_certainty() -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    build("focal", gamma=0.5)(logits, cells(0, 0)).backward()
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
    assert torch.isfinite(build(name, weights=weights.tolist())(torch.zeros(2, 3), cells(0, 1)))


LABEL_LOGITS = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
LABELS = (torch.rand(10, 3, generator=torch.Generator().manual_seed(2)) < 0.4).double()


def test_bce_with_positive_weights_is_torchs() -> None:
    weights = [1.0, 4.0, 9.0]
    ours = build("weighted_bce", weights=weights, outputs="labels")(LABEL_LOGITS, LABELS)
    theirs = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights))(LABEL_LOGITS, LABELS.float())
    torch.testing.assert_close(ours, theirs)


def test_positive_weights_are_per_label_and_leave_unknown_cells_out() -> None:
    """Fault of S1: one scalar weight for all labels."""
    targets = np.array([[1, 0, NAN], [0, 1, 1], [0, 1, 1], [NAN, 1, NAN], [0, 0, 1]])
    np.testing.assert_allclose(positive_weights(targets), [3.0, 2 / 3, 1.0])
    np.testing.assert_allclose(training_weights(targets, outputs="labels", num_classes=3), [3.0, 2 / 3, 1.0])


def test_smoothed_labels_by_hand() -> None:
    """S1's rule: t (1 - a) + a / 2."""
    logits, targets = torch.tensor([[0.4, -1.0]]), torch.tensor([[1.0, 0.0]])
    p = logits.double().sigmoid()[0].tolist()
    expected = (
        -(0.95 * math.log(p[0]) + 0.05 * math.log(1 - p[0])) - (0.05 * math.log(p[1]) + 0.95 * math.log(1 - p[1]))
    ) / 2
    assert float(build("bce", outputs="labels", label_smoothing=0.1)(logits, targets)) == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_binary_focal_is_the_published_one(alpha: float) -> None:
    """Fault of S0 and S2: alpha stood at the wrong side. torchvision has the paper's."""
    ours = build("focal", outputs="labels", focal_alpha=alpha, gamma=2.0)(LABEL_LOGITS, LABELS)
    theirs = sigmoid_focal_loss(LABEL_LOGITS, LABELS.float(), alpha=alpha, gamma=2.0, reduction="mean")
    torch.testing.assert_close(ours, theirs)
    one = torch.zeros(1, 1)
    positive = build("focal", outputs="labels", focal_alpha=alpha)(one, torch.ones(1, 1))
    negative = build("focal", outputs="labels", focal_alpha=alpha)(one, torch.zeros(1, 1))
    assert float(positive / negative) == pytest.approx(alpha / (1 - alpha))


@pytest.mark.parametrize(("negative", "positive", "clip"), [(4, 1, 0.05), (2, 0, 0.0), (3, 2, 0.2)])
def test_asymmetric_loss_is_the_published_formula(negative: float, positive: float, clip: float) -> None:
    p, t = LABEL_LOGITS.double().sigmoid().numpy(), LABELS.numpy()
    shifted = np.maximum(p - clip, 0)
    published = -(t * (1 - p) ** positive * np.log(p) + (1 - t) * shifted**negative * np.log(1 - shifted))
    ours = build("asl", outputs="labels", asl_gamma_negative=negative, asl_gamma_positive=positive, asl_clip=clip)(
        LABEL_LOGITS, LABELS
    )
    assert float(ours) == pytest.approx(published.mean(), rel=1e-5)


def test_asymmetric_loss_is_a_mean() -> None:
    """Fault of S2: it was summed, so that it grew with the batch."""
    loss = build("asl", outputs="labels")
    torch.testing.assert_close(loss(LABEL_LOGITS.repeat(4, 1), LABELS.repeat(4, 1)), loss(LABEL_LOGITS, LABELS))


def test_asymmetric_loss_without_asymmetry_is_bce() -> None:
    plain = build("asl", outputs="labels", asl_gamma_negative=0.0, asl_gamma_positive=0.0, asl_clip=0.0)
    torch.testing.assert_close(plain(LABEL_LOGITS, LABELS), build("bce", outputs="labels")(LABEL_LOGITS, LABELS))


def test_cumulative_link_against_one_binary_question_per_threshold() -> None:
    probabilities = RANDOM.double().softmax(dim=1)
    questions = []
    for k in range(3):
        above = probabilities[:, k + 1 :].sum(dim=1)
        questions.append(torch.nn.functional.binary_cross_entropy(above, TARGETS.gt(k).double()))
    ours = float(build("cumulative_link")(RANDOM, CELLS))
    assert ours == pytest.approx(float(torch.stack(questions).mean()), rel=1e-5)


def test_cumulative_link_minds_the_distance() -> None:
    near = logits_of([[0.1, 0.8, 0.05, 0.05]])
    far = logits_of([[0.1, 0.05, 0.05, 0.8]])
    ordinal, plain = build("cumulative_link"), build("cross_entropy")
    assert float(ordinal(far, cells(0))) > 2 * float(ordinal(near, cells(0)))
    assert float(plain(far, cells(0))) == pytest.approx(float(plain(near, cells(0))))


def test_huber_and_mse_are_torchs() -> None:
    values = torch.tensor([[0.2], [3.0], [-4.0]])
    targets = torch.tensor([[0.0], [1.5], [2.0]])
    ours = build("huber", outputs="value", huber_delta=1.0)(values, targets)
    torch.testing.assert_close(ours, torch.nn.SmoothL1Loss()(values, targets))
    torch.testing.assert_close(build("mse", outputs="value")(values, targets), torch.nn.MSELoss()(values, targets))


def test_zones_are_cells_of_their_own() -> None:
    logits = torch.randn(4, 6 * 5, generator=torch.Generator().manual_seed(3))
    targets = torch.randint(0, 4, (4, 6), generator=torch.Generator().manual_seed(4))
    ours = build("cross_entropy", outputs="zones", num_classes=5, ungradable_weight=0.3)(logits, targets.double())
    theirs = torch.nn.CrossEntropyLoss()(logits.view(24, 5), targets.view(24))
    torch.testing.assert_close(ours, theirs)


def test_ungradable_zones_weigh_less_or_nothing() -> None:
    logits = torch.randn(2, 6 * 5, generator=torch.Generator().manual_seed(3))
    targets = torch.tensor([[0, 1, 2, 3, 4, 4], [1, 1, 0, 4, 2, 3]])
    weight = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.3])
    for name in ("cross_entropy", "focal"):
        loss = build(name, outputs="zones", num_classes=5, ungradable_weight=0.3, gamma=0.0)
        theirs = torch.nn.CrossEntropyLoss(weight)(logits.view(12, 5), targets.view(12))
        torch.testing.assert_close(loss(logits, targets.double()), theirs)
    masked = build("cross_entropy", outputs="zones", num_classes=5, ungradable_weight=0.0)
    gradable = targets.double().where(targets < 4, NAN)
    torch.testing.assert_close(
        masked(logits, targets.double()), build("cross_entropy", outputs="zones", num_classes=5)(logits, gradable)
    )


def test_balanced_zone_weights_leave_the_ungradable_out() -> None:
    targets = np.array([[0, 0, 4], [0, 1, 4], [NAN, 2, 4]])
    weights = training_weights(targets, outputs="zones", num_classes=5)
    np.testing.assert_allclose(weights, [5 / 12, 5 / 4, 5 / 4, 0.0, 1.0])

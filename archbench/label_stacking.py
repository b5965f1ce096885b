"""Stacking label by label: a non-negative ridge logistic regression on that label's logits, shrunk to the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from archbench.artifacts import Predictions
from archbench.combining import Members, log_loss, members_to_fit, one_blas_thread
from archbench.metrics.metric import Array
from archbench.out_of_fold import OutOfFold

STRENGTHS = (3.0, 30.0, 300.0)
HELD_OUT_GROUPS = 2  # more groups would choose the same strength in more time
FREE_STRENGTH = 1e-3
NEWTON_STEPS = 100
HALVINGS = 40
SMALLEST_STEP = 1e-8
ROUGH_STEP = 1e-3  # enough to choose a strength by


@dataclass(frozen=True)
class LabelStacker:
    """Log odds = members' log odds @ weights + intercept, per label.

    Attributes:
        weights: Not negative, shape (M, L).
        intercept: Shape (L,).
        strength: Pull to uniform weights that sum to 1, chosen on held-out groups of patients.
    """

    weights: Array
    intercept: Array
    strength: float

    def scores(self, members: Array) -> Array:
        """Return log odds, (N, M, L) -> (N, L)."""
        return np.einsum("nml,ml->nl", members, self.weights) + self.intercept


def fit_label_stacker(source: OutOfFold, *, applied: Predictions, n_members: int, seed: int) -> LabelStacker:
    """Fit on the out-of-fold rows of one training seed.

    A member that knows nothing of a label gets weight 0 there, never a negative one; a label with few positives
    keeps the plain mean.

    Args:
        source: Stacked out-of-fold rows of several labels, of other patients than those in `applied`.
        applied: The rows it will be applied to.
        n_members: Number of members M.
        seed: Training seed.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
        ValueError: If the labels exclude each other (use `archbench.stacking`).
    """
    data = members_to_fit(source, applied=applied, n_members=n_members, seed=seed)
    if not data.multilabel:
        raise ValueError("stacking per label needs labels that may occur together; use archbench.stacking for classes")
    with one_blas_thread():
        strength = _choose_strength(data)
        weights, intercept = solve(data.scores, data.targets, strength)
    return LabelStacker(weights, intercept, strength)


def _choose_strength(data: Members) -> float:
    """Least log loss over held-out groups; the strongest where there is one group only."""
    groups = np.unique(data.group)
    if len(groups) < 2:
        return STRENGTHS[-1]
    part = np.searchsorted(groups, data.group) % HELD_OUT_GROUPS
    loss = dict.fromkeys(STRENGTHS, 0.0)
    for held_out in range(HELD_OUT_GROUPS):
        fit, test = part != held_out, part == held_out
        members, targets = data.scores[test], data.targets[test]
        problems, start = _problems(data.scores[fit], data.targets[fit]), None
        for strength in reversed(STRENGTHS):  # from near the start on: each fit begins at the one before
            start = _solved(problems, strength, start=start, smallest_step=ROUGH_STEP)
            predicted = LabelStacker(*start, strength).scores(members)
            loss[strength] += log_loss(predicted, targets, multilabel=True) * test.sum()
    return min(STRENGTHS, key=lambda strength: (loss[strength], -strength))


def solve(
    members: Array,
    targets: Array,
    strength: float,
    *,
    start: tuple[Array, Array] | None = None,
    smallest_step: float = SMALLEST_STEP,
) -> tuple[Array, Array]:
    """Return weights (M, L) and intercepts (L,) of the penalised log loss; convex, label by label.

    Args:
        members: Log odds, shape (N, M, L).
        targets: 0, 1 or NaN, shape (N, L).
        strength: Ridge penalty on a weight's distance from 1 / M.
        start: Weights and intercepts to begin with; None begins with the mean.
        smallest_step: Change of the parameters that ends the search.
    """
    return _solved(_problems(members, targets), strength, start=start, smallest_step=smallest_step)


def _problems(members: Array, targets: Array) -> list[_LabelLoss]:
    """What is to be solved for each label."""
    known = ~np.isnan(targets)
    return [_LabelLoss(members[inside, :, label], targets[inside, label]) for label, inside in enumerate(known.T)]


def _solved(
    problems: Sequence[_LabelLoss], strength: float, *, start: tuple[Array, Array] | None, smallest_step: float
) -> tuple[Array, Array]:
    """`solve` of problems that are set up, so that several strengths can be tried."""
    n_members, labels = len(problems[0].design) - 1, len(problems)
    weights, intercept = (np.full((n_members, labels), 1.0 / n_members), np.zeros(labels)) if start is None else start
    weights, intercept = weights.copy(), intercept.copy()
    for label, problem in enumerate(problems):
        if len(problem.targets):
            begun = np.r_[weights[:, label], intercept[label]]
            found = problem.least(strength, begun, smallest_step)
            weights[:, label], intercept[label] = found[:-1], found[-1]
    return weights, intercept


class _LabelLoss:
    """Log loss of one label; everything at one point from one exponential a case.

    Args:
        logits: Shape (N, M).
        targets: 0 or 1, shape (N,).
    """

    def __init__(self, logits: Array, targets: Array) -> None:
        self.design = np.vstack([logits.T, np.ones(len(logits))])
        self.targets = targets
        self.centre = np.r_[np.full(logits.shape[1], 1.0 / logits.shape[1]), 0.0]

    def at(self, parameters: Array, penalty: Array) -> tuple[float, Array]:
        """Return the penalised loss and the predicted probabilities (N,)."""
        odds = parameters @ self.design
        small = np.exp(-np.abs(odds))
        pull = 0.5 * penalty @ (parameters - self.centre) ** 2
        loss = np.maximum(odds, 0.0).sum() + np.log1p(small).sum() - self.targets @ odds + pull
        return float(loss), np.where(odds >= 0, 1.0, small) / (1.0 + small)

    def least(self, strength: float, begun: Array, smallest_step: float) -> Array:
        """Weights (M,) and intercept by Newton's method, projected to weights that are not negative."""
        penalty = np.r_[np.full(len(begun) - 1, strength), FREE_STRENGTH]
        lowest = np.r_[np.zeros(len(begun) - 1), -np.inf]
        current, (value, predicted) = begun, self.at(begun, penalty)
        for _ in range(NEWTON_STEPS):
            gradient = self.design @ (predicted - self.targets) + penalty * (current - self.centre)
            free = (current > lowest) | (gradient < 0)  # the others are held at 0
            used = self.design if free.all() else self.design[free]
            curve = (used * (predicted * (1.0 - predicted))) @ used.T
            step = np.zeros(len(current))
            step[free] = np.linalg.solve(curve + np.diag(penalty[free]), gradient[free])
            size = 1.0
            for _ in range(HALVINGS):
                tried = np.maximum(current - size * step, lowest)
                found, there = self.at(tried, penalty)
                if found <= value:
                    break
                size *= 0.5
            moved = np.abs(tried - current).max()
            if found > value:
                break
            current, value, predicted = tried, found, there
            if moved < smallest_step:
                break
        return current

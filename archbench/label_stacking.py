"""Stacking label by label: a non-negative ridge logistic regression on that label's logits, shrunk to the mean."""

from __future__ import annotations

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
        start = None
        for strength in reversed(STRENGTHS):  # from near the start on: each fit begins at the one before
            start = solve(data.scores[fit], data.targets[fit], strength, start=start, smallest_step=ROUGH_STEP)
            predicted = LabelStacker(*start, strength).scores(data.scores[test])
            loss[strength] += log_loss(predicted, data.targets[test], multilabel=True) * test.sum()
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
    n_members, labels = members.shape[1:]
    weights, intercept = (np.full((n_members, labels), 1.0 / n_members), np.zeros(labels)) if start is None else start
    weights, intercept = weights.copy(), intercept.copy()
    for label in range(labels):
        known = ~np.isnan(targets[:, label])
        if known.any():
            logits = members[known, :, label]
            begun = np.r_[weights[:, label], intercept[label]]
            found = _solve_label(logits, targets[known, label], strength, begun, smallest_step)
            weights[:, label], intercept[label] = found[:-1], found[-1]
    return weights, intercept


class _LabelLoss:
    """Penalised log loss of one label; everything at one point from one exponential a case.

    Args:
        logits: Shape (N, M).
        targets: 0 or 1, shape (N,).
        strength: See `solve`.
    """

    def __init__(self, logits: Array, targets: Array, strength: float) -> None:
        self.design = np.column_stack([logits, np.ones(len(logits))])
        self.targets = targets
        self.centre = np.r_[np.full(logits.shape[1], 1.0 / logits.shape[1]), 0.0]
        self.penalty = np.r_[np.full(logits.shape[1], strength), FREE_STRENGTH]

    def at(self, parameters: Array) -> tuple[float, Array]:
        """Return the loss and the predicted probabilities (N,)."""
        odds = self.design @ parameters
        small = np.exp(-np.abs(odds))
        pull = 0.5 * self.penalty @ (parameters - self.centre) ** 2
        loss = np.maximum(odds, 0.0).sum() + np.log1p(small).sum() - self.targets @ odds + pull
        return float(loss), np.where(odds >= 0, 1.0, small) / (1.0 + small)


def _solve_label(logits: Array, targets: Array, strength: float, begun: Array, smallest_step: float) -> Array:
    """Weights (M,) and intercept by Newton's method, projected to weights that are not negative."""
    problem = _LabelLoss(logits, targets, strength)
    lowest = np.r_[np.zeros(logits.shape[1]), -np.inf]
    current, (value, predicted) = begun, problem.at(begun)
    for _ in range(NEWTON_STEPS):
        gradient = (predicted - targets) @ problem.design + problem.penalty * (current - problem.centre)
        free = (current > lowest) | (gradient < 0)  # the others are held at 0
        used = problem.design if free.all() else problem.design[:, free]
        curve = (used * (predicted * (1.0 - predicted))[:, None]).T @ used
        step = np.zeros(len(current))
        step[free] = np.linalg.solve(curve + np.diag(problem.penalty[free]), gradient[free])
        size = 1.0
        for _ in range(HALVINGS):
            tried = np.maximum(current - size * step, lowest)
            found, there = problem.at(tried)
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

"""Multinomial ridge regression on the logits of several models, shrunk to their uniform mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from archbench.artifacts import Predictions
from archbench.members import member_logits
from archbench.metrics.metric import Array, log_softmax
from archbench.out_of_fold import OutOfFold, source_rows

STRENGTHS = (3.0, 30.0, 300.0, 3000.0)
FREE_STRENGTH = 1e-3  # keeps slope and intercept finite where classes are separable or have no cases


@dataclass(frozen=True)
class Stacker:
    """Log odds = slope * uniform mean of the log probabilities + standardised logits @ coefficients + intercept.

    Attributes:
        centre: Mean of each feature over the rows it was fitted on, shape (F,).
        scale: Standard deviation of each feature over these rows, shape (F,).
        slope: Weight of the uniform mean.
        intercept: Shape (K,).
        coefficients: Shape (F, K).
        strength: Ridge penalty, chosen by patient-grouped cross-validation.
    """

    centre: Array
    scale: Array
    slope: float
    intercept: Array
    coefficients: Array
    strength: float

    def log_probabilities(self, logits: Array) -> Array:
        """Return log probabilities (N, K) from the members' logits (N, M, K)."""
        features = (_features(logits) - self.centre) / self.scale
        return log_softmax(self.slope * _uniform_mean(logits) + features @ self.coefficients + self.intercept)


def fit_stacker(source: OutOfFold, *, applied: Predictions, n_members: int, seed: int) -> Stacker:
    """Fit on the out-of-fold rows of one training seed, to be applied to other patients.

    The ridge shrinks towards the uniform mean of the members, so that with few rows the stack falls back to it
    instead of following noise.

    Args:
        source: Stacked out-of-fold rows; their groups choose the penalty.
        applied: The rows it will be applied to.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
    """
    rows = source_rows(source, applied=applied)
    of_seed = rows.seed == seed
    logits, y_true = member_logits(rows, n_members)[of_seed], rows.y_true[of_seed]
    strength = _choose_strength(logits, y_true, source.group[of_seed])
    return solve(logits, y_true, strength)


def _choose_strength(logits: Array, y_true: Array, group: Array) -> float:
    """Least log loss over held-out groups; the strongest penalty where there is one group only."""
    groups = np.unique(group)
    if len(groups) < 2:
        return STRENGTHS[-1]
    loss = dict.fromkeys(STRENGTHS, 0.0)
    for held_out in groups:
        fit, test = group != held_out, group == held_out
        for strength in STRENGTHS:
            predicted = solve(logits[fit], y_true[fit], strength).log_probabilities(logits[test])
            loss[strength] -= float(predicted[np.arange(test.sum()), y_true[test]].sum())
    return min(STRENGTHS, key=lambda strength: (loss[strength], -strength))


def solve(logits: Array, y_true: Array, strength: float) -> Stacker:
    """Minimise the penalised log loss; convex, by L-BFGS.

    Args:
        logits: Shape (N, M, K).
        y_true: Class indices, shape (N,).
        strength: Ridge penalty on the coefficients of the standardised logits.
    """
    from scipy.optimize import minimize

    features, mean = _features(logits), _uniform_mean(logits)
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = np.column_stack([(features - centre) / scale, np.ones(len(features))])
    one_hot = np.eye(logits.shape[2])[y_true]
    penalty = np.full((design.shape[1], one_hot.shape[1]), strength)
    penalty[-1] = FREE_STRENGTH

    def objective(parameters: Array) -> tuple[float, Array]:
        slope, weights = parameters[0], parameters[1:].reshape(penalty.shape)
        predicted = log_softmax(slope * mean + design @ weights)
        residual = np.exp(predicted) - one_hot
        value = 0.5 * (penalty * weights**2).sum() - (one_hot * predicted).sum()
        value += 0.5 * FREE_STRENGTH * (slope - 1.0) ** 2
        of_slope = (residual * mean).sum() + FREE_STRENGTH * (slope - 1.0)
        gradient = design.T @ residual + penalty * weights
        return float(value), np.concatenate([[of_slope], gradient.ravel()])

    start = np.concatenate([[1.0], np.zeros(penalty.size)])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    weights = found.x[1:].reshape(penalty.shape)
    return Stacker(centre, scale, float(found.x[0]), weights[-1], weights[:-1], strength)


def _features(logits: Array) -> Array:
    """Logits (N, M, K) as features (N, M * K), each member's centred: a constant added to all classes says nothing."""
    wide = logits.astype(np.float64)
    return (wide - wide.mean(axis=2, keepdims=True)).reshape(len(wide), -1)


def _uniform_mean(logits: Array) -> Array:
    return log_softmax(logits).mean(axis=1)

"""Means of calibrated logits: every member is put right on other patients' rows before it is averaged or weighed.

A member that shouts has no more say than one that whispers: labels take Platt's line of each member, classes a
temperature of each. Weights that are fitted afterwards weigh what members know, not how loud they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from archbench.artifacts import Predictions
from archbench.combining import Blend, fit_greedy, fit_weights, member_scores, members_to_fit
from archbench.metrics.metric import Array
from archbench.out_of_fold import OutOfFold
from archbench.recalibration import shrunk_lines
from archbench.temperature import minimise_log_loss


@dataclass(frozen=True)
class CalibratedMean:
    """Members' log odds or log probabilities, each scaled as calibrated, and averaged.

    Attributes:
        weights: Slope of each member times its weight (over the number of members for the plain mean), shape (M, K).
        intercept: Weighted mean of the members' intercepts, shape (K,).
    """

    weights: Array
    intercept: Array

    def scores(self, members: Array) -> Array:
        """Return log odds or unnormalised log probabilities, (N, M, K) -> (N, K)."""
        return np.einsum("nmk,mk->nk", members, self.weights) + self.intercept


def fit_calibrated_mean(source: OutOfFold, *, applied: Predictions, n_members: int, seed: int) -> CalibratedMean:
    """Calibrate each member on the out-of-fold rows of one training seed.

    Args:
        source: Stacked out-of-fold rows of other patients than those in `applied`.
        applied: The rows it will be applied to.
        n_members: Number of members M.
        seed: Training seed.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
    """
    slopes, intercepts = _lines(source, applied=applied, n_members=n_members, seed=seed)
    return CalibratedMean(slopes / n_members, intercepts.mean(axis=0))


def fit_calibrated_blend(
    fit: Callable[..., Blend], source: OutOfFold, *, applied: Predictions, n_members: int, seed: int
) -> CalibratedMean:
    """Calibrate each member on the out-of-fold rows of one training seed, then fit one weight per member.

    Args:
        fit: `fit_weights` or `fit_greedy`.
        source: As in `fit_calibrated_mean`.
        applied: As in `fit_calibrated_mean`.
        n_members: Number of members M.
        seed: Training seed.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
    """
    slopes, intercepts = _lines(source, applied=applied, n_members=n_members, seed=seed)
    calibrated = member_scores(source.rows, n_members) * slopes + intercepts
    scaled = source.rescored(calibrated.reshape(len(source.rows), -1))
    found = fit(scaled, applied=applied, n_members=n_members, seed=seed).weights
    return CalibratedMean(found[:, None] * slopes, found @ intercepts)


fit_calibrated_weights = partial(fit_calibrated_blend, fit_weights)
fit_calibrated_greedy = partial(fit_calibrated_blend, fit_greedy)


def _lines(source: OutOfFold, *, applied: Predictions, n_members: int, seed: int) -> tuple[Array, Array]:
    """Slope and intercept of each member and column, shape (M, K) both."""
    data = members_to_fit(source, applied=applied, n_members=n_members, seed=seed)
    slopes, intercepts = [], []
    for scores in data.scores.swapaxes(0, 1):
        if data.multilabel:
            slope, intercept, *_ = shrunk_lines(scores, data.targets, images_per_patient=data.images_per_patient)
        else:
            slope = np.full(scores.shape[1], 1.0 / minimise_log_loss(scores, data.targets))
            intercept = np.zeros(scores.shape[1])
        slopes.append(slope)
        intercepts.append(intercept)
    return np.stack(slopes), np.stack(intercepts)

"""The mean of calibrated logits: every member is put right on other patients' rows before it is averaged.

A member that shouts has no more say than one that whispers: labels take Platt's line of each member, classes a
temperature of each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from archbench.artifacts import Predictions
from archbench.members import member_logits
from archbench.metrics.metric import Array
from archbench.out_of_fold import OutOfFold, source_rows
from archbench.recalibration import fit_platt
from archbench.temperature import fit_temperature


@dataclass(frozen=True)
class CalibratedMean:
    """Members' log odds or log probabilities, each scaled as calibrated, and averaged.

    Attributes:
        weights: Slope of each member over the number of members, shape (M, K).
        intercept: Mean of the members' intercepts, shape (K,).
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
    rows = source_rows(source, applied=applied)
    each = member_logits(rows, n_members)
    width = each.shape[2]
    classes = rows.labels if width == len(rows.labels) else tuple(str(k) for k in range(width))
    slopes, intercepts = [], []
    for member in range(n_members):
        alone = replace(source, rows=rows.having(logits=each[:, member], classes=classes))
        if width == len(rows.labels):
            line = fit_platt(alone, applied=applied, seed=seed)
            slopes.append(line.slope)
            intercepts.append(line.intercept)
        else:
            found = fit_temperature(alone, applied=applied, seed=seed)
            slopes.append(np.full(width, 1.0 / found.temperature))
            intercepts.append(np.zeros(width))
    return CalibratedMean(np.stack(slopes) / n_members, np.mean(intercepts, axis=0))

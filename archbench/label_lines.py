"""Lines from logits to log odds, one per label, of least log loss: what Platt's calibration is made of.

Each label converges on its own. A Newton step that moves no case's log odds by more than `SAFE_CHANGE` lowers the
loss for certain, so that the loss itself is asked for larger steps only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from archbench.metrics.metric import Array

NEWTON_STEPS = 50
HALVINGS = 30
WEAK_RIDGE = 1e-6
LAST_STEP = 1e-6  # Newton squares the error: after a step this small there is none left that counts
# p (1 - p) changes by a factor of at most exp(d) where log odds change by d, so that a Newton step of decrement l
# lowers the loss by l^2 (1 - (exp(d) - d - 1) / d^2) or more, which is positive up to d = 1.79
SAFE_CHANGE = 1.5


class LabelLines:
    """Logits and smoothed targets of the known cases of each label.

    Args:
        logits: Shape (N, L).
        targets: 0, 1 or NaN, shape (N, L).
    """

    def __init__(self, logits: Array, targets: Array) -> None:
        truth, levels = np.ascontiguousarray(targets.T), np.ascontiguousarray(logits.T, dtype=np.float64)
        known = ~np.isnan(truth)
        positives, counts = (truth == 1).sum(axis=1), known.sum(axis=1)
        # Platt's targets: as if one more positive and one more negative case had been seen
        high, low = (positives + 1.0) / (positives + 2.0), 1.0 / (counts - positives + 2.0)
        self.designs: list[Array] = []  # ones, logits and their squares, shape (3, N') each
        self.targets: list[Array] = []
        for label, inside in enumerate(known):
            x, hit = (row[label] if inside.all() else row[label, inside] for row in (levels, truth))
            self.designs.append(np.stack([np.ones(len(x)), x, x * x]))
            self.targets.append(hit * (high[label] - low[label]) + low[label])
        self.furthest = np.array([np.abs(design[1]).max(initial=0.0) for design in self.designs])

    @cached_property
    def start(self) -> tuple[Array, Array]:
        """Slopes and intercepts (L,) of least loss if the logits of either side were normal and spread alike."""
        found = [_discriminant(design, target) for design, target in zip(self.designs, self.targets, strict=True)]
        slope, intercept = np.array(found).reshape(-1, 2).T
        return slope, intercept

    def derivatives(self, slope: Array, intercept: Array, labels: Sequence[int] | None = None) -> Array:
        """Return the log loss's first derivatives by slope and intercept and second ones ss, si, ii, shape (5, L).

        Args:
            labels: Which to compute, the others are 0; None computes all.
        """
        found = np.zeros((5, len(self.designs)))
        for label in range(len(self.designs)) if labels is None else labels:
            design, target = self.designs[label], self.targets[label]
            both = np.empty((2, len(target)))
            residual, curve = both
            np.multiply(design[1], -slope[label], out=residual)
            residual -= intercept[label]
            with np.errstate(over="ignore"):  # an infinite denominator is a probability of 0
                np.exp(residual, out=residual)
            residual += 1.0
            np.divide(1.0, residual, out=residual)  # the predicted probability
            np.multiply(residual, residual, out=curve)
            np.subtract(residual, curve, out=curve)
            residual -= target
            (of_intercept, of_slope, _), (ii, si, ss) = (both @ design.T).tolist()
            found[:, label] = of_slope, of_intercept, ss, si, ii
        found[1] += WEAK_RIDGE * intercept
        found[[2, 4]] += WEAK_RIDGE
        return found

    def losses(self, slope: Array, intercept: Array, labels: Array) -> Array:
        """Return the log loss of some labels, shape (L,), 0 for the others."""
        found = np.zeros(len(self.designs))
        for label in labels.tolist():
            design, target = self.designs[label], self.targets[label]
            odds = slope[label] * design[1] + intercept[label]
            certain = np.maximum(odds, 0.0) + np.log1p(np.exp(-np.abs(odds)))
            found[label] = certain.sum() - target @ odds + 0.5 * WEAK_RIDGE * intercept[label] ** 2
        return found

    def fit(
        self, slope: Array, intercept: Array, *, centre: float = 1.0, strength: float = 0.0, tied: bool = False
    ) -> tuple[Array, Array]:
        """Return slopes and intercepts (L,) of least loss, from where they begin; convex, by Newton's method.

        Args:
            slope: Where to begin, shape (L,).
            intercept: Where to begin, shape (L,).
            centre: What slopes are pulled to.
            strength: Penalty on half the squared distance of a slope from the centre.
            tied: All labels have the same slope; they begin with the same one.
        """
        moving = np.ones(len(slope), dtype=bool)
        for _ in range(NEWTON_STEPS):
            of_slope, of_intercept, ss, si, ii = self.derivatives(slope, intercept, np.flatnonzero(moving).tolist())
            of_slope, ss = of_slope + strength * (slope - centre), ss + strength
            reduced, remaining = ss - si**2 / ii, of_slope - si * of_intercept / ii  # the intercept eliminated
            if tied:
                reduced, remaining = np.full(len(ss), reduced.sum()), np.full(len(ss), remaining.sum())
            step = np.where(moving, remaining / np.maximum(reduced, WEAK_RIDGE), 0.0)
            shift = np.where(moving, (of_intercept - si * step) / ii, 0.0)
            size = self._safe_size(slope, intercept, step, shift, centre=centre, strength=strength, tied=tied)
            slope, intercept = slope - size * step, intercept - size * shift
            far = np.maximum(np.abs(step), np.abs(shift)) >= LAST_STEP
            moving = np.full(len(far), far.any()) if tied else far
            if not moving.any():
                break
        return slope, intercept

    def _safe_size(
        self, slope: Array, intercept: Array, step: Array, shift: Array, *, centre: float, strength: float, tied: bool
    ) -> Array:
        """The share of each label's step (L,) that lowers the penalised loss: halved until it does."""
        size = np.ones(len(slope))
        unsafe = np.abs(step) * self.furthest + np.abs(shift) > SAFE_CHANGE
        if not unsafe.any():
            return size
        labels = np.arange(len(size)) if tied else np.flatnonzero(unsafe)

        def penalised(slope: Array, intercept: Array) -> Array:
            found = self.losses(slope, intercept, labels) + 0.5 * strength * (slope - centre) ** 2
            return np.full(len(found), found.sum()) if tied else found

        current = penalised(slope, intercept)
        for _ in range(HALVINGS):
            found = penalised(slope - size * step, intercept - size * shift)
            worse = (found > current + 1e-9 * np.abs(current)) & (unsafe | tied)
            if not worse.any():
                break
            size[worse] *= 0.5
        return size


def _discriminant(design: Array, target: Array) -> tuple[float, float]:
    """Slope and intercept of Fisher's linear discriminant; of logits that don't differ, a slope of 0."""
    cases, (above, level) = len(target), (design[:2] @ target).tolist()
    below = cases - above
    if above <= 0 or below <= 0:
        return 0.0, 0.0
    high, low = level / above, (float(design[1].sum()) - level) / below
    spread = (float(design[2].sum()) - above * high**2 - below * low**2) / cases
    slope = (high - low) / spread if spread > 1e-12 * max(high**2, low**2) else 0.0
    return slope, float(np.log(above / below)) - slope * 0.5 * (high + low)

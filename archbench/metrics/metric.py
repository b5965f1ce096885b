"""What a metric is: a pure function, and how it is resampled.

Every metric is computed for many resamples of the patients at once. Three kinds cover all of them:
confusion metrics are functions of weighted cell counts, probability metrics of weighted sums of
per-case terms, rank metrics of one sort per class and cumulative sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from archbench.artifacts import decide

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Metric:
    """One entry of the metric table.

    Attributes:
        name: Name in task definitions, records and tables.
        kind: What `function` takes and how it is resampled:
            confusion: `function(counts (..., K, K)) -> (...)`, rows are the truth;
            probability: `function(sums (T, ...)) -> (...)` of the weighted sums of `terms`;
            rank: `function(y_score (N,), positive (N,), weights (P, B), rows (N,)) -> (B,)`.
        greater_is_better: Direction.
        function: Pure; NaN where the metric is undefined.
        undefined_reason: Says in words when that is so.
        terms: probability: `(probabilities (N, K), y_true (N,)) -> (T, N)`, the first term all ones;
            rank: the same arguments `-> (scores (Q, N), positive (Q, N))`, one row per binary question;
            of cases: `(Predictions) -> (T, N)`.
        bounds: Smallest and largest possible value; intervals are cut there.
        of: Which table of a dataset with several labels or zones it takes. each: every label's, and the mean of the
            values counts (macro); pooled: all cells as one (micro); cases: the whole table, `terms` of it;
            score, risk: the mean grade of a case's zones, and its risk class.
        centred: Draws are shifted to the point before an interval is read from them. For metrics that grow
            with noise (ECE, MCE): resampling adds noise, so that their plain percentiles lie too high.
        share: Of a plain proportion, which cases it is a share of: `(y_true, y_pred) -> boolean`, of their shape;
            of a mean over classes that is none, one row of such for each class.
        from_share: The metric as a rising function of that share, which is 0 at 0 and 1 at 1; None where it is itself.
    """

    name: str
    kind: Literal["confusion", "probability", "rank"]
    greater_is_better: bool
    function: Callable[..., Array]
    undefined_reason: str
    terms: Callable[..., Any] | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    centred: bool = False
    share: Callable[[Array, Array], Array] | None = None
    from_share: Callable[[float], float] | None = None
    of: Literal["each", "pooled", "cases", "score", "risk"] = "each"

    def value(self, probabilities: Array, y_true: Array, decision: str = "argmax") -> float:
        """Return the metric of one set of cases, NaN where undefined.

        For one fold or one validation set. Rank metrics average over the questions that are defined.

        Args:
            probabilities: Shape (N, K), rows sum to 1.
            y_true: Class indices, shape (N,).
            decision: How probabilities become classes for confusion metrics, see `archbench.artifacts.decide`.
        """
        n_classes = probabilities.shape[1]
        if self.kind == "confusion":
            return float(self.function(confusion_matrix(y_true, decide(probabilities, decision), n_classes)))
        assert self.terms is not None
        if self.kind == "probability":
            return float(self.function(self.terms(probabilities, y_true).sum(axis=1)))
        questions = zip(*self.terms(probabilities, y_true), strict=True)
        return float(mean_defined(np.array([self.function(score, positive)[0] for score, positive in questions])))


def all_cases(y_true: Array, y_pred: Array) -> Array:
    """Return that a proportion is a share of all cases, see `Metric.share`."""
    return np.ones(y_true.shape, dtype=bool)


def log_sum_exp(values: Array) -> Array:
    """Return the logarithm of the summed exponentials over the last axis."""
    largest = values.max(axis=-1)
    return np.asarray(largest + np.log(np.exp(values - largest[..., None]).sum(axis=-1)))


def log_softmax(logits: Array) -> Array:
    """Return log probabilities in float64 over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def confusion_matrix(y_true: Array, y_pred: Array, n_classes: int, weights: Array | None = None) -> Array:
    """Return weighted counts, shape (K, K), rows the truth; classes without cases keep their row and column."""
    cells = np.bincount(y_true * n_classes + y_pred, weights=weights, minlength=n_classes * n_classes)
    return cells.reshape(n_classes, n_classes).astype(np.float64)


def ratio(numerator: Array, denominator: Array) -> Array:
    """Return numerator / denominator with NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    result = np.full(denominator.shape, np.nan)
    return np.divide(numerator, denominator, out=result, where=denominator != 0)


def mean_defined(values: Array, axis: int = -1) -> Array:
    """Return the mean of the values that are not NaN; NaN where none is left."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis))


def defined_or_none(value: float) -> float | None:
    """Return a number for a file: null instead of NaN."""
    return None if np.isnan(value) else float(value)

"""AUROC and average precision of all resamples of the patients at once, from one sort per question.

Rank metrics of a resample need, at each distinct score that a positive has, the weight of the positives and of the
negatives down to there. Which patients fall into which of these steps never changes, so that a sparse matrix
(steps x patients) times the weights (patients x resamples) gives the steps of all resamples, and running sums over
the steps give both metrics. Ties need no special care: equal scores are one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK_DRAWS = 2_048  # columns of a running sum, measured best
BLOCK_ELEMENTS = 200_000  # of (steps x draws) that are multiplied out at once; they stay in the cache
PRODUCT_ELEMENTS = 1_000_000  # of (steps x draws) in one sparse product
FEW_DRAWS = 32  # below, whole arrays beat a loop over the steps
EXACT = 2.0**24  # whole numbers up to here are exact in float32, half the traffic of float64
TINY = 1e-30


@dataclass(frozen=True)
class Counts:
    """How many cases of each unit are at each step.

    Attributes:
        step: Step of each case, ascending, shape (N,).
        unit: Unit of each case, shape (N,).
        shape: Number of steps and of units.
    """

    step: Array
    unit: Array
    shape: tuple[int, int]

    @cached_property
    def matrix(self) -> Any:
        """As a sparse matrix (steps x units)."""
        from scipy.sparse import csr_array

        ends = np.zeros(self.shape[0] + 1, dtype=np.int32)
        np.cumsum(np.bincount(self.step, minlength=self.shape[0]), out=ends[1:])
        data = np.ones(len(self.step), dtype=np.float32)
        return csr_array((data, self.unit.astype(np.int32), ends), shape=self.shape)

    def times_many(self, weights: Array, part: slice | None) -> Array:
        """Return the weight of the cases at each step, or at some, (steps, B)."""
        return self.matrix @ weights if part is None else self.matrix[part] @ weights

    def times(self, weights: Array) -> Array:
        """Return the weight of the cases at each step, (steps, B), for few resamples."""
        gathered = weights[self.unit]
        columns = [np.bincount(self.step, weights=column, minlength=self.shape[0]) for column in gathered.T]
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Steps:
    """A binary question sorted once: who is where between the scores of its positives, best score first.

    A last step holds the negatives below every positive, and no positive.

    Attributes:
        positives: Cases that are positive at each of the G distinct scores of positives.
        negatives: Negative cases from each such score up to the one before it.
        tied: Negative cases exactly at each such score; None where there is none.
    """

    positives: Counts
    negatives: Counts
    tied: Counts | None

    @property
    def size(self) -> int:
        """Number of steps G + 1."""
        return self.positives.shape[0]


def steps(y_score: Array, positive: Array, rows: Array, units: int) -> Steps:
    """Sort a question.

    Args:
        y_score: Shape (N,).
        positive: Boolean, shape (N,).
        rows: Unit (patient) of each case, shape (N,), below `units`.
        units: Number of units P.
    Raises:
        ValueError: If a score is not a number: it has no place in the order.
    """
    if np.isnan(y_score).any():
        raise ValueError(f"{int(np.isnan(y_score).sum())} of {len(y_score)} scores are NaN: they can't be ranked")
    positive = np.asarray(positive, dtype=bool)
    order = np.concatenate([np.flatnonzero(positive), np.flatnonzero(~positive)])
    order = order[np.argsort(-y_score[order], kind="stable")]  # descending, positives before negatives of equal score
    score, hit, unit = y_score[order], positive[order], rows[order]
    levels = score[hit]
    begins = np.ones(len(levels), dtype=bool)
    begins[1:] = levels[1:] != levels[:-1]
    seen = np.zeros(len(order), dtype=np.int64)
    seen[hit] = begins
    seen = np.cumsum(seen)  # distinct scores of positives down to each case, its own included
    last = np.append(np.nan, levels[begins])[seen]
    is_tied = ~hit & (score == last)
    place = np.where(hit | is_tied, seen - 1, seen)
    shape = (int(begins.sum()) + 1, units)
    return Steps(
        positives=Counts(place[hit], unit[hit], shape),
        negatives=Counts(place[~hit], unit[~hit], shape),
        tied=Counts(place[is_tied], unit[is_tied], shape) if is_tied.any() else None,
    )


def _areas(question: Steps, weights: Array, *, precision: bool) -> tuple[Array, Array]:
    """AUROC and, if asked for, average precision of every column of the weights (P, B), shape (B,) each."""
    summed = _sums_in_blocks if weights.shape[1] >= FEW_DRAWS else _sums_at_once
    found, passed, lost, area = summed(question, weights, precision=precision)
    pairs = found * passed
    aurocs = np.divide(pairs - lost, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
    return aurocs, np.divide(area, found, out=np.full(area.shape, np.nan), where=found > 0)


def _sums_at_once(question: Steps, weights: Array, *, precision: bool) -> tuple[Array, Array, Array, Array]:
    """Positives, negatives, pairs ranked wrongly, and precisions gained; shape (B,) each."""
    gained, passed = question.positives.times(weights), np.cumsum(question.negatives.times(weights), axis=0)
    lost = np.einsum("gb,gb->b", gained, passed)
    if question.tied is not None:
        lost -= 0.5 * np.einsum("gb,gb->b", gained, question.tied.times(weights))
    found, area = np.cumsum(gained, axis=0), np.zeros(weights.shape[1])
    if precision:
        area = np.einsum("gb,gb->b", gained, found / np.maximum(found + passed, TINY))
    return gained.sum(axis=0), passed[-1], lost, area


def _sums_in_blocks(question: Steps, weights: Array, *, precision: bool) -> tuple[Array, Array, Array, Array]:
    """As `_sums_at_once`, some steps at a time for many resamples: what is worked on stays in the cache."""
    width = weights.shape[1]
    found, passed, lost, area = np.zeros((4, width))
    shares = np.empty((max(1, BLOCK_ELEMENTS // width) if precision else 0, width))
    for gained, below, tied in _blocks_of_steps(question, weights):
        _run_down(below, passed)
        before = found
        passed, found = below[-1].astype(np.float64), found + gained.sum(axis=0)
        limit = float((found - before).max() * passed.max())
        lost += _dot(gained, below, limit)
        if tied is not None:
            lost -= 0.5 * _dot(gained, tied, limit)
        if precision:
            hits = gained.copy()
            _run_down(hits, before)
            below += hits  # all cases down to each step
            if not below[0].all():
                np.maximum(below, TINY, out=below)  # nothing drawn so far must not divide by 0
            np.divide(hits, below, out=shares[: len(hits)], dtype=np.float64)
            area += np.einsum("gb,gb->b", gained, shares[: len(hits)])
    return found, passed, lost, area


def _blocks_of_steps(question: Steps, weights: Array) -> Iterator[tuple[Array, Array, Array | None]]:
    """Yield positives, negatives and tied negatives of some steps in every resample, (steps, B) each.

    Slices of sparse matrices cost more than small products, so that many blocks are multiplied out at once.
    """
    whole, height = (max(1, elements // weights.shape[1]) for elements in (PRODUCT_ELEMENTS, BLOCK_ELEMENTS))
    for start in range(0, question.size, whole):
        part = slice(start, start + whole) if question.size > whole else None
        gained, below = (counts.times_many(weights, part) for counts in (question.positives, question.negatives))
        tied = None if question.tied is None else question.tied.times_many(weights, part)
        for first in range(0, len(gained), height):
            rows = slice(first, first + height)
            yield gained[rows], below[rows], None if tied is None else tied[rows]


def _run_down(block: Array, before: Array) -> None:
    """Add up a block row by row in place, from what stood above it: a row of B numbers stays in the cache."""
    block[0] += before.astype(block.dtype)
    above = block[0]
    for row in block[1:]:
        row += above
        above = row


def _dot(a: Array, b: Array, limit: float) -> Array:
    """Sum of products down the rows, shape (B,), in float64 unless no sum of whole numbers exceeds the limit."""
    kind = a.dtype if limit < EXACT else np.float64
    return np.einsum("gb,gb->b", a, b, dtype=kind).astype(np.float64)


def auroc(y_score: Array, positive: Array, weights: Array | None = None, rows: Array | None = None) -> Array:
    """Return the AUROC of every resample, ties counted half.

    Args:
        y_score: Shape (N,).
        positive: Boolean, shape (N,).
        weights: Weight of each unit (patient) in each resample, shape (P, B); None weighs each case 1.
        rows: Unit of each case, indices into `weights`, shape (N,); None where units are cases.
    Returns:
        Shape (B,); NaN where a resample has no positive or no negative case.
    """
    question, weights = _sorted(y_score, positive, weights, rows)
    parts = blocks(weights, cases=len(y_score))
    return np.concatenate([_areas(question, block, precision=False)[0] for _, block in parts])


def average_precision(
    y_score: Array, positive: Array, weights: Array | None = None, rows: Array | None = None
) -> Array:
    """Return the average precision of every resample: the area under the steps of the precision-recall curve.

    Args:
        y_score: Shape (N,).
        positive: Boolean, shape (N,).
        weights: As in `auroc`.
        rows: As in `auroc`.
    Returns:
        Shape (B,); NaN where a resample has no positive case (scikit-learn says 0 there).
    """
    question, weights = _sorted(y_score, positive, weights, rows)
    parts = blocks(weights, cases=len(y_score))
    return np.concatenate([_areas(question, block, precision=True)[1] for _, block in parts])


def _sorted(y_score: Array, positive: Array, weights: Array | None, rows: Array | None) -> tuple[Steps, Array]:
    weights = np.ones((len(y_score), 1)) if weights is None else weights
    rows = np.arange(len(y_score)) if rows is None else rows
    return steps(y_score, positive, rows, len(weights)), weights


def blocks(weights: Array, *, cases: int) -> Iterator[tuple[slice, Array]]:
    """Yield slices of the draws, and their weights as numbers in which all sums over the cases are exact."""
    whole = weights.dtype.kind in "iu" and weights.size and cases * float(weights.max()) < EXACT
    kind = np.float32 if whole and weights.shape[1] >= FEW_DRAWS else np.float64
    for start in range(0, weights.shape[1], BLOCK_DRAWS):
        part = slice(start, min(start + BLOCK_DRAWS, weights.shape[1]))
        yield part, np.ascontiguousarray(weights[:, part], dtype=kind)


def question_draws(
    y_score: Array,
    targets: Array,
    weights: Array,
    rows: Array,
    measures: tuple[str, ...] = ("auroc", "average_precision"),
) -> tuple[Array, ...]:
    """Return AUROC and average precision of every question and resample, shape (Q, B) each.

    Args:
        y_score: One column per binary question, shape (N, Q).
        targets: 1 positive, 0 negative, NaN unknown (left out of this question only), shape (N, Q).
        weights: Weight of each unit in each resample, shape (P, B), any number type.
        rows: Unit of each case, shape (N,).
        measures: Which of the two, in this order.
    """
    unknown = sorted(set(measures) - {"auroc", "average_precision"})
    if unknown:
        raise ValueError(f"unknown measures {unknown} (known: auroc, average_precision)")
    known = ~np.isnan(targets)
    questions = [
        steps(y_score[mask, q], targets[mask, q] > 0.5, rows[mask], len(weights)) for q, mask in enumerate(known.T)
    ]
    found = {name: np.empty((len(questions), weights.shape[1])) for name in measures}
    for part, block in blocks(weights, cases=len(rows)):
        for q, question in enumerate(questions):
            areas, precisions = _areas(question, block, precision="average_precision" in found)
            if "auroc" in found:
                found["auroc"][q, part] = areas
            if "average_precision" in found:
                found["average_precision"][q, part] = precisions
    return tuple(found[name] for name in measures)


def mean_draws(values: Array, weights: Array, rows: Array) -> Array:
    """Return the weighted mean over the defined cases of each resample, shape (B,); Dice and all other case means.

    Args:
        values: One value per case, shape (N,); NaN where undefined (both masks empty), left out.
        weights: Shape (P, B).
        rows: Unit of each case, shape (N,).
    """
    defined = ~np.isnan(values)
    sums = np.bincount(rows[defined], weights=values[defined], minlength=len(weights)) @ weights
    counts = np.bincount(rows[defined], minlength=len(weights)) @ weights
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)

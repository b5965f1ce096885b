"""AUROC and average precision of all resamples of the patients at once, from one sort per question.

Rank metrics of a resample need, at each distinct score that a positive has, the weight of the positives and of the
negatives down to there. Which patients fall into which of these steps never changes, so that a sparse matrix
(steps x patients) times the weights (patients x resamples) gives the steps of all resamples, and running sums over
the steps give both metrics: within runs of steps in numbers as small as they can be, then over the runs. Ties need
no special care: equal scores are one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK_DRAWS = 2_048  # columns of a running sum, measured best
PRODUCT_ELEMENTS = 1_000_000  # of (steps x draws) in one sparse product
RUN = 32  # steps that are added up together
FEW_DRAWS = 32  # below, whole arrays beat a loop over the steps
# whole numbers up to here are exact: the smaller the numbers, the less memory has to be moved
EXACT = {np.dtype(kind): largest for kind, largest in (("u2", 2.0**16 - 1), ("f4", 2.0**24), ("f8", np.inf))}
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
    def ends(self) -> Array:
        """Where the cases of each step end, 0 before the first, shape (steps + 1,)."""
        found = np.zeros(self.shape[0] + 1, dtype=np.int32)
        np.cumsum(np.bincount(self.step, minlength=self.shape[0]), out=found[1:])
        return found

    def in_runs(self, weights: Array, part: slice) -> Array:
        """Return the weight of the cases at some steps, (runs, RUN, B)."""
        from scipy.sparse import csr_array

        ends = self.ends[part.start : part.stop + 1]
        units = self.unit[ends[0] : ends[-1]].astype(np.int32)
        data = np.ones(len(units), dtype=weights.dtype)
        matrix = csr_array((data, units, ends - ends[0]), shape=(len(ends) - 1, self.shape[1]))
        return np.asarray(matrix @ weights).reshape(-1, RUN, weights.shape[1])

    def times(self, weights: Array) -> Array:
        """Return the weight of the cases at each step, (steps, B), for few resamples."""
        gathered = weights[self.unit]
        columns = [np.bincount(self.step, weights=column, minlength=self.shape[0]) for column in gathered.T]
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Steps:
    """A binary question sorted once: who is where between the scores of its positives, best score first.

    A last step holds the negatives below every positive, and no positive; then come empty ones to fill the last run.

    Attributes:
        positives: Cases that are positive at each of the G distinct scores of positives.
        negatives: Negative cases from each such score up to the one before it.
        tied: Negative cases exactly at each such score; None where there is none.
    """

    positives: Counts
    negatives: Counts
    tied: Counts | None


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
    shape = (RUN * (int(begins.sum()) // RUN + 1), units)
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
    """As `_sums_at_once`, for many resamples: steps are added up within runs, in small numbers, and then the runs."""
    found, passed, lost, area = np.zeros((4, weights.shape[1]))
    for gained, below, tied in _runs_of_steps(question, weights):
        _run_down(below)
        hits, misses = gained.sum(axis=1, dtype=gained.dtype), below[:, -1]
        misses_before, passed = _before(misses, passed)
        limit = float(hits.max()) * float(misses.max())
        lost += _dot(gained, below, limit) + np.einsum("rb,rb->b", hits, misses_before)
        if tied is not None:
            lost -= 0.5 * _dot(gained, tied, limit)
        hits_before, found = _before(hits, found)
        if precision:
            area += _precisions(gained, below, hits_before, misses_before)
    return found, passed, lost, area


def _runs_of_steps(question: Steps, weights: Array) -> Iterator[tuple[Array, Array, Array | None]]:
    """Yield positives, negatives and tied negatives of some steps in every resample, (runs, RUN, B) each."""
    height = RUN * max(1, PRODUCT_ELEMENTS // (RUN * weights.shape[1]))
    n_steps = question.positives.shape[0]
    for start in range(0, n_steps, height):
        part = slice(start, min(start + height, n_steps))
        gained, below = (side.in_runs(weights, part) for side in (question.positives, question.negatives))
        yield gained, below, None if question.tied is None else question.tied.in_runs(weights, part)


def _run_down(runs: Array) -> None:
    """Add up the steps of each run from its first one on, in place."""
    for step in range(1, runs.shape[1]):
        runs[:, step] += runs[:, step - 1]


def _before(of_runs: Array, so_far: Array) -> tuple[Array, Array]:
    """What had come before each run, (runs, B), and after the last one, (B,)."""
    before = np.empty(of_runs.shape)
    for run, added in enumerate(of_runs):
        before[run] = so_far
        so_far = so_far + added
    return before, so_far


def _dot(a: Array, b: Array, limit: float) -> Array:
    """Sum of products over all steps, shape (B,); `limit` is the largest that a run can have."""
    kind = a.dtype if limit <= EXACT[a.dtype] else np.float64
    return np.einsum("rsb,rsb->rb", a, b, dtype=kind).sum(axis=0, dtype=np.float64)


def _precisions(gained: Array, below: Array, hits_before: Array, misses_before: Array) -> Array:
    """Precisions at the positives, added up, shape (B,); `below`, negatives since the run began, is overwritten."""
    hits, cases, kind = gained.copy(), below, gained.dtype
    _run_down(hits)
    hits += hits_before.astype(kind)[:, None]
    cases += misses_before.astype(kind)[:, None]
    cases += hits
    if not cases[0, 0].all():  # nothing drawn so far must not divide by 0
        np.maximum(cases, 1 if kind.kind == "u" else TINY, out=cases)
    shares, area = np.empty(hits.shape[1:]), np.zeros(hits.shape[2])
    for more, found, seen in zip(gained, hits, cases, strict=True):  # what is worked on stays in the cache
        area += np.einsum("sb,sb->b", more, np.divide(found, seen, out=shares, dtype=np.float64))
    return area


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
    parts = blocks(weights, np.arange(len(y_score)) if rows is None else rows)
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
    parts = blocks(weights, np.arange(len(y_score)) if rows is None else rows)
    return np.concatenate([_areas(question, block, precision=True)[1] for _, block in parts])


def _sorted(y_score: Array, positive: Array, weights: Array | None, rows: Array | None) -> tuple[Steps, Array]:
    weights = np.ones((len(y_score), 1)) if weights is None else weights
    rows = np.arange(len(y_score)) if rows is None else rows
    return steps(y_score, positive, rows, len(weights)), weights


def blocks(weights: Array, rows: Array) -> Iterator[tuple[slice, Array]]:
    """Yield slices of the draws, and their weights as numbers in which all sums over the cases are exact."""
    cases = np.bincount(rows, minlength=len(weights)).astype(np.float32)
    for start in range(0, weights.shape[1], BLOCK_DRAWS):
        part = slice(start, min(start + BLOCK_DRAWS, weights.shape[1]))
        block, kind = weights[:, part], np.dtype(np.float64)
        if weights.dtype.kind in "iu" and weights.size and weights.shape[1] >= FEW_DRAWS:
            heaviest = 1.001 * float((cases @ block.astype(np.float32)).max())  # beyond what float32 rounds off
            kind = next(number for number, exact in EXACT.items() if heaviest < exact)
        yield part, np.ascontiguousarray(block, dtype=kind)


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
    for part, block in blocks(weights, rows):
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

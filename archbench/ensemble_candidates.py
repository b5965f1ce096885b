"""What an ensemble may be, from simple to complex: how each candidate is fitted and applied to other patients.

Everything that is fitted goes through `archbench.out_of_fold.source_rows`, which refuses rows of the patients it is
applied to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.calibrated_mean import fit_calibrated_greedy, fit_calibrated_mean, fit_calibrated_weights
from archbench.combining import fit_gate, member_scores
from archbench.label_stacking import fit_label_stacker
from archbench.members import (
    base_log_probabilities,
    mean_log_odds,
    mean_log_probabilities,
    member_logits,
    member_view,
)
from archbench.metrics.metric import Array, log_softmax
from archbench.metrics.views import group_columns, is_grouped
from archbench.neural_stacking import NetworkSettings, fit_network
from archbench.out_of_fold import OutOfFold, source_rows
from archbench.stacking import fit_stacker

Scorer = Callable[[Predictions], Array]  # log odds, or unnormalised log probabilities (N, K) of rows
UNSCORED_LOGIT = -30.0
# From simple to complex: nothing fitted; a scale of each member by itself; then the members together, by one value a
# member, a few a label or class, one a member and column, a network.
COMPLEXITY = ("mean", "calibrated_mean", "weighted", "greedy", "logistic", "attention", "mlp")


@dataclass(frozen=True)
class Stack:
    """What every candidate needs to know of a stacked table.

    Attributes:
        members: Names of the members.
        network: How the candidate `mlp` is trained.
        fits: What was fitted so far, by candidate, training seed and rows.
    """

    members: tuple[str, ...]
    network: NetworkSettings
    fits: dict[tuple[str, int, str], Scorer] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of members M."""
        return len(self.members)


def unsuited(name: str, outputs: str) -> str | None:
    """Say why a candidate can't be fitted to what the members predict, or None."""
    if outputs == "value" and name != "mean":
        return "it is fitted on probabilities, and the task predicts a number"
    return None


def apply_candidate(name: str, source: OutOfFold, applied: Predictions, stack: Stack) -> Array:
    """Return what a candidate or a member says of rows of patients that the source doesn't hold.

    Args:
        name: One of `COMPLEXITY`, or a member.
        source: Stacked out-of-fold rows to fit on.
        applied: Stacked rows.
    Returns:
        Shape (N, K): log probabilities of classes, log odds of labels, or values.
    Raises:
        LeakError: If a patient of `applied` is among the source's rows.
    """
    source_rows(source, applied=applied)
    if name in stack.members:
        return member_alone(applied, stack.members.index(name), stack.size)
    if name == "mean":
        return plain_mean(applied, stack.size)
    if applied.outputs == "zones":
        return _by_zone(
            applied, stack.size, lambda zone, rows: _fitted(name, _of_zone(source, zone, stack.size), rows, stack)
        )
    return _fitted(name, source, applied, stack)


def member_alone(rows: Predictions, member: int, n_members: int) -> Array:
    """Return log probabilities, log odds or values (N, K) of one member alone."""
    if is_grouped(rows):
        return member_logits(rows, n_members)[:, member].astype(np.float64)
    return base_log_probabilities(rows, member, n_members)


def plain_mean(rows: Predictions, n_members: int) -> Array:
    """Return the members' mean probability as log probabilities or log odds (N, K), or their mean value."""
    if rows.outputs == "labels":
        return mean_log_odds(rows, n_members)
    if rows.outputs == "zones":
        return _by_zone(rows, n_members, lambda _, table: mean_log_probabilities(table, n_members))
    return mean_log_probabilities(rows, n_members)


def _fitted(name: str, source: OutOfFold, applied: Predictions, stack: Stack) -> Array:
    """Fit per training seed on the source, apply to rows of other patients."""
    width = applied.logits.shape[1] // stack.size
    result = np.empty((len(applied), width))
    for seed in np.unique(applied.seed):
        of_seed = applied.seed == seed
        rows = applied.select(of_seed)
        result[of_seed] = _fit(name, source, rows, int(seed), stack)(rows)
    exclusive = width != len(applied.labels)
    return log_softmax(result) if exclusive else result


def _fit(name: str, source: OutOfFold, applied: Predictions, seed: int, stack: Stack) -> Scorer:
    """Fit on the source, or take what was fitted on the same rows before.

    The choice for fold a asks for fits without the folds a and b, that for fold b for the same ones, and what is
    applied to a fold was already fitted to score its candidates.
    """
    rows = source.rows
    # of the same table, so that numbers stand for names and sums for what cases hold
    sums = (np.nansum(rows.targets, axis=0), rows.logits.sum(axis=0, dtype=np.float64))
    content = (rows.case_code, rows.seed, rows.fold, source.group, np.array(rows.labels), *sums)
    digest = blake2b(b"".join(np.ascontiguousarray(column).tobytes() for column in content)).hexdigest()
    key = (name, seed, digest)
    if key not in stack.fits:
        stack.fits[key] = _FITS[name](source, applied, seed, stack)
    return stack.fits[key]


def _logistic(source: OutOfFold, applied: Predictions, seed: int, stack: Stack) -> Scorer:
    """Per label where labels may go together, else one regression over all classes."""
    size = stack.size
    if member_logits(applied, size).shape[2] == len(applied.labels):
        per_label = fit_label_stacker(source, applied=applied, n_members=size, seed=seed)
        return lambda rows: per_label.scores(member_scores(rows, size))
    stacker = fit_stacker(source, applied=applied, n_members=size, seed=seed)
    return lambda rows: stacker.log_probabilities(member_logits(rows, size))


def _network(source: OutOfFold, applied: Predictions, seed: int, stack: Stack) -> Scorer:
    fitted = fit_network(source, applied=applied, n_members=stack.size, seed=seed, settings=stack.network)
    return lambda rows: fitted.scores(member_scores(rows, stack.size))


def _of(fit: Callable[..., Any]) -> Callable[[OutOfFold, Predictions, int, Stack], Scorer]:
    """A candidate that needs no settings."""

    def fitted(source: OutOfFold, applied: Predictions, seed: int, stack: Stack) -> Scorer:
        found = fit(source, applied=applied, n_members=stack.size, seed=seed)

        def scores(rows: Predictions) -> Array:
            result: Array = found.scores(member_scores(rows, stack.size))
            return result

        return scores

    return fitted


_FITS: dict[str, Callable[[OutOfFold, Predictions, int, Stack], Scorer]] = {
    "calibrated_mean": _of(fit_calibrated_mean),
    "weighted": _of(fit_calibrated_weights),
    "greedy": _of(fit_calibrated_greedy),
    "logistic": _logistic,
    "attention": _of(fit_gate),
    "mlp": _network,
}


def _by_zone(stacked: Predictions, n_members: int, combine: Callable[[int, Predictions], Array]) -> Array:
    """Logits (N, K) of a table of zones, each combined alone.

    The class of ungradable zones, which is never scored, gets a probability of nearly nothing.
    """
    width = stacked.logits.shape[1] // n_members
    result = np.full((len(stacked), width), UNSCORED_LOGIT)
    for zone in range(len(stacked.labels)):
        result[:, group_columns(stacked, zone)] = combine(zone, member_view(stacked, zone, n_members))
    return result


def _of_zone(source: OutOfFold, zone: int, n_members: int) -> OutOfFold:
    """The source's rows of one zone with a scored target."""
    rows = member_view(source.rows, zone, n_members)
    known = ~np.isnan(rows.targets[:, 0])
    return OutOfFold(rows=rows.select(known), group=source.group[known], crossed=source.crossed)

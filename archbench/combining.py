"""Ensembles that weigh members alike for every label: fitted weights, greedy selection, and a gate per case.

All work on members' logits side by side (`archbench.members.stack_members`), for classes that exclude each other
(log probabilities are averaged) and for several labels (log odds are averaged, unknown targets count for nothing).
Everything here is fitted on out-of-fold rows of other patients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.members import member_logits
from archbench.metrics.metric import Array, log_softmax
from archbench.metrics.table_rows import distinct
from archbench.out_of_fold import OutOfFold, source_rows

GREEDY_ROUNDS = 50
GREEDY_PATIENCE = 10  # rounds without a gain that end the selection
WEIGHT_RIDGE = 1e-3  # per case: weights without influence stay uniform
GATE_RIDGE = 1e-2  # per case: a gate without evidence stays uniform


def one_blas_thread() -> Any:
    """Return a context in which BLAS uses one thread: matrices of this size run 50 times slower on contended ones."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1, user_api="blas")


@dataclass(frozen=True)
class Members:
    """What a fit sees of a stacked table.

    Attributes:
        scores: Log odds of each label, or log probabilities of each class, by member, shape (N, M, K).
        targets: 0, 1 or NaN (N, K) with several labels, else class indices (N,).
        multilabel: Whether labels may occur together.
        group: Group of patients of each row, shape (N,).
        images_per_patient: Mean number of rows of a patient.
    """

    scores: Array
    targets: Array
    multilabel: bool
    group: Array
    images_per_patient: float


def member_scores(rows: Predictions, n_members: int) -> Array:
    """Return what is averaged over members, shape (N, M, K): log odds of labels, log probabilities of classes."""
    logits = member_logits(rows, n_members).astype(np.float64)
    return logits if logits.shape[2] == len(rows.labels) else log_softmax(logits)


def members_to_fit(source: OutOfFold, *, applied: Predictions, n_members: int, seed: int) -> Members:
    """Return the rows of one training seed to fit an ensemble on: the gate of every ensemble.

    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
        ValueError: If there is no row of this seed.
    """
    rows = source_rows(source, applied=applied)
    of_seed = rows.seed == seed
    if not of_seed.any():
        raise ValueError(f"no out-of-fold rows of seed {seed} (seeds: {np.unique(rows.seed).tolist()})")
    rows, group = rows.select(of_seed), source.group[of_seed]
    scores, images = member_scores(rows, n_members), len(rows) / distinct(rows.patient_code)
    if scores.shape[2] != len(rows.labels):
        return Members(scores, rows.y_true, False, group, images)
    certain = np.isin(rows.targets, (0.0, 1.0))  # what a label policy made of an uncertain one is nothing to learn from
    return Members(scores, np.where(certain, rows.targets, np.nan), True, group, images)


def log_loss(scores: Array, targets: Array, *, multilabel: bool) -> float:
    """Return the mean log loss per case; with several labels that of a case is the sum over its known labels.

    Args:
        scores: Log odds of labels or unnormalised log probabilities of classes, shape (N, K).
        targets: 0, 1 or NaN (N, K) with several labels, else class indices (N,).
        multilabel: Which of the two.
    """
    if not multilabel:
        return -float(log_softmax(scores)[np.arange(len(scores)), targets].mean())
    known = ~np.isnan(targets)
    loss = np.maximum(scores, 0.0) + np.log1p(np.exp(-np.abs(scores))) - np.where(known, targets, 0.0) * scores
    return float(loss[known].sum() / len(scores))


def loss_and_gradient(scores: Array, targets: Array, *, multilabel: bool) -> tuple[float, Array]:
    """Return `log_loss` and its gradient by the scores, shape (N, K)."""
    loss = log_loss(scores, targets, multilabel=multilabel)
    if multilabel:
        predicted = 1.0 / (1.0 + np.exp(-np.clip(scores, -500, 500)))
        return loss, np.where(np.isnan(targets), 0.0, predicted - targets) / len(scores)
    gradient = np.exp(log_softmax(scores))
    gradient[np.arange(len(scores)), targets] -= 1.0
    return loss, gradient / len(scores)


@dataclass(frozen=True)
class Blend:
    """One weight per member, shape (M,), not negative, summing to 1."""

    weights: Array

    def scores(self, members: Array) -> Array:
        """Return the weighted mean, (N, M, K) -> (N, K)."""
        return np.einsum("nmk,m->nk", members, self.weights)


def fit_weights(source: OutOfFold, *, applied: Predictions, n_members: int, seed: int) -> Blend:
    """Return the weights of least log loss, drawn to the uniform ones.

    Args:
        source: Stacked out-of-fold rows of other patients than those in `applied`.
        applied: The rows it will be applied to.
        n_members: Number of members M.
        seed: Training seed.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
    """
    from scipy.optimize import minimize

    data = members_to_fit(source, applied=applied, n_members=n_members, seed=seed)
    shape = data.scores[:, 0].shape
    flat = np.ascontiguousarray(data.scores.transpose(0, 2, 1)).reshape(-1, n_members)

    def objective(free: Array) -> tuple[float, Array]:
        weights = np.exp(log_softmax(free[None, :])[0])
        scores = (flat @ weights).reshape(shape)
        loss, gradient = loss_and_gradient(scores, data.targets, multilabel=data.multilabel)
        of_weights = gradient.ravel() @ flat
        of_free = weights * (of_weights - weights @ of_weights)
        return loss + 0.5 * WEIGHT_RIDGE * float(free @ free), of_free + WEIGHT_RIDGE * free

    with one_blas_thread():
        found = minimize(objective, np.zeros(n_members), jac=True, method="L-BFGS-B")
    return Blend(np.exp(log_softmax(found.x[None, :])[0]))


def fit_greedy(
    source: OutOfFold,
    *,
    applied: Predictions,
    n_members: int,
    seed: int,
    rounds: int = GREEDY_ROUNDS,
    goal: Callable[[Array], float] | None = None,
) -> Blend:
    """Add the member that helps the mean most, again and again; members may come several times.

    Args:
        source: Stacked out-of-fold rows of other patients than those in `applied`.
        applied: The rows it will be applied to.
        n_members: Number of members M.
        seed: Training seed.
        rounds: Members to add; the best of all prefixes is kept, the shortest of equals.
        goal: What to maximise, from scores (N, K) of the rows of this seed; None minimises the log loss.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
    Source:
        Caruana et al., 2004; without their bagging.
    """
    data = members_to_fit(source, applied=applied, n_members=n_members, seed=seed)

    def value(scores: Array) -> float:
        return goal(scores) if goal else -log_loss(scores, data.targets, multilabel=data.multilabel)

    chosen = np.zeros(n_members)
    total = np.zeros_like(data.scores[:, 0])
    best, best_value, since = chosen, -np.inf, 0
    for size in range(1, rounds + 1):
        values = [value((total + data.scores[:, k]) / size) for k in range(n_members)]
        pick = int(np.argmax(values))
        chosen, total = chosen + np.eye(n_members)[pick], total + data.scores[:, pick]
        if values[pick] > best_value + 1e-12:
            best, best_value, since = chosen, values[pick], 0
        else:
            since += 1
        if since == GREEDY_PATIENCE:
            break
    return Blend(best / best.sum())


@dataclass(frozen=True)
class Gate:
    """Weights that depend on the case: a softmax over members, from all their standardised logits.

    Attributes:
        centre: Mean of each feature where it was fitted, shape (M * K,).
        scale: Standard deviation of each feature, shape (M * K,).
        coefficients: Shape (M * K + 1, M), the last row the constant.
    """

    centre: Array
    scale: Array
    coefficients: Array

    def weights(self, members: Array) -> Array:
        """Return the attention of each case to each member, (N, M, K) -> (N, M), rows sum to 1."""
        features = (members.reshape(len(members), -1) - self.centre) / self.scale
        return np.exp(log_softmax(np.column_stack([features, np.ones(len(features))]) @ self.coefficients))

    def scores(self, members: Array) -> Array:
        """Return the weighted mean of each case, (N, M, K) -> (N, K)."""
        return np.einsum("nmk,nm->nk", members, self.weights(members))


def fit_gate(source: OutOfFold, *, applied: Predictions, n_members: int, seed: int, ridge: float = GATE_RIDGE) -> Gate:
    """Fit attention over the members; with a strong ridge it is the plain mean.

    Args:
        source: Stacked out-of-fold rows of other patients than those in `applied`.
        applied: The rows it will be applied to.
        n_members: Number of members M.
        seed: Training seed.
        ridge: Penalty per case on the coefficients.
    Raises:
        TypeError: If `source` is not an OutOfFold.
        LeakError: If a patient of `applied` is among its rows.
    """
    from scipy.optimize import minimize

    data = members_to_fit(source, applied=applied, n_members=n_members, seed=seed)
    flat = data.scores.reshape(len(data.scores), -1)
    centre, scale = flat.mean(axis=0), flat.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = np.column_stack([(flat - centre) / scale, np.ones(len(flat))])

    def objective(flat_coefficients: Array) -> tuple[float, Array]:
        attention = np.exp(log_softmax(design @ flat_coefficients.reshape(-1, n_members)))
        scores = np.einsum("nmk,nm->nk", data.scores, attention)
        loss, gradient = loss_and_gradient(scores, data.targets, multilabel=data.multilabel)
        of_attention = np.einsum("nk,nmk->nm", gradient, data.scores)
        of_gate = attention * (of_attention - (attention * of_attention).sum(axis=1, keepdims=True))
        penalty = 0.5 * ridge * float(flat_coefficients @ flat_coefficients)
        return loss + penalty, (design.T @ of_gate).ravel() + ridge * flat_coefficients

    start = np.zeros(design.shape[1] * n_members)
    with one_blas_thread():
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return Gate(centre, scale, found.x.reshape(-1, n_members))

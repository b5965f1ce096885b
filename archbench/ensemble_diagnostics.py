"""Signs that the members of an ensemble were put together wrongly: label order, row order, scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.members import member_logits
from archbench.metrics.metric import Array
from archbench.statistics import Estimate

SUSPICIOUS_GAIN = 0.15  # of the correlation
SUSPICIOUS_SCALE = 5.0
CHANCE_LEVEL = {"auroc_macro": 0.5, "qwk": 0.0}  # what a member that knows nothing reaches
CHANCE = 0.05  # distance from it within which a member seems to know nothing
SKILL = 0.15  # by which another member must then be better


def mean_problem(gain: Estimate, metric: str, found: Sequence[str]) -> str | None:
    """Say that the plain mean is below the best base model, and what that may come from; None where it isn't.

    Args:
        gain: Of the mean over the best base model, positive is better.
        metric: Its name.
        found: What `member_problems` says.
    """
    if not gain.value < 0:
        return None
    certain = "clearly" if gain.high < 0 else "within its uncertainty"
    cause = (
        "see the members named below"
        if found
        else "label order, row order and scale of the members show nothing, so some are just much weaker than the best"
    )
    return f"the uniform mean is {certain} below the best base model ({gain.value:+.3f} {metric}): {cause}"


def member_problems(
    stacked: Predictions, *, members: Sequence[str], classes: Sequence[str], values: Array, metric: str
) -> list[str]:
    """Return signs of a wrong label order, row order or scale, naming the member.

    Args:
        stacked: Members side by side, rows with a known target.
        members: Names of the M members.
        classes: Names of the K columns of each.
        values: The primary metric of each member, shape (M,).
        metric: Its name.
    """
    logits = member_logits(stacked, len(members)).astype(np.float64)
    spreads = _spreads(logits, stacked.outputs)
    problems = []
    for k, name in enumerate(members):
        order = _better_order(logits[:, k], stacked)
        if order is not None:
            shown = ", ".join(f"{classes[j]} -> {classes[i]}" for j, i in enumerate(order) if i != j)
            kind = "labels" if stacked.outputs == "labels" else "classes"
            problems.append(
                f"{name} fits the truth much better with its {kind} reordered ({shown}): suspect label order"
            )
        elif (text := _row_problem(name, float(values[k]), values, metric)) is not None:
            problems.append(text)
        if (text := _scale_problem(name, float(spreads[k]), float(np.median(spreads)))) is not None:
            problems.append(text)
    return problems


def _row_problem(name: str, value: float, values: Array, metric: str) -> str | None:
    chance = CHANCE_LEVEL.get(metric)
    if chance is None or np.isnan(value):
        return None
    best = float(np.nanmax(values))
    if abs(value - chance) >= CHANCE or best - value <= SKILL:
        return None
    return f"{name} knows nothing ({metric} {value:.3f}) where another member reaches {best:.3f}: suspect row order"


def _scale_problem(name: str, spread: float, usual: float) -> str | None:
    if usual <= 0 or 1.0 / SUSPICIOUS_SCALE < spread / usual < SUSPICIOUS_SCALE:
        return None
    return (
        f"the logits of {name} spread {spread:.2g}, those of the members usually {usual:.2g}: suspect its scale "
        "(probabilities instead of logits?), or calibrate first"
    )


def _spreads(logits: Array, outputs: str) -> Array:
    """Standard deviation of each member's logits, (N, M, K) -> (M,); a constant added to all classes says nothing."""
    centred = logits - logits.mean(axis=2, keepdims=True) if outputs == "classes" else logits
    spreads: Array = centred.std(axis=(0, 2))
    return spreads


def _better_order(logits: Array, rows: Predictions) -> list[int] | None:
    """The order that a member's columns seem to have; looked for where columns are classes or labels."""
    if rows.outputs == "classes":
        return better_label_order(softmax(logits), rows.y_true)
    if rows.outputs != "labels" or logits.shape[1] < 2:
        return None
    return permuted_labels(logits, np.where(np.isin(rows.targets, (0.0, 1.0)), rows.targets, np.nan))


def better_label_order(probabilities: Array, y_true: Array) -> list[int] | None:
    """Return the class that each column really seems to mean, if that is far better than its own order.

    Columns are matched to the true classes by correlation; a swap of neighbouring grades that look alike stays
    below the threshold.

    Args:
        probabilities: Shape (N, K).
        y_true: Class indices, shape (N,).
    """
    correlation = _correlations(probabilities, np.eye(probabilities.shape[1])[y_true])
    columns, meant = _matched(correlation)
    gain = float(correlation[columns, meant].mean() - np.trace(correlation) / len(correlation))
    return meant.tolist() if gain > max(SUSPICIOUS_GAIN, 3.0 / np.sqrt(len(y_true))) else None


def permuted_labels(scores: Array, targets: Array) -> list[int] | None:
    """Return the label that each column really seems to mean, if the columns that moved fit far better there.

    Args:
        scores: Log odds, shape (N, L).
        targets: 0, 1 or NaN, shape (N, L).
    """
    correlation = _correlations(scores, targets)
    columns, meant = _matched(correlation)
    moved = columns != meant
    if not moved.any():
        return None
    gain = correlation[columns, meant][moved] - np.diag(correlation)[moved]
    noise = 3.0 / np.sqrt(np.maximum((~np.isnan(targets)).sum(axis=0)[moved], 1).min())
    return meant.tolist() if gain.mean() > max(SUSPICIOUS_GAIN, noise) else None


def _matched(correlation: Array) -> tuple[Array, Array]:
    from scipy.optimize import linear_sum_assignment

    columns, meant = linear_sum_assignment(correlation, maximize=True)
    return columns, meant


def _correlations(scores: Array, targets: Array) -> Array:
    """Correlation of each column of scores with each label over its known cases, (L, L); 0 where undefined."""
    result = np.zeros((scores.shape[1], targets.shape[1]))
    for label, column in enumerate(targets.T):
        known = ~np.isnan(column)
        if not known.any():
            continue
        truth = column[known] - column[known].mean()
        centred = scores[known] - scores[known].mean(axis=0)
        norm = np.sqrt((truth**2).sum()) * np.sqrt((centred**2).sum(axis=0))
        result[:, label] = np.divide(truth @ centred, norm, out=np.zeros(len(norm)), where=norm > 1e-12)
    return result

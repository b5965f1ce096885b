"""Which ensemble earns its place: simple before complex, overall and label by label, and signs of a wrong stack.

A more complex candidate replaces the choice only if the lower bound of the 90 % interval of its paired gain is above
0. Every candidate's score, the choice and the reason are kept. A single label goes back to the best base model where
the choice does not help it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from archbench.metrics.metric import Array
from archbench.metrics.scoring import Scores
from archbench.statistics import Estimate, difference, estimate

CONFIDENCE = 0.90
SUSPICIOUS_GAIN = 0.15  # of the correlation, per label that moved
SUSPICIOUS_SCALE = 5.0
CHANCE = 0.05  # distance from an AUROC of .5 within which a member seems to know nothing
SKILL = 0.15  # by which another member must then be better


@dataclass(frozen=True)
class Trial:
    """A candidate against the choice before it.

    Attributes:
        name: Candidate.
        scores: Its cross-fitted scores.
        gain: By how much it is better, positive is better, with the 90 % interval; None for the first.
        against: The choice before it; None for the first.
        adopted: Whether it became the choice.
        reason: In words.
    """

    name: str
    scores: Scores
    gain: Estimate | None
    against: str | None
    adopted: bool
    reason: str


@dataclass(frozen=True)
class Adoption:
    """The choice among candidates and how it came about."""

    choice: str
    trials: tuple[Trial, ...]

    @property
    def reason(self) -> str:
        """The reasons of all steps."""
        return " ".join(trial.reason for trial in self.trials)


def adopt(candidates: Sequence[tuple[str, Scores]], *, greater_is_better: bool, metric: str) -> Adoption:
    """Choose from simple to complex.

    Args:
        candidates: Name and cross-fitted scores on the same resamples, the simplest (best base model) first.
        greater_is_better: Direction of the metric.
        metric: Its name, for the reasons.
    Raises:
        ValueError: If there is no candidate.
    """
    if not candidates:
        raise ValueError("there are no candidates to choose from")
    (name, scores), *others = candidates
    current = Trial(name, scores, None, None, True, f"{name} is the simplest candidate.")
    trials = [current]
    for name, scores in others:
        gain = gain_over(scores, current.scores, greater_is_better=greater_is_better)
        adopted = bool(gain.low > 0)
        trial = Trial(name, scores, gain, current.name, adopted, _sentence(name, current.name, gain, metric))
        trials.append(trial)
        current = trial if adopted else current
    return Adoption(current.name, tuple(trials))


def gain_over(candidate: Scores, base: Scores, *, greater_is_better: bool) -> Estimate:
    """Return by how much a candidate is better on the same resamples, with its 90 % interval."""
    signed = difference(candidate, base) if greater_is_better else difference(base, candidate)
    return estimate(signed, confidence=CONFIDENCE)


def _sentence(name: str, against: str, gain: Estimate, metric: str) -> str:
    if np.isnan(gain.low):
        return f"{name} was not adopted over {against}: its gain in {metric} has no interval on these patients."
    figures = f"gain in {metric} {gain.value:+.3f}, 90 % interval {gain.low:+.3f} to {gain.high:+.3f}"
    if gain.low > 0:
        return f"{name} was adopted over {against}: {figures}, all above 0."
    return f"{name} was not adopted over {against}: {figures}, not all above 0, so the simpler one stays."


@dataclass(frozen=True)
class LabelChoice:
    """What one label uses, its gain over the best base model, and why."""

    label: str
    choice: str
    gain: Estimate
    reason: str


def label_fallback(
    choice: str,
    best_base: str,
    *,
    chosen: Mapping[str, Scores],
    base: Mapping[str, Scores],
    greater_is_better: bool,
    metric: str,
) -> list[LabelChoice]:
    """Return the choice of each label: the ensemble, or the best base model where the ensemble is surely worse.

    Only a 90 % interval of the gain that lies below 0 sends a label back: asking each of 14 labels for a significant
    gain would throw away what the labels gain together.

    Args:
        choice: The ensemble that was chosen.
        best_base: The best base model.
        chosen: Scores of the ensemble per label.
        base: Scores of the best base model per label, on the same resamples.
        greater_is_better: Direction of the metric.
        metric: Its name, for the reasons.
    """
    found = []
    for label, scores in chosen.items():
        gain = gain_over(scores, base[label], greater_is_better=greater_is_better)
        if np.isnan(gain.low):
            words = f"{choice}: {metric} has no interval on these patients, so the label follows the others"
            found.append(LabelChoice(label, choice, gain, words))
            continue
        worse = gain.high < 0
        figures = f"gain {gain.value:+.3f}, 90 % interval {gain.low:+.3f} to {gain.high:+.3f}"
        words = f"{best_base}: {choice} is worse here" if worse else f"{choice}: not worse than {best_base}"
        found.append(LabelChoice(label, best_base if worse else choice, gain, f"{words} ({figures})"))
    return found


def improvement(values: Mapping[str, Array], best_base: str) -> tuple[dict[str, Array], dict[str, int]]:
    """Return each candidate's gain over the best base model per label, and how many labels improved.

    Args:
        values: Value of each candidate on each label, shape (L,), greater is better, NaN where undefined.
        best_base: Its name among the candidates.
    """
    gains = {name: found - values[best_base] for name, found in values.items() if name != best_base}
    return gains, {name: int((gain > 0).sum()) for name, gain in gains.items()}


def stack_problems(
    scores: Array, targets: Array, *, members: Sequence[str], labels: Sequence[str], aurocs: Array
) -> list[str]:
    """Return signs that members of a multilabel stack were put together wrongly: labels, rows or scale.

    Args:
        scores: Log odds by member, shape (N, M, L).
        targets: 0, 1 or NaN, shape (N, L).
        members: Names of the M members.
        labels: Names of the L labels.
        aurocs: Macro AUROC of each member, shape (M,).
    """
    problems = []
    spreads = scores.std(axis=(0, 2))
    usual, best = float(np.median(spreads)), float(np.nanmax(aurocs))
    for k, name in enumerate(members):
        order = permuted_labels(scores[:, k], targets)
        if order is not None:
            shown = ", ".join(f"{labels[j]} -> {labels[i]}" for j, i in enumerate(order) if i != j)
            problems.append(
                f"{name} fits the truth much better with its labels reordered ({shown}): suspect label order"
            )
        elif abs(aurocs[k] - 0.5) < CHANCE and best - aurocs[k] > SKILL:
            problems.append(
                f"{name} knows nothing (macro AUROC {aurocs[k]:.3f}) where another member reaches {best:.3f}: "
                "suspect row order"
            )
        if usual > 0 and not 1.0 / SUSPICIOUS_SCALE < spreads[k] / usual < SUSPICIOUS_SCALE:
            problems.append(
                f"the logits of {name} spread {spreads[k]:.2g}, those of the members usually {usual:.2g}: suspect its "
                "scale (probabilities instead of logits?), or calibrate first"
            )
    return problems


def permuted_labels(scores: Array, targets: Array) -> list[int] | None:
    """Return the label that each column really seems to mean, if the columns that moved fit far better there.

    Args:
        scores: Log odds, shape (N, L).
        targets: 0, 1 or NaN, shape (N, L).
    """
    from scipy.optimize import linear_sum_assignment

    correlation = _correlations(scores, targets)
    columns, meant = linear_sum_assignment(correlation, maximize=True)
    moved = columns != meant
    if not moved.any():
        return None
    gain = correlation[columns, meant][moved] - np.diag(correlation)[moved]
    noise = 3.0 / np.sqrt(np.maximum((~np.isnan(targets)).sum(axis=0)[moved], 1).min())
    return meant.tolist() if gain.mean() > max(SUSPICIOUS_GAIN, noise) else None


def _correlations(scores: Array, targets: Array) -> Array:
    """Correlation of each column of scores with each label over its known cases, (L, L); 0 where undefined."""
    result = np.zeros((scores.shape[1], targets.shape[1]))
    for label, column in enumerate(targets.T):
        known = ~np.isnan(column)
        truth = column[known] - column[known].mean() if known.any() else column[known]
        centred = scores[known] - scores[known].mean(axis=0) if known.any() else scores[known]
        norm = np.sqrt((truth**2).sum()) * np.sqrt((centred**2).sum(axis=0))
        result[:, label] = np.divide(truth @ centred, norm, out=np.zeros(len(norm)), where=norm > 1e-12)
    return result

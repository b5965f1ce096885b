"""Which ensemble earns its place: simple before complex, overall and label by label.

A more complex candidate replaces the choice only if the lower bound of the 90 % interval of its paired gain is above
0. Every candidate's score, the choice and the reason are kept. A single label goes back to the best base model where
the choice does not help it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from archbench.metrics.scoring import Scores
from archbench.statistics import Estimate, difference, estimate

CONFIDENCE = 0.90


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
        return " ".join(trial.reason for trial in (self.trials[1:] or self.trials))


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
    alone = f"{name} is the only candidate, so there is nothing to combine."
    first = f"{name} is what the others have to beat." if others else alone
    current = Trial(name, scores, None, None, True, first)
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

"""The choice of an ensemble on out-of-fold rows: score every candidate, adopt from simple to complex, fall back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from archbench.adoption import Adoption, LabelChoice, adopt, label_fallback
from archbench.artifacts import Predictions
from archbench.ensemble_candidates import Stack, apply_candidate, member_alone, unsuited
from archbench.members import base_log_probabilities, member_view
from archbench.metrics.drawn import Drawn
from archbench.metrics.metric import Array, Metric
from archbench.metrics.scoring import Scores, label_mean, label_scores, score, score_drawn
from archbench.metrics.views import group_columns, is_grouped
from archbench.out_of_fold import OutOfFold, cross_fitted
from archbench.statistics import PatientWeights

NESTED_RESAMPLES = 500
NOT_COMBINED = "a combination needs two members and patients of a second group to be scored on"


@dataclass(frozen=True)
class Setting:
    """What every choice among candidates shares.

    Attributes:
        stack: The members.
        candidates: Names from simple to complex.
        classes: Names of the K columns of a member.
        metric: What decides.
        questions: Frozen questions of a rank metric, or None.
        drawn: Patient weights, the same for all.
        confidence: Level of the reported intervals.
        memo: Rank metrics of folds measured before: a fold's own choice measures the other folds again.
    """

    stack: Stack
    candidates: tuple[str, ...]
    classes: tuple[str, ...]
    metric: Metric
    questions: Array | None
    drawn: PatientWeights
    confidence: float
    memo: dict[bytes, Array] = field(default_factory=dict)

    def nested(self) -> Setting:
        """Return the setting of a fold's own choice: fewer resamples decide, since no interval of it is reported."""
        drawn = self.drawn
        return replace(self, drawn=replace(drawn, weights=drawn.weights[:NESTED_RESAMPLES]))

    def table(self, rows: Predictions, logits: Array) -> Predictions:
        """Return a stacked table's rows with the logits (N, K) of one combination."""
        return replace(rows, logits=logits.astype(np.float32), classes=self.classes)

    def measured(self, predictions: Predictions) -> Measured:
        """Return the primary metric with its draws, of several labels or zones each and their mean."""
        drawn = Drawn(predictions, self.drawn.patients, self.drawn.weights, memo=self.memo)
        if not is_grouped(predictions) or self.metric.of != "each":
            found = Measured(predictions, score_drawn(drawn, self.metric, self.questions), {})
        else:
            labels = label_scores(drawn, self.metric, self.questions)
            found = Measured(predictions, label_mean(drawn, self.metric, list(labels.values())), labels)
        drawn.release()
        return found

    def point(self, predictions: Predictions) -> float:
        """Return the primary metric alone, which costs a fraction unless its draws are kept for the record."""
        if self.metric.kind == "rank":
            return self.measured(predictions).scores.point
        none = self.drawn.weights[:0]
        return score(predictions, self.metric, self.drawn.patients, none, self.questions).point


@dataclass(frozen=True)
class Measured:
    """A prediction table with its primary metric.

    Attributes:
        table: The predictions.
        scores: The metric; of several labels or zones its mean over them.
        labels: The metric of each label or zone; empty otherwise.
    """

    table: Predictions
    scores: Scores
    labels: Mapping[str, Scores]


@dataclass(frozen=True)
class Choice:
    """What was chosen, and how it came about.

    Attributes:
        name: Candidate or member.
        best_base: The best member.
        adoption: Every candidate with its scores and gain.
        reason: In words.
        labels: What each label or zone uses; empty without several, or where a member alone was chosen.
        skipped: Candidates that could not be tried, with the reason.
    """

    name: str
    best_base: str
    adoption: Adoption
    reason: str
    labels: tuple[LabelChoice, ...] = ()
    skipped: Mapping[str, str] | None = None

    @property
    def shown(self) -> str:
        """The choice as reports call it."""
        return shown(self.name, self.best_base)

    @property
    def fallen_back(self) -> tuple[str, ...]:
        """Labels that use the best member although something else was chosen."""
        return tuple(item.label for item in self.labels if item.choice == self.best_base)


def shown(name: str, best_base: str) -> str:
    """Return a candidate's name in reports; the best member is named as such."""
    return f"best base ({name})" if name == best_base else name


def base_table(rows: Predictions, name: str, setting: Setting) -> Predictions:
    """Return the table of one member alone."""
    return setting.table(rows, member_alone(rows, setting.stack.members.index(name), setting.stack.size))


def choose(source: OutOfFold, setting: Setting) -> tuple[Choice, dict[str, Measured]]:
    """Choose among the candidates with these rows only, from simple to complex.

    Returns:
        The choice, and what was measured: the best member and the cross-fitted predictions of every candidate tried.
    """
    skipped = _skipped(source, setting)
    tried = [name for name in setting.candidates if name not in skipped]
    best_base = best_member(source.rows, setting)
    found = {best_base: setting.measured(base_table(source.rows, best_base, setting))}
    found |= {name: setting.measured(_cross_fitted(name, source, setting)) for name in tried}
    adoption = adoption_of(best_base, found, setting)
    name = best_base if adoption.choice == shown(best_base, best_base) else adoption.choice
    labels = label_fallback(
        name,
        best_base,
        chosen=found[name].labels if name != best_base else {},
        base=found[best_base].labels,
        greater_is_better=setting.metric.greater_is_better,
        metric=setting.metric.name,
    )
    return Choice(name, best_base, adoption, adoption.reason, tuple(labels), skipped), found


def _cross_fitted(name: str, source: OutOfFold, setting: Setting) -> Predictions:
    """Predictions of a candidate for all source rows, each group by a fit on the others."""

    def predict(fit: OutOfFold, to: Predictions) -> Array:
        return apply_candidate(name, fit, to, setting.stack)

    return setting.table(source.rows, cross_fitted(source, predict))


def _skipped(source: OutOfFold, setting: Setting) -> dict[str, str]:
    if setting.stack.size < 2 or len(source.groups) < 2:
        return dict.fromkeys(setting.candidates, NOT_COMBINED)
    reasons = {name: unsuited(name, source.rows.outputs) for name in setting.candidates}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def best_member(rows: Predictions, setting: Setting) -> str:
    """Return the member of the best primary metric; the first of equals."""
    sign = 1.0 if setting.metric.greater_is_better else -1.0
    points = [sign * setting.point(base_table(rows, name, setting)) for name in setting.stack.members]
    return setting.stack.members[int(np.argmax(np.where(np.isnan(points), -np.inf, points)))]


def adoption_of(best_base: str, found: Mapping[str, Measured], setting: Setting) -> Adoption:
    """Return the adoption among the best member, which comes first, and fitted candidates."""
    tried = [(shown(name, best_base), item.scores) for name, item in found.items()]
    return adopt(tried, greater_is_better=setting.metric.greater_is_better, metric=setting.metric.name)


def apply_choice(choice: Choice, source: OutOfFold, applied: Predictions, setting: Setting) -> Array:
    """Return what a choice says of rows of other patients, shape (N, K), labels that fell back as the best member."""
    result = apply_candidate(choice.name, source, applied, setting.stack)
    member, size = setting.stack.members.index(choice.best_base), setting.stack.size
    for label in choice.fallen_back:
        group = applied.labels.index(label)
        columns = group_columns(setting.table(applied, result), group)
        view = base_log_probabilities(member_view(applied, group, size), member, size)
        result[:, columns] = view if applied.outputs == "zones" else (view[:, 1] - view[:, 0])[:, None]
    return result

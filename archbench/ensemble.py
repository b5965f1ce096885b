"""The ensemble of all models of a dataset, and whether it earns its place.

Candidates, simple to complex: the best base model, the mean of probabilities, logistic stacking. A more
complex one replaces the choice only if the lower bound of the 90 % interval of its paired gain is above 0.
The reported predictions are nested: for each fold the choice and the fit use the other folds only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.members import (
    base_log_probabilities,
    better_label_order,
    matched_order,
    mean_log_probabilities,
    member_logits,
    member_view,
    stack_members,
)
from archbench.metrics.auroc import metric_at_cut
from archbench.metrics.metric import Array, Metric, defined_or_none
from archbench.metrics.scoring import Scores, frozen_questions, score, scored_rows
from archbench.metrics.views import group_columns, is_grouped
from archbench.out_of_fold import OutOfFold, fitting_problem, fitting_source, source_rows
from archbench.stacking import fit_stacker
from archbench.statistics import Estimate, PatientWeights, difference, estimate, patient_weights

ADOPTION_CONFIDENCE = 0.90
UNSCORED_LOGIT = -30.0


@dataclass(frozen=True)
class _Setting:
    """What every choice among candidates shares."""

    members: tuple[str, ...]
    candidates: tuple[str, ...]
    metric: Metric
    questions: Array | None
    drawn: PatientWeights
    confidence: float

    def scores(self, predictions: Predictions) -> Scores:
        return score(predictions, self.metric, self.drawn.patients, self.drawn.weights, self.questions)

    def gain(self, a: Scores, b: Scores) -> Estimate:
        """Estimate of how much better a is than b, positive is better, with the 90 % interval."""
        signed = difference(a, b) if self.metric.greater_is_better else difference(b, a)
        return estimate(signed, confidence=ADOPTION_CONFIDENCE)


@dataclass(frozen=True)
class _Trial:
    """A candidate with its cross-fitted scores, and its gain over what was the choice before it."""

    name: str
    scores: Scores
    gain: Estimate | None
    against: str | None


@dataclass(frozen=True)
class _Choice:
    name: str
    best_base: str
    reason: str
    trials: tuple[_Trial, ...]


def build_ensemble(
    members: Mapping[str, Predictions],
    *,
    candidates: Sequence[str],
    primary: str,
    resamples: int,
    confidence: float,
    seed: int,
    clinical_cut: int = 2,
) -> tuple[Predictions, dict[str, Any]]:
    """Build the ensemble of aligned prediction tables.

    Args:
        members: Prediction table of each model, validation and test rows.
        candidates: From "mean" and "logistic"; the best base model is always one.
        primary: Metric that decides.
    Returns:
        The ensemble's prediction table (log probabilities), and the content of decision.json without provenance.
        Its test rows are nested out-of-fold predictions. With a single split it also holds validation rows,
        cross-fitted over groups of patients. Without a test part it holds the validation rows of the plain mean.
    """
    if not members:
        raise ValueError("an ensemble needs at least one member")
    import scipy.optimize  # noqa: F401  # brings a BLAS of its own, which the limit finds only once it is loaded
    from threadpoolctl import threadpool_limits

    # matrices of this size run 50 times slower on two contended BLAS threads than on one
    with threadpool_limits(limits=1, user_api="blas"):
        return _build(
            stack_members(members),
            members=tuple(members),
            classes=next(iter(members.values())).classes,
            candidates=tuple(candidates),
            metric=metric_at_cut(primary, clinical_cut),
            resamples=resamples,
            confidence=confidence,
            seed=seed,
        )


def _build(
    stacked: Predictions,
    *,
    members: tuple[str, ...],
    classes: tuple[str, ...],
    candidates: tuple[str, ...],
    metric: Metric,
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[Predictions, dict[str, Any]]:
    scored = scored_rows(stacked)
    problem = fitting_problem(stacked)
    source = None if problem is not None else fitting_source(stacked)
    basis = scored if source is None else source.rows
    plain = _as_predictions(basis, np.zeros((len(basis), len(classes))), classes)
    setting = _Setting(
        members=members,
        candidates=candidates,
        metric=metric,
        questions=frozen_questions(plain, metric) if metric.kind == "rank" or is_grouped(plain) else None,
        drawn=patient_weights(basis.patient_id, strata=basis.fold, resamples=resamples, seed=seed),
        confidence=confidence,
    )
    if source is None:
        predictions, choice = _unfitted(stacked, classes, setting, str(problem))
        per_fold = [(fold, choice) for fold in np.unique(predictions.fold).tolist()]
    else:
        choice = _choose(source, classes, setting)
        predictions, per_fold = _nested(stacked, source, choice, classes, setting)
    diagnostics = _diagnostics(basis, choice, classes, setting)
    return predictions.sorted(), _decision(choice, per_fold, diagnostics, setting)


def _as_predictions(rows: Predictions, log_probabilities: Array, classes: tuple[str, ...]) -> Predictions:
    return replace(rows, logits=log_probabilities.astype(np.float32), classes=classes)


def _logistic_log_probabilities(source: OutOfFold, applied: Predictions, n_members: int) -> Array:
    """Fit per training seed on the source, apply to rows of other patients."""
    result = np.empty((len(applied), applied.logits.shape[1] // n_members))
    for seed in np.unique(applied.seed):
        of_seed = applied.seed == seed
        rows = applied.select(of_seed)
        stacker = fit_stacker(source, applied=rows, n_members=n_members, seed=int(seed))
        result[of_seed] = stacker.log_probabilities(member_logits(rows, n_members))
    return result


def _applied(name: str, source: OutOfFold, applied: Predictions, setting: _Setting) -> Array:
    """Log probabilities (N, K) of a candidate for rows of patients that the source doesn't hold."""
    source_rows(source, applied=applied)
    n_members = len(setting.members)
    if is_grouped(applied):
        return _by_label(
            applied, n_members, lambda group, rows: _applied(name, _of_label(source, group, n_members), rows, setting)
        )
    if name == "logistic":
        return _logistic_log_probabilities(source, applied, n_members)
    if name == "mean":
        return mean_log_probabilities(applied, n_members)
    return base_log_probabilities(applied, setting.members.index(name), n_members)


def _by_label(stacked: Predictions, n_members: int, combine: Callable[[int, Predictions], Array]) -> Array:
    """Logits (N, K) of a table of several labels or zones, each label combined alone.

    The log odds of "present" are a label's logit. The class of ungradable zones, which is never scored, gets a
    probability of nearly nothing.
    """
    width = stacked.logits.shape[1] // n_members
    result = np.full((len(stacked), width), UNSCORED_LOGIT)
    for group in range(len(stacked.labels)):
        log_probabilities = combine(group, member_view(stacked, group, n_members))
        columns = group_columns(stacked, group)
        if stacked.outputs == "labels":
            result[:, columns[0]] = log_probabilities[:, 1] - log_probabilities[:, 0]
        else:
            result[:, columns] = log_probabilities
    return result


def _of_label(source: OutOfFold, group: int, n_members: int) -> OutOfFold:
    """The source's rows of one label or zone with a scored target."""
    rows = member_view(source.rows, group, n_members)
    known = ~np.isnan(rows.targets[:, 0])
    return OutOfFold(rows=rows.select(known), group=source.group[known], crossed=source.crossed)


def _member(rows: Predictions, k: int, n_members: int) -> Array:
    """Log probabilities, logits or values (N, K) of one member alone."""
    if is_grouped(rows):
        return member_logits(rows, n_members)[:, k].astype(np.float64)
    return base_log_probabilities(rows, k, n_members)


def _mean(rows: Predictions, n_members: int) -> Array:
    """The members' mean probability as log probabilities or logits (N, K), or their mean value."""
    if is_grouped(rows):
        return _by_label(rows, n_members, lambda _, table: mean_log_probabilities(table, n_members))
    return mean_log_probabilities(rows, n_members)


def _cross_fitted(name: str, source: OutOfFold, classes: tuple[str, ...], setting: _Setting) -> Predictions:
    """Predictions of a candidate for all source rows, each group by a fit on the others."""
    result = np.empty((len(source.rows), len(classes)))
    for group in source.groups:
        result[source.group == group] = _applied(name, source.without(group), source.of(group), setting)
    return _as_predictions(source.rows, result, classes)


def _choose(source: OutOfFold, classes: tuple[str, ...], setting: _Setting) -> _Choice:
    """Choose among the candidates with these rows only, from simple to complex."""
    n_members = len(setting.members)
    bases = {
        name: setting.scores(_as_predictions(source.rows, _member(source.rows, k, n_members), classes))
        for k, name in enumerate(setting.members)
    }
    usable = setting.candidates if n_members > 1 and len(source.groups) > 1 else ()
    if source.rows.outputs == "value":
        usable = tuple(name for name in usable if name != "logistic")  # a number has no odds
    fitted = [(name, setting.scores(_cross_fitted(name, source, classes, setting))) for name in usable]
    return _adopt(bases, fitted, setting)


def _adopt(bases: Mapping[str, Scores], complex_ones: list[tuple[str, Scores]], setting: _Setting) -> _Choice:
    sign = 1.0 if setting.metric.greater_is_better else -1.0
    best_base = max(bases, key=lambda name: -np.inf if np.isnan(bases[name].point) else sign * bases[name].point)
    trials = [_Trial(name=best_base, scores=bases[best_base], gain=None, against=None)]
    current, sentences = trials[0], []
    for name, scores in complex_ones:
        gain = setting.gain(scores, current.scores)
        trials.append(_Trial(name=name, scores=scores, gain=gain, against=_shown(current.name, best_base)))
        adopted = bool(gain.low > 0)
        sentences.append(_sentence(name, _shown(current.name, best_base), gain, adopted, setting.metric.name))
        current = trials[-1] if adopted else current
    if not sentences:
        sentences.append(f"{best_base} is the only candidate, so there is nothing to combine.")
    return _Choice(name=current.name, best_base=best_base, reason=" ".join(sentences), trials=tuple(trials))


def _shown(name: str, best_base: str) -> str:
    return f"best base ({name})" if name == best_base else name


def _sentence(name: str, against: str, gain: Estimate, adopted: bool, metric: str) -> str:
    if np.isnan(gain.low):
        return f"{name} was not adopted over {against}: its gain in {metric} has no interval on these patients."
    figures = f"gain in {metric} {gain.value:+.3f}, 90 % interval {gain.low:+.3f} to {gain.high:+.3f}"
    if adopted:
        return f"{name} was adopted over {against}: {figures}, all above 0."
    return f"{name} was not adopted over {against}: {figures}, not all above 0, so the simpler one stays."


def _nested(
    stacked: Predictions, source: OutOfFold, choice: _Choice, classes: tuple[str, ...], setting: _Setting
) -> tuple[Predictions, list[tuple[int, _Choice]]]:
    """Ensemble predictions in which choice and fit of every row used other patients only."""
    test = stacked.test
    result = np.empty((len(test), len(classes)))
    per_fold = []
    for fold in np.unique(test.fold).tolist():
        others = source.without(fold) if source.crossed else source
        fold_choice = _choose(others, classes, setting) if source.crossed else choice
        of_fold = test.fold == fold
        result[of_fold] = _applied(fold_choice.name, others, test.select(of_fold), setting)
        per_fold.append((fold, fold_choice))
    predictions = _as_predictions(test, result, classes)
    if not source.crossed:
        predictions = _concatenate(_cross_fitted(choice.name, source, classes, setting), predictions)
    return predictions, per_fold


def _concatenate(first: Predictions, second: Predictions) -> Predictions:
    def joined(field: str) -> Array:
        return np.concatenate([getattr(first, field), getattr(second, field)])

    return replace(
        second,
        case_id=joined("case_id"),
        patient_id=joined("patient_id"),
        split=joined("split"),
        fold=joined("fold"),
        seed=joined("seed"),
        logits=joined("logits"),
        targets=joined("targets"),
    )


def _unfitted(
    stacked: Predictions, classes: tuple[str, ...], setting: _Setting, problem: str
) -> tuple[Predictions, _Choice]:
    """The plain mean where there are no rows of other patients to choose or fit on."""
    rows = stacked.test if len(stacked.test) else stacked.val
    n_members = len(setting.members)
    predictions = _as_predictions(rows, _mean(rows, n_members), classes)
    bases = {
        name: setting.scores(_as_predictions(rows, _member(rows, k, n_members), classes).known())
        for k, name in enumerate(setting.members)
    }
    found = _adopt(bases, [("mean", setting.scores(predictions.known()))] if n_members > 1 else [], setting)
    name = "mean" if n_members > 1 else found.best_base
    reason = f"Nothing could be fitted or chosen: {problem}. The plain {name} was taken without a choice."
    return predictions, replace(found, name=name, reason=reason)


def _decision(
    choice: _Choice, per_fold: list[tuple[int, _Choice]], diagnostics: list[str], setting: _Setting
) -> dict[str, Any]:
    return {
        "primary": setting.metric.name,
        "candidates": [_candidate_record(trial, choice.best_base, setting) for trial in choice.trials],
        "choice": _shown(choice.name, choice.best_base),
        "reason": choice.reason,
        "members": list(setting.members),
        "per_fold_choice": [
            {"fold": fold, "choice": _shown(found.name, found.best_base), "reason": found.reason}
            for fold, found in per_fold
        ],
        "diagnostics": diagnostics,
        "best_base": choice.best_base,
    }


def _candidate_record(trial: _Trial, best_base: str, setting: _Setting) -> dict[str, Any]:
    found = estimate(trial.scores, confidence=setting.confidence, bounds=setting.metric.bounds)
    gain = trial.gain
    return {
        "name": _shown(trial.name, best_base),
        "value": defined_or_none(found.value),
        "low": defined_or_none(found.low),
        "high": defined_or_none(found.high),
        "gain": None
        if gain is None
        else {
            "value": defined_or_none(gain.value),
            "low90": defined_or_none(gain.low),
            "high90": defined_or_none(gain.high),
        },
        "against": trial.against,
    }


def _diagnostics(basis: Predictions, choice: _Choice, classes: tuple[str, ...], setting: _Setting) -> list[str]:
    """Signs that members were not put together rightly."""
    n_members = len(setting.members)
    found = []
    mean = _as_predictions(basis, _mean(basis, n_members), classes)
    if n_members > 1:
        gain = setting.gain(setting.scores(mean), choice.trials[0].scores)
        if gain.value < 0:
            certain = "clearly" if gain.high < 0 else "within its uncertainty"
            found.append(
                f"the uniform mean is {certain} below the best base model ({gain.value:+.3f} {setting.metric.name}): "
                "suspect label order, row order or scale of a member, or a member much weaker than the others"
            )
    logits = member_logits(basis, n_members)
    for k, name in enumerate(setting.members):
        order = _better_order(logits[:, k], basis)
        if order is not None:
            shown = ", ".join(f"{classes[j]} -> {classes[i]}" for j, i in enumerate(order) if i != j)
            found.append(f"{name} fits the truth much better with its classes reordered ({shown}): suspect label order")
    return found


def _better_order(logits: Array, basis: Predictions) -> list[int] | None:
    """The order that a member's columns seem to have; looked for where columns are classes or labels."""
    if basis.outputs == "classes":
        return better_label_order(softmax(logits), basis.y_true)
    if basis.outputs != "labels" or logits.shape[1] < 2:
        return None
    known = np.isin(basis.targets, (0.0, 1.0)).all(axis=1)
    return matched_order(logits[known], basis.targets[known]) if known.any() else None

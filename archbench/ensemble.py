"""The ensemble of all models of a dataset, and whether it earns its place.

Candidates, simple to complex: the best base model, the mean of probabilities, then what is fitted
(`archbench.ensemble_candidates`). A more complex one replaces the choice only if the lower bound of the 90 % interval
of its paired gain is above 0; a single label goes back to the best base model where the choice is surely worse.
The reported predictions are nested: for each fold the choice and the fit use the other folds only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from archbench.adoption import gain_over
from archbench.artifacts import Predictions
from archbench.combining import one_blas_thread
from archbench.ensemble_candidates import COMPLEXITY, Stack, plain_mean
from archbench.ensemble_choice import (
    Choice,
    Measured,
    Setting,
    adoption_of,
    apply_choice,
    base_table,
    best_member,
    choose,
)
from archbench.ensemble_diagnostics import mean_problem, member_problems
from archbench.ensemble_record import decision_record
from archbench.members import stack_members
from archbench.metrics.auroc import metric_at_cut
from archbench.metrics.metric import Array
from archbench.metrics.scoring import frozen_questions, scored_rows
from archbench.metrics.views import is_grouped
from archbench.neural_stacking import NetworkSettings
from archbench.out_of_fold import OutOfFold, cross_fitted, fitting_problem, fitting_source
from archbench.statistics import patient_weights


def build_ensemble(
    members: Mapping[str, Predictions],
    *,
    candidates: Sequence[str],
    primary: str,
    resamples: int,
    confidence: float,
    seed: int,
    clinical_cut: int = 2,
    network: NetworkSettings | None = None,
) -> tuple[Predictions, dict[str, Any]]:
    """Build the ensemble of aligned prediction tables.

    Args:
        members: Prediction table of each model, validation and test rows.
        candidates: From `COMPLEXITY`, in any order; the best base model is always one.
        primary: Metric that decides.
        network: How the candidate `mlp` is trained; None takes the defaults.
    Returns:
        The ensemble's prediction table (log probabilities), and the content of decision.json without provenance.
        Its test rows are nested out-of-fold predictions. With a single split it also holds validation rows,
        cross-fitted over groups of patients. Without a test part it holds the validation rows of the plain mean.
    Raises:
        ValueError: If there is no member, or a candidate is unknown.
    """
    if not members:
        raise ValueError("an ensemble needs at least one member")
    unknown = [name for name in candidates if name not in COMPLEXITY]
    if unknown:
        raise ValueError(f"unknown candidates {unknown} (known: {', '.join(COMPLEXITY)})")
    import scipy.optimize  # noqa: F401  # brings a BLAS of its own, which the limit finds only once it is loaded

    stacked = stack_members(members)
    with one_blas_thread():
        basis, source, problem = _basis(stacked)
        classes = next(iter(members.values())).classes
        metric = metric_at_cut(primary, clinical_cut)
        plain = replace(basis, logits=np.zeros((len(basis), len(classes)), np.float32), classes=classes)
        setting = Setting(
            stack=Stack(tuple(members), network or NetworkSettings()),
            candidates=tuple(name for name in COMPLEXITY if name in candidates),
            classes=classes,
            metric=metric,
            questions=frozen_questions(plain, metric) if metric.kind == "rank" or is_grouped(plain) else None,
            drawn=patient_weights(basis.patient_id, strata=basis.fold, resamples=resamples, seed=seed),
            confidence=confidence,
        )
        return _build(stacked, basis, source, str(problem), setting)


def _basis(stacked: Predictions) -> tuple[Predictions, OutOfFold | None, str | None]:
    """Rows to choose on, tagged as out of fold, or the reason why there are none to fit on."""
    scored = scored_rows(stacked)
    problem = fitting_problem(stacked)
    if problem is not None:
        return scored, None, problem
    source = fitting_source(stacked)
    return source.rows, source, None


def _build(
    stacked: Predictions, basis: Predictions, source: OutOfFold | None, problem: str, setting: Setting
) -> tuple[Predictions, dict[str, Any]]:
    if source is None:
        predictions, choice, measured = _unfitted(stacked, setting, problem)
        per_fold = [(fold, choice) for fold in np.unique(predictions.fold).tolist()]
        delivered = predictions.known()
    else:
        choice, measured = choose(source, setting)
        predictions, per_fold = _nested(stacked, source, choice, setting)
        delivered = (predictions.test if source.crossed else predictions.val).known()
    record = decision_record(
        choice,
        per_fold,
        basis=basis,
        measured=measured,
        delivered=setting.measured(delivered),
        diagnostics=_diagnostics(basis, choice, measured, setting),
        setting=setting,
    )
    return predictions.sorted(), record


def _nested(
    stacked: Predictions, source: OutOfFold, choice: Choice, setting: Setting
) -> tuple[Predictions, list[tuple[int, Choice]]]:
    """Ensemble predictions in which choice and fit of every row used other patients only."""
    test = stacked.test
    result = np.empty((len(test), len(setting.classes)))
    per_fold = []
    for fold in np.unique(test.fold).tolist():
        others = source.without(fold) if source.crossed and fold in source.groups else source
        fold_choice = choose(others, setting.nested())[0] if source.crossed else choice
        of_fold = test.fold == fold
        result[of_fold] = apply_choice(fold_choice, others, test.select(of_fold), setting)
        per_fold.append((fold, fold_choice))
    predictions = setting.table(test, result)
    if not source.crossed:
        validation = base_table(source.rows, choice.best_base, setting)  # with one patient there is nothing to fit on
        if len(source.groups) > 1:
            fitted = cross_fitted(source, lambda fit, to: apply_choice(choice, fit, to, setting))
            validation = setting.table(source.rows, fitted)
        predictions = _concatenate(validation, predictions)
    return predictions, per_fold


def _concatenate(first: Predictions, second: Predictions) -> Predictions:
    def joined(field: str) -> Array:
        return np.concatenate([getattr(first, field), getattr(second, field)])

    fields = ("case_id", "patient_id", "split", "fold", "seed", "logits", "targets")
    columns: dict[str, Any] = {field: joined(field) for field in fields}
    return replace(second, **columns)


def _unfitted(stacked: Predictions, setting: Setting, problem: str) -> tuple[Predictions, Choice, dict[str, Measured]]:
    """The plain mean where there are no rows of other patients to choose or fit on."""
    rows = stacked.test if len(stacked.test) else stacked.val
    size = setting.stack.size
    predictions = setting.table(rows, plain_mean(rows, size))
    known = rows.known()
    best_base = best_member(known, setting)
    measured = {best_base: setting.measured(base_table(known, best_base, setting))}
    measured |= {"mean": setting.measured(predictions.known())} if size > 1 else {}
    found = adoption_of(best_base, measured, setting)
    name = "mean" if size > 1 else best_base
    reason = f"Nothing could be fitted or chosen: {problem}. The plain {name} was taken without a choice."
    skipped = {candidate: problem for candidate in setting.candidates if candidate != name}
    return predictions, Choice(name, best_base, found, reason, skipped=skipped), measured


def _diagnostics(basis: Predictions, choice: Choice, measured: Mapping[str, Measured], setting: Setting) -> list[str]:
    """Signs that members were not put together rightly."""
    stack = setting.stack
    values = np.array([setting.point(base_table(basis, name, setting)) for name in stack.members])
    found = member_problems(
        basis, members=stack.members, classes=setting.classes, values=values, metric=setting.metric.name
    )
    if stack.size < 2:
        return found
    mean = measured.get("mean") or setting.measured(setting.table(basis, plain_mean(basis, stack.size)))
    base = measured[choice.best_base].scores
    gain = gain_over(mean.scores, base, greater_is_better=setting.metric.greater_is_better)
    below = mean_problem(gain, setting.metric.name, found)
    return [*([below] if below else []), *found]

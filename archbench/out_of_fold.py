"""Rows that something may be fitted on: predictions of cases by models that never trained on their patients.

What is fitted for a case never saw that case's patient. Functions that fit take an `OutOfFold`, not a
prediction table, and ask it for the rows of *other* patients; in-sample rows can't get in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from archbench.artifacts import Predictions
from archbench.metrics.scoring import check_single_predictions, code_names, split_units

if TYPE_CHECKING:
    import pyarrow as pa

PATIENT_GROUPS = 5


class LeakError(ValueError):
    """Something would be fitted on rows of the patients it is applied to, or on training rows."""


def check_disjoint(fit: Predictions, applied: Predictions) -> None:
    """Refuse rows to fit on that share a patient with the rows to apply to.

    Raises:
        LeakError: With the shared patients.
    """
    shared = sorted(_patients(fit) & _patients(applied))
    if shared:
        raise LeakError(
            f"{len(shared)} patients are among the rows to fit on and the rows to apply to: {shared[:3]}; "
            "fit on the out-of-fold rows of other patients"
        )


def _patients(table: Predictions) -> set[str]:
    """Names of a table's patients, each looked at once."""
    row_of = np.full(table.patient_code.max(initial=-1) + 1, -1)
    row_of[table.patient_code] = np.arange(len(table))
    return set(table.patient_id[row_of[row_of >= 0]].tolist())


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold rows, and the groups of patients that keep fitting and applying apart.

    Make one with `out_of_fold` (cross-validation) or `from_validation` (one split).

    Attributes:
        rows: Predictions with a known target, each case once per seed; with several labels some may be unknown (NaN).
        group: Group of each row, shape (N,): its fold, or a group of patients within one validation part.
        crossed: Rows and cases to apply to are the same table, group against groups (cross-validation);
            otherwise what is fitted on the rows is applied to another part.
    """

    rows: Predictions
    group: np.ndarray
    crossed: bool

    def __post_init__(self) -> None:
        if not isinstance(self.rows, Predictions):
            raise TypeError(f"out-of-fold rows are Predictions, got {type(self.rows).__name__}")
        if (self.rows.split == "train").any():
            raise LeakError("training rows are in-sample: nothing may be fitted on them")
        if np.isnan(self.rows.targets).all(axis=1).any():
            raise ValueError("out-of-fold rows need known targets")
        if len(self.group) != len(self.rows):
            raise ValueError(f"{len(self.group)} groups for {len(self.rows)} rows")
        check_single_predictions(self.rows)
        torn = split_units(self.rows.patient_id, self.group, self.rows.patient_code)
        if torn:
            raise LeakError(f"patients in more than one group: {torn[:3]}")

    @property
    def described(self) -> str:
        """What the rows are, for reports."""
        return "out-of-fold test rows" if self.crossed else "validation rows"

    @property
    def groups(self) -> list[int]:
        """The groups, ascending."""
        return [int(group) for group in np.unique(self.group)]

    def of(self, group: int) -> Predictions:
        """The rows of one group: what a fit on the other groups may be applied to."""
        return self.rows.select(self.group == group)

    def fit_rows_for(self, group: int) -> Predictions:
        """The rows of all other groups.

        Raises:
            LeakError: If a patient of the group is among them.
            ValueError: If the group is unknown or there is no other one.
        """
        if group not in self.groups:
            raise ValueError(f"no group {group} among the out-of-fold rows (groups: {self.groups})")
        fit = self.rows.select(self.group != group)
        if len(fit) == 0:
            raise ValueError(f"group {group} is the only one: there are no rows of other patients to fit on")
        check_disjoint(fit, self.of(group))
        return fit

    def without(self, group: int) -> OutOfFold:
        """The other groups, to choose and fit for this one; regrouped by patient where fewer than two remain."""
        rows, groups = self.fit_rows_for(group), self.group[self.group != group]
        if len(np.unique(groups)) < 2:
            groups = patient_groups(rows)
        return OutOfFold(rows=rows, group=groups, crossed=self.crossed)

    def rescored(self, logits: np.ndarray) -> OutOfFold:
        """The same rows with other logits (calibrated ones), shape (N, K)."""
        return replace(self, rows=self.rows.having(logits=logits.astype(np.float32)))

    def of_seed(self, seed: int) -> OutOfFold:
        """The rows of one training seed."""
        inside = self.rows.seed == seed
        return OutOfFold(rows=self.rows.select(inside), group=self.group[inside], crossed=self.crossed)


def trained_patients(folds: pa.Table) -> dict[int, set[str]]:
    """Return the patients of the training part of each fold of a fold table."""
    rows = zip(*(folds[name].to_pylist() for name in ("fold", "split", "patient_id")), strict=True)
    found: dict[int, set[str]] = {}
    for fold, split, patient in rows:
        found.setdefault(int(fold), set()).update([str(patient)] if split == "train" else [])
    return found


def check_not_trained(predictions: Predictions, trained: Mapping[int, Collection[str]]) -> None:
    """Refuse rows whose patient was trained on in their own fold, whatever the table calls them.

    Args:
        predictions: Rows that are about to be tagged.
        trained: Patients of the training part of each fold, from the fold table.
    Raises:
        LeakError: With the fold and the patients.
        ValueError: If the training patients of a fold are not given.
    """
    for fold in np.unique(predictions.fold).tolist():
        if fold not in trained:
            raise ValueError(f"the training patients of fold {fold} are not known, so its rows can't be checked")
        seen = sorted(set(predictions.patient_id[predictions.fold == fold].tolist()) & set(trained[fold]))
        if seen:
            raise LeakError(
                f"fold {fold} predicts {len(seen)} patients that it was trained on: {seen[:3]}; "
                "in-sample predictions may be neither fitted on nor scored"
            )


def answered(predictions: Predictions) -> Predictions:
    """Return the rows with at least one known target."""
    return predictions.select(~np.isnan(predictions.targets).all(axis=1))


def out_of_fold(predictions: Predictions) -> OutOfFold:
    """Tag the test rows of a cross-validation: each was predicted by the model that left its fold out.

    Raises:
        LeakError: If there are training rows, or a patient in two folds.
        ValueError: If there are fewer than two folds, or a case has two predictions of a seed.
    """
    _refuse_train(predictions)
    code_names(predictions)
    rows = answered(predictions.test)
    folds = np.unique(rows.fold)
    if len(folds) < 2:
        raise ValueError(f"out-of-fold rows need at least two test folds, found {folds.tolist()}; use from_validation")
    return OutOfFold(rows=rows, group=rows.fold, crossed=True)


def from_validation(predictions: Predictions) -> OutOfFold:
    """Tag the validation rows of a single split, to fit what is applied to its test rows.

    Patients are dealt to groups, so that choices among candidates can be cross-fitted within the part.

    Raises:
        LeakError: If a patient is in both parts.
        ValueError: If there are no validation rows with known targets.
    """
    _refuse_train(predictions)
    rows = answered(predictions.val)
    if len(rows) == 0:
        raise ValueError("there are no validation rows with known targets to fit on")
    check_disjoint(rows, predictions.test)
    return OutOfFold(rows=rows, group=patient_groups(rows), crossed=False)


def fitting_problem(predictions: Predictions) -> str | None:
    """Say why nothing can be fitted out of fold, or None where it can."""
    test = answered(predictions.test)
    if len(test) == 0:
        return "the protocol has no test part, so nothing can be fitted on rows of other patients"
    if len(np.unique(test.fold)) < 2 and len(answered(predictions.val)) == 0:
        return "a single test fold and no validation rows: there are no rows of other patients to fit on"
    return None


def fitting_source(predictions: Predictions) -> OutOfFold:
    """Tag what may be fitted on: test rows of other folds, or the validation rows of a single split."""
    problem = fitting_problem(predictions)
    if problem is not None:
        raise ValueError(problem)
    crossed = len(np.unique(answered(predictions.test).fold)) > 1
    return out_of_fold(predictions) if crossed else from_validation(predictions)


def source_rows(source: OutOfFold, *, applied: Predictions) -> Predictions:
    """Return the rows to fit on: the gate that every fitting function goes through.

    Raises:
        TypeError: If `source` is not an OutOfFold, so that in-sample tables can't get in.
        LeakError: If a patient of `applied` is among its rows.
    """
    if not isinstance(source, OutOfFold):
        raise TypeError(f"what is fitted takes OutOfFold rows, got {type(source).__name__}")
    check_disjoint(source.rows, applied)
    return source.rows


def cross_fitted(source: OutOfFold, predict: Callable[[OutOfFold, Predictions], np.ndarray]) -> np.ndarray:
    """Return what `predict` says of every source row, each group of patients from a fit on the others.

    Args:
        source: Tagged rows.
        predict: Fits on its first argument and returns one row of scores for each row of its second.
    Returns:
        Shape (N, ...), in the order of `source.rows`.
    """
    result: np.ndarray | None = None
    for group in source.groups:
        inside = source.group == group
        part = predict(source.without(group), source.of(group))
        if result is None:
            result = np.empty((len(source.rows), *part.shape[1:]))
        result[inside] = part
    if result is None:
        raise ValueError("there are no out-of-fold rows")
    return result


def patient_groups(predictions: Predictions) -> np.ndarray:
    """Deal patients to at most 5 groups, balanced by their worst class; depends on names and targets only.

    With several labels, a patient's worst image is the one with the most positive labels.

    Returns:
        Group of each row, shape (N,).
    """
    patients, inverse = np.unique(predictions.patient_id, return_inverse=True)
    worst = np.full(len(patients), -1.0)
    np.maximum.at(worst, inverse, np.nansum(predictions.targets, axis=1))
    dealt = np.lexsort((patients, worst))
    group_of = np.empty(len(patients), dtype=np.int64)
    group_of[dealt] = np.arange(len(patients)) % min(PATIENT_GROUPS, len(patients))
    return group_of[inverse]


def _refuse_train(predictions: Predictions) -> None:
    if (predictions.split == "train").any():
        raise LeakError("training rows are in-sample: nothing may be fitted on them")

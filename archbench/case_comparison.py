"""Two studies case by case: which cases a new recipe gets right that the old one got wrong, and the other way round."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from archbench.artifacts import Predictions, decide, softmax
from archbench.metrics.metric import Array
from archbench.metrics.scoring import scored_rows
from archbench.metrics.views import is_grouped, views


@dataclass(frozen=True)
class CaseChange:
    """One case, or label or zone of a case, whose decision changed, seeds taken together.

    Attributes:
        case: Its name.
        patient: Its patient.
        label: The label or zone; empty with one target.
        truth: True class.
        before: What the first study called it.
        after: What the second study calls it.
        certainty_before: Mean probability of the true class over seeds, first study.
        certainty_after: The same of the second study.
        outcome: fixed, broken, or other mistake.
    """

    case: str
    patient: str
    label: str
    truth: str
    before: str
    after: str
    certainty_before: float
    certainty_after: float
    outcome: str


def pair_tables(before: Predictions, after: Predictions) -> tuple[Predictions, Predictions, list[str]]:
    """Return the scored rows that both studies share, and in words what was left out.

    Cases are paired by name. Seeds that both have are kept; with none in common the first study's numbers stand for
    the second's in order, since a seed's number means nothing across recipes. Folds may differ; the first study's
    folds are used for both, so that rank metrics are computed on the same groups.

    Raises:
        ValueError: If classes, targets or patients differ, or no case is in both.
    """
    first, second = scored_rows(before), scored_rows(after)
    if first.classes != second.classes:
        raise ValueError(f"the classes differ: {list(first.classes)} and {list(second.classes)}")
    first, second, notes = _shared_seeds(first, second)
    shared = np.intersect1d(first.case_id, second.case_id)
    if len(shared) == 0:
        raise ValueError("no case is in both studies: they were made on different data, or cases were renamed")
    for name, rows in (("first", first), ("second", second)):
        lost = len(np.setdiff1d(rows.case_id, shared))
        if lost:
            notes.append(f"{lost} cases only in the {name} study were left out")
    first, second = (_ordered(rows.select(np.isin(rows.case_id, shared))) for rows in (first, second))
    if len(first) != len(second) or not np.array_equal(first.case_id, second.case_id):
        raise ValueError("some shared cases lack a prediction of some seed; finish both studies first")
    for field, words in (("patient_id", "patient"), ("targets", "target")):
        ours, theirs = getattr(first, field), getattr(second, field)
        differs = ours != theirs
        if field == "targets":  # unknown in both is no difference
            differs &= ~(np.isnan(ours) & np.isnan(theirs))
        differs = np.asarray(differs).reshape(len(first), -1).any(axis=1)
        if differs.any():
            names = np.unique(first.case_id[differs])[:3].tolist()
            raise ValueError(f"{int(differs.sum())} cases have another {words} in the second study, e.g. {names}")
    if not np.array_equal(first.fold, second.fold):
        notes.append("the folds differ: rank metrics of the second study are computed in the folds of the first")
        second = replace(second, fold=first.fold)
    return first, second, notes


def _shared_seeds(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions, list[str]]:
    ours, theirs = np.unique(first.seed), np.unique(second.seed)
    shared = np.intersect1d(ours, theirs)
    if len(shared):
        notes = [] if len(shared) == len(ours) == len(theirs) else [f"seeds in both: {shared.tolist()}"]
        return first.select(np.isin(first.seed, shared)), second.select(np.isin(second.seed, shared)), notes
    n = min(len(ours), len(theirs))
    notes = [f"no seed in common: seeds {ours[:n].tolist()} are paired with {theirs[:n].tolist()} in order"]
    first, second = first.select(np.isin(first.seed, ours[:n])), second.select(np.isin(second.seed, theirs[:n]))
    return first, replace(second, seed=ours[np.searchsorted(theirs, second.seed)]), notes


def _ordered(rows: Predictions) -> Predictions:
    return rows.select(np.lexsort((rows.case_id, rows.seed)))


def case_changes(first: Predictions, second: Predictions) -> tuple[list[CaseChange], dict[str, int]]:
    """Return the cases whose decision changed, the largest change of certainty first, and the counts of all outcomes.

    Seeds are taken together by their mean probability. Of several labels or zones each known one counts; a label is
    called from a probability of .5.

    Args:
        first: Paired rows of a task whose cases are called something, from `pair_tables`.
        second: The same cases of the second study.
    Raises:
        ValueError: If the tables hold numbers, of which none is right or wrong.
    """
    if first.outputs == "value":
        raise ValueError("numbers are neither right nor wrong: only their differences can be compared")
    grouped = is_grouped(first)
    changes: list[CaseChange] = []
    counts: Counter[str] = Counter()
    for before, after in zip(views(first), views(second), strict=True):
        changed, outcomes = _changes(before, after, before.labels[0] if grouped else "")
        changes += changed
        counts.update(outcomes)
    changes.sort(key=lambda change: -abs(change.certainty_after - change.certainty_before))
    return changes, dict(counts)


def _changes(first: Predictions, second: Predictions, label: str) -> tuple[list[CaseChange], dict[str, int]]:
    """The same of one target."""
    classes, rule = first.classes, first.metadata.get("decision", "argmax")
    before, after = _mean_probabilities(first), _mean_probabilities(second)
    names, index = np.unique(first.case_id, return_index=True)
    truth, patients = first.y_true[index], first.patient_id[index]
    called = [decide(table, rule) for table in (before, after)]
    right = [decision == truth for decision in called]
    counts = {
        "both right": int((right[0] & right[1]).sum()),
        "fixed": int((~right[0] & right[1]).sum()),
        "broken": int((right[0] & ~right[1]).sum()),
        "both wrong": int((~right[0] & ~right[1]).sum()),
    }
    sure = [table[np.arange(len(names)), truth] for table in (before, after)]
    changed = np.flatnonzero(called[0] != called[1])
    outcome = np.where(right[1], "fixed", np.where(right[0], "broken", "other mistake"))
    return [
        CaseChange(
            str(names[k]),
            str(patients[k]),
            label,
            classes[truth[k]],
            classes[called[0][k]],
            classes[called[1][k]],
            float(sure[0][k]),
            float(sure[1][k]),
            str(outcome[k]),
        )
        for k in changed
    ], counts


def _mean_probabilities(rows: Predictions) -> Array:
    """Mean over seeds, one row per case in the order of their names, (C, K)."""
    names, index = np.unique(rows.case_id, return_inverse=True)
    total = np.zeros((len(names), len(rows.classes)))
    np.add.at(total, index, softmax(rows.logits))
    return total / np.bincount(index)[:, None]


def as_rows(changes: list[CaseChange]) -> list[dict[str, Any]]:
    """Return the changes as plain rows for a file."""
    return [vars(change) for change in changes]

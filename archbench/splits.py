"""Patient-grouped, label-stratified, seeded splits, for the three protocols of design.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PARTS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
REFINEMENT_PASSES = 5
SAME_CASES_WARNING = "selected and reported on the same cases"


class SplitError(ValueError):
    """A split that can't be made from these data."""


@dataclass(frozen=True)
class Protocol:
    """How cases are split; the fields are those of the study's `protocol`."""

    kind: str
    folds: int = 5
    validation_fraction: float = 0.15
    test_fraction: float = 0.2
    split_seed: int = 42


@dataclass(frozen=True)
class Splits:
    """Part of each case in each fold: `parts` has shape (folds, N), with indices into PARTS."""

    parts: np.ndarray
    selected_and_reported_on_same_cases: bool = False
    warnings: tuple[str, ...] = ()


def make_splits(
    *,
    case_ids: Sequence[str],
    patient_ids: Sequence[str],
    protocol: Protocol,
    y: np.ndarray | None = None,
    n_classes: int = 0,
    strata: np.ndarray | None = None,
    given_split: Sequence[str] | None = None,
    given_fold: Sequence[int] | None = None,
) -> Splits:
    """The part of each case in each fold; the order of the cases does not matter.

    Args:
        y: Class index of each case, shape (N,), of `n_classes`.
        strata: Instead of `y`, what to spread evenly: counts of each case, shape (N, C).
        given_split: The source's own "train", "val", "test" of each case, if it has them.
        given_fold: The source's own fold of each case, if it has them.
    Raises:
        SplitError: If there are too few patients, or the source's own parts tear a patient apart.
    """
    order = np.argsort(np.asarray(case_ids, dtype=str), kind="stable")
    patients = np.asarray(patient_ids, dtype=str)[order]
    counts = np.eye(n_classes, dtype=np.int64)[np.asarray(y, dtype=np.int64)] if strata is None else strata
    table = _PatientTable.of(patients, counts[order])
    split = None if given_split is None else np.array([PARTS.index(name) for name in given_split])[order]
    fold = None if given_fold is None else np.asarray(given_fold, dtype=np.int64)[order]
    result = _by_protocol(table, protocol, split=split, fold=fold)
    assert_no_patient_crosses(parts=result.parts, patient_ids=patients)
    _check_parts(result)
    unsorted = np.empty_like(result.parts)
    unsorted[:, order] = result.parts
    return Splits(unsorted, result.selected_and_reported_on_same_cases, result.warnings)


def assert_no_patient_crosses(*, parts: np.ndarray, patient_ids: Sequence[str] | np.ndarray) -> None:
    """Raise SplitError if a patient's cases lie in more than one part of a fold; `parts` as in Splits."""
    names, patient = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    for fold, row in enumerate(parts):
        lowest = np.full(len(names), len(PARTS))
        highest = np.full(len(names), -1)
        np.minimum.at(lowest, patient, row)
        np.maximum.at(highest, patient, row)
        torn = np.flatnonzero(lowest != highest)
        if len(torn):
            first = ", ".join(f"{names[p]} ({PARTS[lowest[p]]} and {PARTS[highest[p]]})" for p in torn[:10].tolist())
            raise SplitError(
                f"{len(torn)} patients have images in more than one part of fold {fold}: {first}. Correct "
                "the split or fold column, or let archbench split (protocol.kind: cross_validation)"
            )


def assign_patients(counts: np.ndarray, *, shares: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """A part for each patient, shape (P,), so that every class spreads over the parts like `shares`.

    Patients of rare classes are placed first, which spreads them: each goes where it lowers the chi-square
    distance between the parts' counts (cases per class, patients per class, patients) and their targets the
    most. Then single patients move as long as that lowers it further.

    Args:
        counts: Cases of each patient per class, shape (P, C).
        shares: Target share of each part, summing to 1.
    Source:
        After Sechidis et al. 2011 (iterative stratification), with groups instead of labels as units.
    """
    present = counts > 0
    features = np.hstack([counts, present, np.ones((len(counts), 1))]).astype(np.float64)
    features = features[:, features.sum(axis=0) > 0]
    targets = np.outer(shares, features.sum(axis=0))
    holders = np.where(present, present.sum(axis=0), len(counts) + 1).min(axis=1)
    shuffled = rng.permutation(len(counts))
    order = shuffled[np.lexsort((-counts.sum(axis=1)[shuffled], holders[shuffled]))]
    part = np.full(len(counts), -1)
    filled = np.zeros_like(targets)
    for patient in order.tolist():
        part[patient] = chosen = int(np.argmin(_rise(features[patient], filled, targets)))
        filled[chosen] += features[patient]
    _refine(part, features=features, filled=filled, targets=targets, order=order)
    _fill_empty_parts(part, features=features, filled=filled, targets=targets)
    return part


def _rise(row: np.ndarray, filled: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How much the chi-square distance rises if `row` joins each part, shape (parts,)."""
    rise: np.ndarray = ((2 * (filled - targets) + row) * row / targets).sum(axis=1)
    return rise


def _refine(
    part: np.ndarray, *, features: np.ndarray, filled: np.ndarray, targets: np.ndarray, order: np.ndarray
) -> None:
    for _ in range(REFINEMENT_PASSES):
        moved = False
        for patient in order.tolist():
            row, home = features[patient], part[patient]
            filled[home] -= row
            rise = _rise(row, filled, targets)
            best = int(np.argmin(rise))
            if rise[best] < rise[home] - 1e-9:
                part[patient], moved = best, True
            filled[part[patient]] += row
        if not moved:
            return


def _fill_empty_parts(part: np.ndarray, *, features: np.ndarray, filled: np.ndarray, targets: np.ndarray) -> None:
    """With few patients the best fit may leave a small part empty: give it the patient that harms least."""
    for empty in np.setdiff1d(np.arange(len(targets)), part).tolist():
        donors = np.flatnonzero(np.bincount(part, minlength=len(targets))[part] > 1)
        rises = [_rise(features[p], filled, targets)[empty] for p in donors.tolist()]
        chosen = int(donors[int(np.argmin(rises))])
        filled[part[chosen]] -= features[chosen]
        filled[empty] += features[chosen]
        part[chosen] = empty


@dataclass(frozen=True)
class _PatientTable:
    """Cases grouped by patient: `patient` (N,) indexes `names` (P,); `counts` (P, C) of cases per class."""

    names: np.ndarray
    patient: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, patient_ids: np.ndarray, strata: np.ndarray) -> _PatientTable:
        names, patient = np.unique(patient_ids, return_inverse=True)
        counts = np.zeros((len(names), strata.shape[1]), dtype=np.int64)
        np.add.at(counts, patient, strata)
        return cls(names, patient, counts)

    def divide(self, among: np.ndarray, *, shares: Sequence[float], rng: np.random.Generator) -> np.ndarray:
        """A part for each patient of the mask `among` (P,), -1 for the others."""
        if among.sum() < len(shares):
            raise SplitError(f"{among.sum()} patients can't be divided into {len(shares)} parts")
        part = np.full(len(among), -1)
        part[among] = assign_patients(self.counts[among], shares=shares, rng=rng)
        return part


def _by_protocol(
    table: _PatientTable, protocol: Protocol, *, split: np.ndarray | None, fold: np.ndarray | None
) -> Splits:
    if protocol.kind == "cross_validation":
        return _cross_validation(table, protocol)
    if protocol.kind == "given":
        if (split is None) == (fold is None):
            raise SplitError(
                "protocol.kind 'given' needs the source's split column or its fold column, one of them; "
                f"there is {'neither' if split is None else 'both'}"
            )
        return _given_split(table, protocol, split) if split is not None else _given_folds(table, protocol, fold)
    if split is not None and (split == TEST).any():
        return _given_split(table, protocol, split)
    result = _holdout(table, protocol)
    if split is None:
        return result
    unused = (
        "the source's split column has no test part, so the holdout was drawn from all cases; "
        "protocol.kind 'given' would use the column"
    )
    return Splits(result.parts, warnings=(unused,))


def _cross_validation(table: _PatientTable, protocol: Protocol) -> Splits:
    n_patients = len(table.counts)
    if protocol.folds > n_patients:
        raise SplitError(
            f"protocol.folds is {protocol.folds}, but there are only {n_patients} patients: choose at most {n_patients}"
        )
    rng = np.random.default_rng(protocol.split_seed)
    everyone = np.ones(n_patients, dtype=bool)
    tested_in = table.divide(everyone, shares=[1 / protocol.folds] * protocol.folds, rng=rng)
    parts = [_with_validation(table, tested_in == k, protocol, fold=k) for k in range(protocol.folds)]
    return Splits(np.stack(parts))


def _holdout(table: _PatientTable, protocol: Protocol) -> Splits:
    rng = np.random.default_rng(protocol.split_seed)
    everyone = np.ones(len(table.counts), dtype=bool)
    chosen = table.divide(everyone, shares=[protocol.test_fraction, 1 - protocol.test_fraction], rng=rng)
    return Splits(_with_validation(table, chosen == 0, protocol, fold=0)[None])


def _with_validation(table: _PatientTable, tested: np.ndarray, protocol: Protocol, *, fold: int) -> np.ndarray:
    """Parts (N,): the patients `tested` (P,) test, a stratified share of the others validates."""
    rng = np.random.default_rng([protocol.split_seed, fold])
    share = protocol.validation_fraction
    validated = table.divide(~tested, shares=[share, 1 - share], rng=rng) == 0
    by_patient = np.where(tested, TEST, np.where(validated, VAL, TRAIN))
    return np.asarray(by_patient[table.patient])


def _given_split(table: _PatientTable, protocol: Protocol, split: np.ndarray) -> Splits:
    """The source's own parts; a missing validation part is drawn from its training part."""
    if not (split == TRAIN).any():
        raise SplitError("the split column has no 'train' rows")
    if (split == VAL).any():
        if (split == TEST).any():
            return Splits(split[None])
        return Splits(split[None], selected_and_reported_on_same_cases=True, warnings=(SAME_CASES_WARNING,))
    assert_no_patient_crosses(parts=split[None], patient_ids=table.names[table.patient])
    tested = np.zeros(len(table.counts), dtype=bool)
    tested[table.patient[split == TEST]] = True
    if not tested.any():
        raise SplitError("the split column has only 'train' rows; use protocol.kind 'cross_validation' or 'holdout'")
    return Splits(_with_validation(table, tested, protocol, fold=0)[None])


def _given_folds(table: _PatientTable, protocol: Protocol, fold: np.ndarray | None) -> Splits:
    """The source's own folds: each is the test part once; validation is drawn from the others."""
    assert fold is not None
    numbers = np.unique(fold)
    if len(numbers) != protocol.folds:
        raise SplitError(
            f"the fold column has {len(numbers)} folds, protocol.folds is {protocol.folds}: "
            f"set protocol.folds: {len(numbers)}"
        )
    assert_no_patient_crosses(
        parts=np.stack([np.where(fold == k, TEST, TRAIN) for k in numbers]),
        patient_ids=table.names[table.patient],
    )
    parts = []
    for index, number in enumerate(numbers.tolist()):
        tested = np.zeros(len(table.counts), dtype=bool)
        tested[table.patient[fold == number]] = True
        parts.append(_with_validation(table, tested, protocol, fold=index))
    return Splits(np.stack(parts))


def _check_parts(splits: Splits) -> None:
    needed = (TRAIN, VAL) if splits.selected_and_reported_on_same_cases else (TRAIN, VAL, TEST)
    for fold, row in enumerate(splits.parts):
        empty = [PARTS[part] for part in needed if not (row == part).any()]
        if empty:
            raise SplitError(f"fold {fold} has no cases in {' and '.join(empty)}: too few patients for this protocol")

"""Members of an ensemble that were trained in another study: brought into this study's order, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from archbench.artifacts import Predictions
from archbench.metrics.metric import Array

SHOWN = 3


class MemberError(ValueError):
    """A prediction table that can't be a member; says which, what differs, and the remedy."""


def part_to_combine(table: Predictions) -> Predictions:
    """Return the rows that an ensemble is fitted on and applied to.

    In a cross-validation these are the test rows: each fold's validation rows are test rows of another one.
    """
    return table.test if len(np.unique(table.test.fold)) > 1 else table


def aligned(name: str, table: Predictions, reference: Predictions) -> tuple[Predictions, list[str]]:
    """Return another study's table in this study's order of labels, folds and seeds, and what was renamed.

    Labels are matched by name. The folds must part the patients alike; their numbers may differ. Seeds may differ if
    there are as many: they are paired in ascending order.

    Args:
        name: Of the member, for the errors.
        table: Its predictions.
        reference: Predictions of a member of this study, on the same part of the cases.
    Raises:
        MemberError: With what differs.
    """
    notes: list[str] = []
    table = _by_name(name, table, reference)
    _same_cases(name, table, reference)
    table = _with_folds(name, table, reference, notes)
    return _with_seeds(name, table, reference, notes), notes


def _by_name(name: str, table: Predictions, reference: Predictions) -> Predictions:
    if table.outputs != reference.outputs:
        raise MemberError(f"member '{name}' predicts {table.outputs}, this study {reference.outputs}")
    columns = _order(name, "classes", table.classes, reference.classes)
    targets = _order(name, "labels", table.labels, reference.labels)
    return replace(
        table,
        logits=table.logits[:, columns],
        targets=table.targets[:, targets],
        classes=reference.classes,
        labels=reference.labels,
        metadata={**table.metadata, **reference.metadata},
    )


def _order(name: str, kind: str, found: tuple[str, ...], wanted: tuple[str, ...]) -> list[int]:
    lacking, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if lacking or unknown:
        parts = [f"lacks {lacking}"] * bool(lacking) + [f"has {unknown} beside them"] * bool(unknown)
        raise MemberError(
            f"member '{name}': its {kind} {' and '.join(parts)} (this study: {list(wanted)}); train it on the same ones"
        )
    return [found.index(item) for item in wanted]


def _same_cases(name: str, table: Predictions, reference: Predictions) -> None:
    mine, theirs = set(table.case_id.tolist()), set(reference.case_id.tolist())
    for cases, words in ((theirs - mine, "lacks"), (mine - theirs, "has beside this study's")):
        if cases:
            raise MemberError(
                f"member '{name}' {words} {len(cases)} cases, e.g. {sorted(cases)[:SHOWN]}; "
                "members need predictions of the same cases"
            )
    facts: dict[str, tuple[Mapping[str, object], Mapping[str, object]]] = {
        "patient": (_by_case(table, table.patient_id), _by_case(reference, reference.patient_id)),
        "part (val, test)": (_by_case(table, table.split), _by_case(reference, reference.split)),
        "target": (_by_case(table, _comparable(table)), _by_case(reference, _comparable(reference))),
    }
    for what, (found, expected) in facts.items():
        differing = sorted(case for case, value in expected.items() if found[case] != value)
        if differing:
            raise MemberError(
                f"member '{name}' has another {what} for {len(differing)} cases, e.g. {differing[:SHOWN]}; "
                "both studies must read the same data with the same split"
            )


def _by_case(table: Predictions, values: Array) -> dict[str, object]:
    return dict(zip(table.case_id.tolist(), values.tolist(), strict=True))


def _comparable(table: Predictions) -> Array:
    return np.nan_to_num(table.targets, nan=-1.0)


def _with_folds(name: str, table: Predictions, reference: Predictions, notes: list[str]) -> Predictions:
    """Folds renumbered as in the reference; refused where they part the patients otherwise."""
    theirs, ours = _by_case(table, table.fold), _by_case(reference, reference.fold)
    number: dict[object, object] = {}
    for case, fold in theirs.items():
        known = number.setdefault(fold, ours[case])
        if known != ours[case]:
            raise MemberError(
                f"member '{name}' parts the patients into other folds: case {case!r} is in fold {fold} there, with "
                f"cases of fold {known} here, but in fold {ours[case]} here; use the same protocol.folds, split_seed "
                "and data in both studies"
            )
    if len(set(number.values())) < len(number):
        raise MemberError(f"member '{name}' has {len(number)} folds, this study {len(set(number.values()))}")
    if any(there != here for there, here in number.items()):
        notes.append(f"{name}: folds renumbered as in this study")
    return replace(table, fold=np.array([number[fold] for fold in table.fold.tolist()], dtype=reference.fold.dtype))


def _with_seeds(name: str, table: Predictions, reference: Predictions, notes: list[str]) -> Predictions:
    theirs, ours = np.unique(table.seed), np.unique(reference.seed)
    if np.array_equal(theirs, ours):
        return table
    if len(theirs) != len(ours):
        raise MemberError(
            f"member '{name}' has seeds {theirs.tolist()}, this study {ours.tolist()}: members need as many; "
            "set protocol.seeds accordingly"
        )
    notes.append(f"{name}: its seeds {theirs.tolist()} are paired with {ours.tolist()}")
    return replace(table, seed=ours[np.searchsorted(theirs, table.seed)])

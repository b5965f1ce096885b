"""The members of an ensemble side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.metrics.metric import Array, log_softmax, log_sum_exp
from archbench.metrics.views import whole_view

MEMBER_SEPARATOR = " / "


def stack_members(members: Mapping[str, Predictions]) -> Predictions:
    """Put the members' logits side by side: one row per case, fold, seed and part, M * K columns.

    Args:
        members: Prediction table of each model.
    Raises:
        ValueError: Naming the member whose classes, rows or targets differ from the first one's.
    """
    tables = {name: table.sorted() for name, table in members.items()}
    (first, reference), *others = tables.items()
    for name, table in others:
        _check_aligned(name, table, first, reference)
    classes = [f"{name}{MEMBER_SEPARATOR}{label}" for name, table in tables.items() for label in table.classes]
    logits = np.concatenate([table.logits for table in tables.values()], axis=1)
    kind: dict[str, Any] = {
        key: reference.metadata[key] for key in ("outputs", "class_names") if key in reference.metadata
    }
    return replace(
        reference,
        logits=logits,
        classes=tuple(classes),
        metadata={"decision": reference.metadata.get("decision", "argmax"), **kind},
    )


def member_view(stacked: Predictions, group: int, n_members: int) -> Predictions:
    """Return one label or zone of a stacked table as a stacked table of one label, targets not scored as NaN.

    Rows stay as they are; logits have shape (N, M * K') with the K' scored classes of the group.
    """
    width = stacked.logits.shape[1] // n_members
    blocks = stacked.logits.reshape(len(stacked), n_members, width)
    tables = [
        whole_view(replace(stacked, logits=blocks[:, m], classes=stacked.classes[:width]), group)
        for m in range(n_members)
    ]
    classes = tuple(f"{m}{MEMBER_SEPARATOR}{name}" for m, table in enumerate(tables) for name in table.classes)
    return replace(tables[0], logits=np.concatenate([table.logits for table in tables], axis=1), classes=classes)


def _check_aligned(name: str, table: Predictions, first: str, reference: Predictions) -> None:
    if table.outputs != reference.outputs:
        raise ValueError(f"member '{name}' predicts {table.outputs}, '{first}' {reference.outputs}")
    if table.classes != reference.classes:
        order = "in another order" if set(table.classes) == set(reference.classes) else "that differ"
        raise ValueError(f"member '{name}' has classes {order}: {table.classes}, '{first}' has {reference.classes}")
    if len(table) != len(reference):
        raise ValueError(f"member '{name}' has {len(table)} rows, '{first}' has {len(reference)}")
    for field in ("case_id", "patient_id", "split", "fold", "seed"):
        differs = getattr(table, field) != getattr(reference, field)
        if differs.any():
            row = int(np.flatnonzero(differs)[0])
            found, expected = getattr(table, field)[row], getattr(reference, field)[row]
            raise ValueError(
                f"member '{name}' differs from '{first}' in {int(differs.sum())} rows by {field}, "
                f"first {found!r} where {expected!r} is expected: predict both on the same folds and seeds"
            )
    if not np.array_equal(table.targets, reference.targets, equal_nan=True):
        raise ValueError(f"member '{name}' was predicted with other targets than '{first}'")


def member_logits(stacked: Predictions, n_members: int) -> Array:
    """Return the logits of a stacked table by member, shape (N, M, K)."""
    return stacked.logits.reshape(len(stacked), n_members, -1)


def base_log_probabilities(rows: Predictions, member: int, n_members: int) -> Array:
    """Return the log probabilities of one member, shape (N, K); of a regression its values (N, 1)."""
    if rows.outputs == "value":
        return member_logits(rows, n_members)[:, member].astype(np.float64)
    return log_softmax(member_logits(rows, n_members)[:, member])


def mean_log_probabilities(rows: Predictions, n_members: int) -> Array:
    """Return the logarithm of the members' mean probability, shape (N, K), without a fit; of a regression the mean."""
    if rows.outputs == "value":
        return member_logits(rows, n_members).astype(np.float64).mean(axis=1)
    each = log_softmax(member_logits(rows, n_members))
    largest = each.max(axis=1, keepdims=True)
    return (largest + np.log(np.exp(each - largest).mean(axis=1, keepdims=True)))[:, 0]


def mean_log_odds(rows: Predictions, n_members: int) -> Array:
    """Return the log odds of the members' mean probability of each label, shape (N, L), without a fit."""
    odds = member_logits(rows, n_members).astype(np.float64)
    rest = np.log1p(np.exp(-np.abs(odds)))
    present, absent = np.minimum(odds, 0.0) - rest, np.minimum(-odds, 0.0) - rest  # log probabilities
    return log_sum_exp(present.swapaxes(1, 2)) - log_sum_exp(absent.swapaxes(1, 2))

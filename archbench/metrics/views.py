"""A table with several labels or zones as plain tables of one label each.

Every label, zone or derived score becomes a `Predictions` with one target, so that metrics, calibration and
stacking of single-label tables serve all tasks. What is unknown, ungradable or a soft training target is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.metrics.metric import Array, log_sum_exp
from archbench.tasks import UNGRADABLE

BINARY = ("absent", "present")
RISK_CLASSES = ("low", "intermediate", "high")
RISK_CUTS = (1.3, 2.2)  # mean score: low <= 1.3 < intermediate <= 2.2 < high
RISK_TOLERANCE = 1e-6  # logits are float32
CERTAIN = 50.0  # logit of a class that was decided elsewhere


def is_grouped(predictions: Predictions) -> bool:
    """Whether the table holds several labels or zones, each with logits of its own."""
    return predictions.outputs in ("labels", "zones")


def scored_classes(predictions: Predictions) -> tuple[str, ...]:
    """Return the class names of one label or zone that are scored: ungradable is none of them."""
    if predictions.outputs == "labels":
        return BINARY
    if predictions.outputs == "zones":
        return tuple(name for name in predictions.metadata["class_names"] if name != UNGRADABLE)
    return predictions.classes


def group_columns(predictions: Predictions, group: int) -> list[int]:
    """Return the logit columns of one label or zone, those of unscored classes left out."""
    if predictions.outputs == "labels":
        return [group]
    names = predictions.metadata["class_names"]
    return [group * len(names) + k for k, name in enumerate(names) if name != UNGRADABLE]


def whole_view(predictions: Predictions, group: int) -> Predictions:
    """Return one label or zone as a table of one target with all rows, NaN where the target is not scored."""
    targets = predictions.targets[:, group].copy()
    logits = predictions.logits[:, group_columns(predictions, group)]
    if predictions.outputs == "labels":
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    classes = scored_classes(predictions)
    targets[~np.isin(targets, np.arange(len(classes)))] = np.nan
    metadata = {"decision": predictions.metadata.get("decision", "argmax")}
    label = (predictions.labels[group],)
    return predictions.having(logits=logits, targets=targets[:, None], classes=classes, labels=label, metadata=metadata)


def scored_targets(predictions: Predictions) -> Array:
    """Return the targets of all labels or zones, NaN where they are not scored, shape (N, L)."""
    scored = np.isin(predictions.targets, np.arange(len(scored_classes(predictions))))
    return np.where(scored, predictions.targets, np.nan)


def view_of(predictions: Predictions, group: int) -> Predictions:
    """Return the rows of one label or zone whose target is scored; any other table as it is."""
    return whole_view(predictions, group).known() if is_grouped(predictions) else predictions


def views(predictions: Predictions) -> list[Predictions]:
    """Return one table per label or zone; a table of one target as it is."""
    if not is_grouped(predictions):
        return [predictions]
    return [view_of(predictions, group) for group in range(len(predictions.labels))]


def pooled_view(predictions: Predictions) -> Predictions:
    """Return the cells of all labels as rows of one table (micro averages); cases appear once per known label."""
    tables = views(predictions)
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(table, name) for table in tables])
        for name in ("case_id", "patient_id", "split", "fold", "seed", "logits", "targets")
    }
    return replace(tables[0], **joined, labels=("any",))


def decided(predictions: Predictions) -> tuple[Array, Array]:
    """Return the decided and the true class of every cell, float (N, L) both, NaN in the truth where not scored."""
    if predictions.outputs == "labels":
        return (predictions.logits > 0).astype(np.float64), scored_targets(predictions)
    whole = [whole_view(predictions, group) for group in range(len(predictions.labels))]
    called = np.stack([table.decisions for table in whole], axis=1).astype(np.float64)
    return called, np.concatenate([table.targets for table in whole], axis=1)


def expected_score(predictions: Predictions) -> tuple[Array, Array]:
    """Return the mean grade over each case's gradable zones, true and expected, shape (N,) both.

    The expected grade of a zone is its probability-weighted mean. Without a gradable zone both are NaN.
    """
    whole = [whole_view(predictions, group) for group in range(len(predictions.labels))]
    truth = np.concatenate([table.targets for table in whole], axis=1)
    grades = np.arange(len(scored_classes(predictions)))
    expected = np.stack([softmax(table.logits) @ grades for table in whole], axis=1)
    known = ~np.isnan(truth)
    count = known.sum(axis=1)
    divisor = np.where(count > 0, count, np.nan)
    return np.where(known, truth, 0.0).sum(axis=1) / divisor, np.where(known, expected, 0.0).sum(axis=1) / divisor


def score_view(predictions: Predictions) -> Predictions:
    """Return the mean grades of `expected_score` as a regression table; cases without a score are left out."""
    true, said = expected_score(predictions)
    table = predictions.having(
        logits=np.nan_to_num(said)[:, None].astype(np.float32),
        targets=true[:, None],
        classes=("score",),
        labels=("score",),
        metadata={"outputs": "value"},
    )
    return table.known()


def risk_class(score: Array) -> Array:
    """Return the risk class 0 to 2 of mean grades; NaN stays NaN: without a gradable zone there is no risk."""
    score = np.asarray(score, dtype=np.float64)
    risk = (score[..., None] > np.array(RISK_CUTS) + RISK_TOLERANCE).sum(axis=-1).astype(np.float64)
    return np.where(np.isnan(score), np.nan, risk)


def risk_view(predictions: Predictions) -> Predictions:
    """Return the risk class of each case, true and said, as a table of three ordered classes."""
    table = score_view(predictions)
    said = risk_class(table.logits[:, 0]).astype(np.int64)
    return table.having(
        logits=(CERTAIN * np.eye(len(RISK_CLASSES), dtype=np.float32))[said],
        targets=risk_class(table.targets),
        classes=RISK_CLASSES,
        labels=("risk",),
        metadata={},
    )


@dataclass(frozen=True)
class Question:
    """A yes-or-no question that a table answers: a label, or a class against the rest.

    Attributes:
        name: Of the label or class; "<zone>: <class>" for zones.
        log_odds: That the answer is yes, shape (M,).
        targets: 1 or 0, shape (M,).
        members: The table's rows with a known answer, ascending, shape (M,).
    """

    name: str
    log_odds: Array
    targets: Array
    members: Array

    @property
    def probabilities(self) -> Array:
        """Chance that the answer is yes, shape (M,)."""
        return 1.0 / (1.0 + np.exp(-np.clip(self.log_odds, -500.0, 500.0)))


def binary_questions(predictions: Predictions, *, cut: int | None = None) -> Iterator[Question]:
    """Yield the questions of a table of classes, labels or zones.

    Args:
        cut: Of a table of ordered classes also ask for this class or worse.
    """
    if predictions.outputs == "labels":
        for k, name in enumerate(predictions.labels):
            members = np.flatnonzero(np.isin(predictions.targets[:, k], (0.0, 1.0)))
            odds = predictions.logits[members, k].astype(np.float64)
            yield Question(name, odds, predictions.targets[members, k], members)
        return
    for group, zone in enumerate(predictions.labels):
        table = whole_view(predictions, group) if predictions.outputs == "zones" else predictions
        members = np.flatnonzero(~np.isnan(table.targets[:, 0]))
        logits, truth = table.logits[members].astype(np.float64), table.targets[members, 0]
        for k, name in enumerate(table.classes):
            title = f"{zone}: {name}" if predictions.outputs == "zones" else name
            yield Question(title, _odds(logits, [k]), (truth == k).astype(np.float64), members)
        if cut is not None and predictions.outputs == "classes" and 0 < cut < len(table.classes):
            worse = list(range(cut, len(table.classes)))
            title = f"{table.classes[cut]} or worse"
            yield Question(title, _odds(logits, worse), (truth >= cut).astype(np.float64), members)


def _odds(logits: Array, chosen: list[int]) -> Array:
    """Log odds of some classes against the others, from logits (N, K)."""
    inside = np.isin(np.arange(logits.shape[1]), chosen)
    return log_sum_exp(logits[:, inside]) - log_sum_exp(logits[:, ~inside])

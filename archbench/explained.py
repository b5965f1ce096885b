"""Which output of which case is explained: the called class, a label that is there or not, a graded zone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.metrics.views import BINARY, group_columns, scored_classes, whole_view

OUTCOMES = {(1, 1): "TP", (0, 0): "TN", (0, 1): "FP", (1, 0): "FN"}


@dataclass(frozen=True)
class Question:
    """What is explained of one case.

    Attributes:
        output: Logit column.
        true, predicted: Names of classes; of a regression the numbers in words.
        probability: Of the explained output; None for a regression.
        label: Label or zone; None where there is one.
        outcome: TP, TN, FP or FN of a label.
    """

    output: int
    true: str
    predicted: str
    probability: float | None
    label: str | None = None
    outcome: str | None = None

    @property
    def counts_lesions(self) -> bool:
        """Whether a planted lesion should be under the heat map: the finding is there and is called."""
        return self.outcome in (None, "TP") and (self.label is None or self.true == self.predicted)


def reported_rows(predictions: Predictions) -> Predictions:
    """Return the known rows of the first seed's test part, or validation part without one, by case."""
    rows = predictions.test if (predictions.split == "test").any() else predictions.val
    rows = rows.select(rows.seed == rows.seed.min()).known()
    return rows.select(np.argsort(rows.case_id, kind="stable"))


def questions_of(rows: Predictions) -> list[Question]:
    """Return the question of each row of a table with one label: its called class, or its value."""
    if rows.outputs == "value":
        pairs = zip(rows.targets[:, 0].tolist(), rows.logits[:, 0].tolist(), strict=True)
        return [Question(0, f"{true:.3g}", f"{said:.3g}", None) for true, said in pairs]
    probabilities, decisions = softmax(rows.logits), rows.decisions
    return [
        Question(int(called), rows.classes[int(true)], rows.classes[int(called)], float(probabilities[k, called]))
        for k, (true, called) in enumerate(zip(rows.y_true, decisions, strict=True))
    ]


def choose_questions(predictions: Predictions, n: int, *, seed: int) -> tuple[Predictions, list[Question]]:
    """Choose n cells of a table of labels or zones, by turns over labels and outcomes, or over zones.

    Labels: one true positive, true negative, false positive and false negative of each label, then the next ones, as
    far as there are any; the outcome changes from label to label, so that few cells show all outcomes. The chance
    depends on the truth and the seed; outcomes depend on the model.

    Returns:
        The rows (a case may come twice) and what is explained of each.
    """
    rows = reported_rows(predictions)
    generator = np.random.default_rng(seed)
    places = {label: generator.permutation(len(rows)) for label in rows.labels}  # another case first for each label
    piles: dict[tuple[str, str], list[tuple[int, Question]]] = {}
    for group, label in enumerate(rows.labels):
        for row, question in _cells(rows, group):
            piles.setdefault((question.outcome or "", label), []).append((row, question))
    outcomes = list(OUTCOMES.values()) if rows.outputs == "labels" else [""]
    stacks = []
    for shift in range(len(outcomes)):
        for group, (label, place) in enumerate(places.items()):
            cells = piles.get((outcomes[(group + shift) % len(outcomes)], label), [])
            ranks = place[[row for row, _ in cells]] if cells else np.zeros(0)
            stacks.append([cells[k] for k in np.argsort(ranks, kind="stable").tolist()])
    chosen = [stack[turn] for turn in range(n) for stack in stacks if turn < len(stack)][:n]
    return rows.select(np.array([row for row, _ in chosen], dtype=np.int64)), [question for _, question in chosen]


def _cells(rows: Predictions, group: int) -> list[tuple[int, Question]]:
    """Every scored cell of one label or zone with its question."""
    table, columns = whole_view(rows, group), group_columns(rows, group)
    names, called = scored_classes(rows), table.decisions
    probabilities = softmax(table.logits)
    found = []
    for row in np.flatnonzero(~np.isnan(table.targets[:, 0])).tolist():
        true, said = int(table.targets[row, 0]), int(called[row])
        outcome = OUTCOMES[true, said] if names == BINARY else None
        output = columns[0] if names == BINARY else columns[said]
        probability = float(probabilities[row, 1 if names == BINARY else said])
        found.append((row, Question(output, names[true], names[said], probability, rows.labels[group], outcome)))
    return found

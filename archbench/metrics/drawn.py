"""All resamples of one prediction table: what several metrics are made of is computed once and shared.

Confusion counts and per-case terms are added up by patient and multiplied with all resamples at once; the questions
of a rank metric (labels, classes) are sorted once per fold and seed for AUROC and average precision together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.metrics.metric import Array, Metric
from archbench.metrics.table_rows import arguments, known_sides, patient_rows
from archbench.metrics.views import scored_targets, view_of
from archbench.resampling import auroc, average_precision, question_draws

MEASURES: dict[Callable[..., Array], str] = {auroc: "auroc", average_precision: "average_precision"}


class Drawn:
    """A table with the resamples of its patients; index 0 of every result is the sample itself.

    Args:
        predictions: Known targets, one row per case and seed.
        patients: Sorted patient names, shape (P,).
        weights: Patient counts of each resample, shape (B, P).
        both: AUROC and average precision will both be asked for: compute them together.
        memo: Rank metrics of parts seen before, for tables of the same resamples that share whole folds; a table with
            fewer resamples must have the first ones.
    """

    def __init__(
        self,
        predictions: Predictions,
        patients: Array,
        weights: Array,
        *,
        both: bool = False,
        memo: dict[bytes, Array] | None = None,
    ) -> None:
        self.predictions = predictions
        self.patients = patients
        self.weights = weights
        self.both = both
        self.memo = memo
        self._ranks: dict[Any, Array] = {}
        self._sums: dict[Any, Array] = {}
        self._parts: dict[bytes, Array] = {}

    @cached_property
    def columns(self) -> Array:
        """The sample (all ones), then the resamples, shape (P, 1 + B)."""
        found = np.ones((len(self.patients), 1 + len(self.weights)))
        found[:, 1:] = self.weights.T
        return found

    @cached_property
    def targets(self) -> Array:
        """Targets of all labels or zones, NaN where they are not scored, shape (N, L)."""
        return scored_targets(self.predictions)

    @cached_property
    def unit(self) -> Array:
        """Index of each row's patient, shape (N,)."""
        return patient_rows(self.predictions, self.patients)

    @cached_property
    def seed(self) -> Array:
        """Place of each row's training seed, shape (N,)."""
        return np.unique(self.predictions.seed, return_inverse=True)[1]

    @cached_property
    def n_seeds(self) -> int:
        """Number of training seeds S."""
        return len(np.unique(self.predictions.seed))

    @cached_property
    def members(self) -> list[list[Array]]:
        """Rows of each seed and fold."""
        _, fold = np.unique(self.predictions.fold, return_inverse=True)
        folds = range(fold.max() + 1 if len(fold) else 0)
        return [[np.flatnonzero((self.seed == s) & (fold == f)) for f in folds] for s in range(self.n_seeds)]

    @cached_property
    def groups(self) -> list[Drawn]:
        """One table per label or zone, with the same resamples."""
        count = len(self.predictions.labels)
        return [_Group(self, group) for group in range(count)]

    @cached_property
    def sides(self) -> list[list[tuple[int, int]]]:
        """Patients with and without each class of each label or zone, see `known_sides`."""
        return known_sides(self.predictions)

    def release(self) -> None:
        """Part with the labels' tables: they know this one, and a cycle would keep the resamples in memory."""
        self.__dict__.pop("groups", None)

    def table(self, predictions: Predictions) -> Drawn:
        """Another table of the same patients, which shares the resamples."""
        other = Drawn(predictions, self.patients, self.weights, memo=self.memo)
        other.__dict__["columns"] = self.columns
        other._parts = self._parts
        return other

    @cached_property
    def confusion(self) -> Array:
        """Confusion matrices of each seed and resample, rows the truth, shape (S, 1 + B, K, K)."""
        rows, n_classes = self.predictions, self.predictions.logits.shape[1]
        cells = rows.y_true * n_classes + rows.decisions
        return self._counted(cells[None], np.ones((1, len(rows)), bool), n_classes)[0]

    @cached_property
    def label_confusion(self) -> Array:
        """Of a table with labels: confusion matrices of each label, shape (L, S, 1 + B, 2, 2)."""
        rows = self.predictions
        known = np.isin(rows.targets, (0.0, 1.0)).T
        truth = np.where(known, rows.targets.T, 0.0).astype(np.int64)
        return self._counted(truth * 2 + (rows.logits.T > 0), known, 2)

    def _counted(self, cells: Array, known: Array, n_classes: int) -> Array:
        """Weighted counts of cells (Q, N), shape (Q, S, 1 + B, K, K)."""
        units, kinds = len(self.patients), n_classes**2
        counts = []
        for row, inside in zip(cells, known, strict=True):
            place = (self.seed[inside] * kinds + row[inside]) * units + self.unit[inside]
            counts.append(np.bincount(place, minlength=self.n_seeds * kinds * units))
        stacked = np.concatenate(counts).reshape(-1, units).astype(np.float64) @ self.columns
        shaped = stacked.reshape(len(cells), self.n_seeds, kinds, -1).transpose(0, 1, 3, 2)
        return shaped.reshape(len(cells), self.n_seeds, -1, n_classes, n_classes)

    def sums(self, metric: Metric) -> Array:
        """Weighted sums of a metric's per-case terms, shape (S, T, 1 + B)."""
        if metric.terms not in self._sums:
            summed = self.summed_terms(metric)
            self._sums[metric.terms] = (summed.reshape(-1, len(self.patients)) @ self.columns).reshape(
                *summed.shape[:2], -1
            )
        return self._sums[metric.terms]

    def summed_terms(self, metric: Metric) -> Array:
        """Terms added up by seed and patient, shape (S, T, P)."""
        assert metric.terms is not None
        terms = metric.terms(self.predictions) if metric.of == "cases" else metric.terms(*arguments(self.predictions))
        units = len(self.patients)
        place = self.seed * units + self.unit
        by_patient = [np.bincount(place, weights=term, minlength=self.n_seeds * units) for term in terms]
        return np.stack(by_patient).reshape(len(terms), self.n_seeds, units).transpose(1, 0, 2)

    def group_sums(self, metric: Metric) -> list[Array]:
        """`sums` of every label or zone from one product."""
        if metric.terms not in self._sums:
            filled = [group.summed_terms(metric) for group in self.groups if len(group.predictions)]
            stacked = np.concatenate([one.reshape(-1, len(self.patients)) for one in filled]) @ self.columns
            self._sums[metric.terms] = stacked.reshape(len(filled), self.n_seeds, -1, stacked.shape[1])
        found = iter(self._sums[metric.terms])
        return [next(found) if len(group.predictions) else np.empty(0) for group in self.groups]

    def ranks(self, metric: Metric, asked: Array | None = None) -> Array:
        """A rank metric of each seed, fold and question, shape (S, F, Q, 1 + B); NaN where undefined or not asked.

        Args:
            asked: Questions to compute, shape (Q,); None computes all.
        """
        assert metric.terms is not None
        key = (metric.terms, metric.function, None if asked is None else asked.tobytes())
        if key not in self._ranks:
            functions = list(MEASURES) if self.both and metric.function in MEASURES else [metric.function]
            for function, found in zip(functions, self._ranked(metric, functions, asked), strict=True):
                self._ranks[metric.terms, function, key[2]] = found
        return self._ranks[key]

    def _ranked(self, metric: Metric, functions: list[Callable[..., Array]], asked: Array | None) -> Array:
        assert metric.terms is not None
        found = []
        for rows in self._all_members():
            part = self.predictions.select(rows)
            scores, positives = metric.terms(softmax(part.logits), part.y_true)
            chosen = np.arange(len(scores)) if asked is None else np.flatnonzero(asked)
            values = np.full((len(functions), len(scores), 1 + len(self.weights)), np.nan)
            values[:, chosen] = self.questions(scores[chosen].T, positives[chosen].T.astype(float), rows, functions)
            found.append(values)
        return self._by_part(found)

    def label_ranks(self, function: Callable[..., Array]) -> Array:
        """Of a table with labels: a rank metric of "present" of every label, shape (S, F, L, 1 + B)."""
        if ("labels", function) not in self._ranks:
            rows = self.predictions
            functions = list(MEASURES) if self.both else [function]
            targets = np.where(np.isin(rows.targets, (0.0, 1.0)), rows.targets, np.nan)
            found = [self.questions(rows.logits[m], targets[m], m, functions) for m in self._all_members()]
            for one, values in zip(functions, self._by_part(found), strict=True):
                self._ranks["labels", one] = values
        return self._ranks["labels", function]

    def pooled_ranks(self, function: Callable[..., Array]) -> Array:
        """Of a table with labels: a rank metric over the cells of all labels, shape (S, F, 1, 1 + B)."""
        if ("pooled", function) not in self._ranks:
            functions, found = list(MEASURES) if self.both else [function], []
            for rows in self._all_members():
                targets = self.predictions.targets[rows]
                case, label = np.nonzero(np.isin(targets, (0.0, 1.0)))
                scores = self.predictions.logits[rows][case, label]
                found.append(self.questions(scores[:, None], targets[case, label][:, None], rows[case], functions))
            for one, values in zip(functions, self._by_part(found), strict=True):
                self._ranks["pooled", one] = values
        return self._ranks["pooled", function]

    def questions(self, scores: Array, targets: Array, rows: Array, functions: list[Callable[..., Array]]) -> Array:
        """Rank metrics of questions (N, Q) of some rows for every resample, shape (M, Q, 1 + B)."""
        if self.memo is None:
            return self._questions(scores, targets, rows, functions)
        content = (scores, targets, self.unit[rows], np.array([function.__name__ for function in functions]))
        key = blake2b(b"".join(np.ascontiguousarray(column).tobytes() for column in content)).digest()
        width = 1 + len(self.weights)
        if key not in self.memo or self.memo[key].shape[2] < width:
            self.memo[key] = self._questions(scores, targets, rows, functions)
        return self.memo[key][:, :, :width]

    def _questions(self, scores: Array, targets: Array, rows: Array, functions: list[Callable[..., Array]]) -> Array:
        of_part, index = np.unique(self.unit[rows], return_inverse=True)
        weights = self._weights_of(of_part)
        if set(functions) <= set(MEASURES):
            measures = tuple(MEASURES[function] for function in functions)
            return np.stack(question_draws(scores, targets, weights, index, measures))
        return np.array(
            [
                [
                    function(score, positive > 0.5, weights, index)
                    for score, positive in zip(scores.T, targets.T, strict=True)
                ]
                for function in functions
            ]
        )

    def _weights_of(self, patients: Array) -> Array:
        """The sample (all ones) and the resamples of some patients, shape (P', 1 + B); the same for all seeds."""
        key = patients.tobytes()
        if key not in self._parts:
            self._parts[key] = np.ones((len(patients), 1 + len(self.weights)), dtype=self.weights.dtype)
            self._parts[key][:, 1:] = self.weights[:, patients].T
        return self._parts[key]

    def _all_members(self) -> list[Array]:
        return [rows for of_seed in self.members for rows in of_seed]

    def _by_part(self, found: list[Array]) -> Array:
        """Values (M, Q, 1 + B) of every part, as (M, S, F, Q, 1 + B)."""
        stacked = np.stack(found, axis=1)
        return stacked.reshape(stacked.shape[0], self.n_seeds, -1, *stacked.shape[2:])


class _Group(Drawn):
    """One label or zone of a table; a label takes what was computed for all labels together."""

    def __init__(self, whole: Drawn, group: int) -> None:
        rows = view_of(whole.predictions, group)
        super().__init__(rows, whole.patients, whole.weights, both=whole.both, memo=whole.memo)
        self.whole = whole
        self.group = group
        self.of_label = whole.predictions.outputs == "labels"
        self.rows = np.flatnonzero(~np.isnan(whole.targets[:, group]))

    @cached_property
    def columns(self) -> Array:
        return self.whole.columns

    @cached_property
    def unit(self) -> Array:
        return self.whole.unit[self.rows]

    @cached_property
    def confusion(self) -> Array:
        return self.whole.label_confusion[self.group] if self.of_label else super().confusion

    def sums(self, metric: Metric) -> Array:
        return self.whole.group_sums(metric)[self.group]

    def ranks(self, metric: Metric, asked: Array | None = None) -> Array:
        if not self.of_label or metric.function not in MEASURES:
            return super().ranks(metric, asked)
        present = self.whole.label_ranks(metric.function)[:, :, self.group]
        return np.stack([np.full(present.shape, np.nan), present], axis=2)

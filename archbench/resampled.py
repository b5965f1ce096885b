"""The scored rows of a table with the shared resamples of its patients, and the records made from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from archbench.artifacts import MetricRecord, Predictions
from archbench.auroc_tests import has_delong, with_delong
from archbench.metrics.drawn import Drawn
from archbench.metrics.metric import Array, Metric
from archbench.metrics.scoring import Scores, score_drawn
from archbench.metrics.table_rows import distinct
from archbench.metrics.views import scored_targets
from archbench.proportions import Behind, no_proportion, patients_behind, settled
from archbench.statistics import Estimate, estimate, metric_record


@dataclass(frozen=True)
class Resampled:
    """The scored rows and the resamples that all models of a dataset share.

    Attributes:
        rows: One row per case and seed.
        patients: Sorted names, shape (P,).
        weights: Patient counts of each resample, shape (B, P).
        confidence: Level of the intervals.
    """

    rows: Predictions
    patients: Array
    weights: Array
    confidence: float

    @cached_property
    def drawn(self) -> Drawn:
        """The rows with all resamples: what metrics are made of, computed once."""
        return Drawn(self.rows, self.patients, self.weights, both=True, memo={})

    @property
    def unit(self) -> Array:
        """Index of each row's patient, shape (N,)."""
        return self.drawn.unit

    @property
    def seed(self) -> Array:
        """Place of each row's training seed, shape (N,)."""
        return self.drawn.seed

    @property
    def columns(self) -> Array:
        """The sample itself (all ones), then the resamples, shape (P, 1 + B)."""
        return self.drawn.columns

    @cached_property
    def known(self) -> Array:
        """Which cells of a table with labels or zones are scored, boolean (N, L)."""
        return ~np.isnan(scored_targets(self.rows))

    @cached_property
    def n_cases(self) -> int:
        """Number of cases."""
        return distinct(self.rows.case_code)

    def counts(self, members: Array | None = None) -> tuple[int, int]:
        """Return the number of cases and patients among some rows (indices or mask); of all without."""
        if members is None:
            return self.n_cases, len(self.patients)
        return distinct(self.rows.case_code[members]), distinct(self.unit[members])

    def of(self, rows: Predictions) -> Resampled:
        """The same resamples of other rows of these patients."""
        other = replace(self, rows=rows)
        other.__dict__["drawn"] = self.drawn.table(rows)  # a cached property: the resamples are shared
        return other

    def record(
        self,
        name: str,
        scores: Scores,
        reason: str,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        centred: bool = False,
        counts: tuple[int, int] | None = None,
        behind: Behind | None = no_proportion,
        from_share: Callable[[float], float] | None = None,
    ) -> MetricRecord:
        """Return the record of scores; without a value it carries `reason`."""
        found = estimate(scores, confidence=self.confidence, bounds=bounds, centred=centred)
        return self.written(name, found, reason, counts=counts, behind=behind, from_share=from_share)

    def written(
        self,
        name: str,
        found: Estimate,
        reason: str,
        *,
        counts: tuple[int, int] | None = None,
        behind: Behind | None = no_proportion,
        from_share: Callable[[float], float] | None = None,
    ) -> MetricRecord:
        """Return the record of an estimate.

        Args:
            behind: Patients that a proportion is a share of, see `archbench.proportions.settled`; None for a
                difference, which may well be 0 in every resample.
            from_share: As in `Metric`.
        """
        if behind is not None:
            found = settled(found, behind, confidence=self.confidence, from_share=from_share)
        n_cases, n_patients = self.counts() if counts is None else counts
        return metric_record(name, found, n_cases=n_cases, n_patients=n_patients, undefined_reason=reason)

    def auroc_record(
        self,
        name: str,
        scores: Scores,
        reason: str,
        *,
        metric: Metric,
        questions: Array,
        rows: Predictions | None = None,
        counts: tuple[int, int] | None = None,
    ) -> MetricRecord:
        """Return the record of an AUROC, by DeLong where there are few patients or the AUROC is near 1.

        Args:
            questions: Which questions of the rows it is the mean of, see `archbench.auroc_tests`.
            rows: The table that was scored; None means all rows.
        """
        found = estimate(scores, confidence=self.confidence, bounds=metric.bounds)
        table = self.rows if rows is None else rows
        found = with_delong(found, table, metric, questions, confidence=self.confidence)
        return self.written(name, found, reason, counts=counts)

    def scored(self, name: str, metric: Metric) -> MetricRecord:
        """Return the record of a metric of the rows."""
        found = score_drawn(self.drawn, metric)
        return self.record(
            name,
            found,
            metric.undefined_reason,
            bounds=metric.bounds,
            centred=metric.centred,
            behind=lambda: patients_behind(self.drawn, metric),
            from_share=metric.from_share,
        )

    def group_scored(self, name: str, group: int, metric: Metric, reason: str) -> MetricRecord:
        """Return the record of a metric of one label or zone."""
        drawn = self.drawn.groups[group]
        counts = self.counts(self.known[:, group])
        if not len(drawn.predictions):
            nothing = np.full((1, len(self.weights)), np.nan)
            return self.record(name, Scores(nothing[:, 0], nothing), "no case has this label known", counts=counts)
        asked = np.array([False, True]) if metric.kind == "rank" and self.rows.outputs == "labels" else None
        found = score_drawn(drawn, metric, asked)
        if asked is not None and has_delong(metric, drawn.predictions):
            rows = drawn.predictions
            return self.auroc_record(name, found, reason, metric=metric, questions=asked, rows=rows, counts=counts)
        return self.record(
            name,
            found,
            reason,
            bounds=metric.bounds,
            centred=metric.centred,
            counts=counts,
            behind=lambda: patients_behind(drawn, metric),
            from_share=metric.from_share,
        )

    def mean_scores(self, values: Array, members: Array | None = None) -> Scores:
        """Return the mean of a value per row, of each seed, as points and for every resample.

        Args:
            values: Shape (M,), one per member; NaN is left out.
            members: Indices of rows, shape (M,); None takes all.
        """
        inside = np.arange(len(self.rows)) if members is None else members
        defined = ~np.isnan(values)
        values, inside = values[defined], inside[defined]
        n_seeds, size = int(self.seed.max()) + 1, len(self.patients)
        place = self.seed[inside] * size + self.unit[inside]
        sums = np.bincount(place, weights=values, minlength=n_seeds * size).reshape(n_seeds, size)
        counts = np.bincount(place, minlength=n_seeds * size).reshape(n_seeds, size).astype(np.float64)
        both = np.concatenate([sums, counts]) @ self.columns
        above, below = both[:n_seeds], both[n_seeds:]
        found = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
        return Scores(points=found[:, 0], draws=found[:, 1:])

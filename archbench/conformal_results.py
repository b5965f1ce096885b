"""How often conformal sets of new patients hold the truth, and how large they are: `conformal` of metrics.json.

The limits of a fold are those of other patients, on uncalibrated probabilities: a temperature fitted on the same
rows would break the promise. The format stands in docs/result_files.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.conformal import ClassSets, fit_class_sets, fit_label_sets
from archbench.cross_fitting import CrossedPart, crossed_parts
from archbench.metrics.metric import Array
from archbench.metrics.views import view_of, whole_view
from archbench.out_of_fold import fitting_problem
from archbench.resampled import Resampled

NO_CASE = "no case is known"


@dataclass(frozen=True)
class _Cells:
    """Sets of cases, or of each label or zone of cases.

    Attributes:
        sets: Which answers belong to the set, boolean (M, K).
        truth: Right answer, shape (M,).
        members: Row of each, shape (M,).
    """

    sets: Array
    truth: Array
    members: Array

    def only(self, mask: Array) -> _Cells:
        return _Cells(self.sets[mask], self.truth[mask], self.members[mask])


def conformal_results(
    predictions: Predictions, sample: Resampled, *, coverage: float, parts: Sequence[CrossedPart] = ()
) -> dict[str, Any]:
    """Return coverage and size of the sets of the scored rows.

    Args:
        predictions: All rows of the model.
        sample: Its scored rows.
        parts: Its `crossed_parts` where they are known already.
        coverage: Chance with which a set is to hold the truth.
    """
    rows, reason = sample.rows, fitting_problem(predictions)
    result: dict[str, Any] = {"target": coverage, "kind": rows.outputs, "reason": reason}
    nothing = dict.fromkeys(("coverage", "mean_size", "empty", "single", "full"))
    if reason is not None:
        return {**result, **nothing, "by": {}}
    if rows.outputs == "zones":
        cells, by = _zones(predictions, sample, coverage)
    else:
        make = _labels if rows.outputs == "labels" else _classes
        cells, by = make(parts or crossed_parts(predictions), sample, coverage)
    if not len(cells):
        return {**result, **nothing, "reason": NO_CASE, "by": {}}
    whole = _joined(cells)
    size = whole.sets.sum(axis=1)
    shares = {"empty": size == 0, "single": size == 1, "full": size == whole.sets.shape[1]}
    return {
        **result,
        **_summary(sample, whole),
        **{name: float(share.mean()) for name, share in shares.items()},
        "by": by,
    }


def _joined(cells: list[_Cells]) -> _Cells:
    names = ("sets", "truth", "members")
    return _Cells(*(np.concatenate([getattr(cell, name) for cell in cells]) for name in names))


def _summary(sample: Resampled, cells: _Cells) -> dict[str, Any]:
    """Records of coverage and mean size."""
    return {"coverage": _coverage(sample, cells), "mean_size": _mean_size(sample, cells)}


def _coverage(sample: Resampled, cells: _Cells, name: str = "coverage") -> Any:
    held = cells.sets[np.arange(len(cells.truth)), cells.truth].astype(np.float64)
    scores, counts = sample.mean_scores(held, cells.members), sample.counts(cells.members)
    return sample.record(name, scores, NO_CASE, counts=counts, behind=lambda: [counts[1]])


def _mean_size(sample: Resampled, cells: _Cells) -> Any:
    scores = sample.mean_scores(cells.sets.sum(axis=1).astype(np.float64), cells.members)
    bounds = (0.0, float(cells.sets.shape[1]))
    return sample.record("mean_size", scores, NO_CASE, bounds=bounds, counts=sample.counts(cells.members))


def _classes(parts: Sequence[CrossedPart], sample: Resampled, coverage: float) -> tuple[list[_Cells], dict[str, Any]]:
    rows = sample.rows
    sets, fits = _class_sets(rows, parts, coverage)
    cells = _Cells(sets, rows.y_true, np.arange(len(rows)))
    by = {}
    for k, name in enumerate(rows.classes):
        by[name] = {
            "coverage": _coverage(sample, cells.only(cells.truth == k)),
            "n_patients_fitted": min(int(fit.n_patients[k]) for fit in fits),
            "always_inside": any(bool(np.isinf(fit.limits[k])) for fit in fits),
        }
    return [cells], by


def _class_sets(rows: Predictions, parts: Iterable[CrossedPart], coverage: float) -> tuple[Array, list[ClassSets]]:
    """Sets of the rows of one softmax (N, K), and the fits of all folds and seeds."""
    sets, fits = np.zeros(rows.logits.shape, dtype=bool), []
    ordinal = rows.metadata.get("decision") == "expected_grade"
    for part in parts:
        fit = fit_class_sets(part.source, applied=part.applied, seed=part.seed, coverage=coverage, ordinal=ordinal)
        sets[part.inside] = fit.sets(part.applied.logits)
        fits.append(fit)
    return sets, fits


def _zones(predictions: Predictions, sample: Resampled, coverage: float) -> tuple[list[_Cells], dict[str, Any]]:
    found, by = [], {}
    for group, name in enumerate(sample.rows.labels):
        parts = crossed_parts(view_of(predictions, group))
        members = np.flatnonzero(~np.isnan(whole_view(sample.rows, group).targets[:, 0]))
        if not parts or not len(members):
            continue
        table = sample.rows.select(members)
        view = view_of(table, group)
        sets, fits = _class_sets(view, parts, coverage)
        cells = _Cells(sets, view.y_true, members)
        found.append(cells)
        by[name] = {
            **_summary(sample, cells),
            "n_patients_fitted": min(int(fit.n_patients.min()) for fit in fits),
            "always_inside": any(bool(np.isinf(fit.limits).any()) for fit in fits),
        }
    return found, by


def _labels(parts: Sequence[CrossedPart], sample: Resampled, coverage: float) -> tuple[list[_Cells], dict[str, Any]]:
    rows = sample.rows
    sets, fits = np.zeros((*rows.logits.shape, 2), dtype=bool), []
    for part in parts:
        fit = fit_label_sets(part.source, applied=part.applied, seed=part.seed, coverage=coverage)
        sets[part.inside] = fit.sets(part.applied.logits)
        fits.append(fit)
    found, by = [], {}
    for k, name in enumerate(rows.labels):
        members = np.flatnonzero(~np.isnan(rows.targets[:, k]))
        cells = _Cells(sets[members, k], rows.targets[members, k].astype(np.int64), members)
        found.append(cells)
        by[name] = {
            **_summary(sample, cells),
            "coverage_present": _coverage(sample, cells.only(cells.truth == 1), "coverage_present"),
            "coverage_absent": _coverage(sample, cells.only(cells.truth == 0), "coverage_absent"),
            "undecided": float(cells.sets.all(axis=1).mean()) if len(members) else None,
            "n_patients_fitted": min(int(fit.n_patients[:, k].min()) for fit in fits),
            "always_inside": any(bool(np.isinf(fit.limits[:, k]).any()) for fit in fits),
        }
    return found, by

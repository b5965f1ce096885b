"""A whole table put right, each fold and seed by what was fitted on other patients.

One softmax over classes takes a temperature, a zone one of its own, labels Platt's lines with a shared slope or,
where the study allows it and a label has the patients for it, isotonic steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from archbench.artifacts import Predictions
from archbench.cross_fitting import CrossedPart, crossed_parts
from archbench.metrics.metric import Array
from archbench.metrics.scoring import scored_rows
from archbench.metrics.table_rows import distinct
from archbench.metrics.views import view_of
from archbench.out_of_fold import OutOfFold, fitting_problem
from archbench.recalibration import Isotonic, Platt, fit_isotonic, fit_platt
from archbench.temperature import Temperature, fit_temperature


class Calibrator(Protocol):
    """What was fitted for a fold and seed."""

    def log_odds(self, logits: Array) -> Array:
        """Return calibrated logits, (N, K) -> (N, K)."""
        ...


@dataclass(frozen=True)
class CalibratedPart:
    """A fold and seed whose rows, those to fit on and those to apply to, have calibrated logits.

    Attributes:
        part: The same with raw logits.
        calibrator: Fitted on the part's source.
        source: Rows of other patients, to fit what comes after calibration on.
        applied: The rows to apply it to.
    """

    part: CrossedPart
    calibrator: Calibrator
    source: OutOfFold
    applied: Predictions


@dataclass(frozen=True)
class Calibrated:
    """The scored rows after calibration.

    Attributes:
        method: temperature, platt, isotonic, or none (a number states no probabilities).
        reason: Why nothing was fitted, else None.
        parameters: What was fitted, by fold, seed and, where there are several, label.
        rows: Calibrated rows; None if nothing was fitted.
        parts: Folds and seeds with calibrated logits; empty for zones, which are calibrated one by one.
    """

    method: str
    reason: str | None
    parameters: list[dict[str, Any]]
    rows: Predictions | None
    parts: list[CalibratedPart]


def calibrated(predictions: Predictions, *, isotonic_patients: int | None = None) -> Calibrated:
    """Calibrate the scored rows, each fold and seed on rows of other patients.

    Args:
        predictions: All rows of one model or ensemble.
        isotonic_patients: Positive and negative patients from which a label takes isotonic steps; None allows none.
    """
    if predictions.outputs == "value":
        return Calibrated("none", "a regression states no probabilities", [], None, [])
    method = "temperature"
    if predictions.outputs == "labels":
        method = "platt" if isotonic_patients is None else "isotonic"
    problem = fitting_problem(predictions)
    if problem is not None:
        return Calibrated(method, problem, [], None, [])
    rows = scored_rows(predictions)
    if predictions.outputs == "zones":
        return _zones(predictions, rows)
    parts = [_fitted(part, isotonic_patients) for part in crossed_parts(predictions)]
    logits = np.full(rows.logits.shape, np.nan, dtype=np.float32)
    parameters: list[dict[str, Any]] = []
    for item in parts:
        logits[item.part.inside] = item.applied.logits
        parameters += _parameters(item)
    return Calibrated(method, None, parameters, rows.having(logits=logits), parts)


def _fitted(part: CrossedPart, isotonic_patients: int | None) -> CalibratedPart:
    calibrator: Calibrator
    if part.applied.outputs != "labels":
        calibrator = fit_temperature(part.source, applied=part.applied, seed=part.seed)
    elif isotonic_patients is None:
        calibrator = fit_platt(part.source, applied=part.applied, seed=part.seed)
    else:
        calibrator = fit_isotonic(part.source, applied=part.applied, seed=part.seed, min_patients=isotonic_patients)
    applied = part.applied.having(logits=calibrator.log_odds(part.applied.logits).astype(np.float32))
    return CalibratedPart(part, calibrator, part.source.rescored(calibrator.log_odds(part.source.rows.logits)), applied)


def _parameters(item: CalibratedPart) -> list[dict[str, Any]]:
    origin, found = item.part.origin(), item.calibrator
    if isinstance(found, Temperature):
        return [{**origin, "temperature": found.temperature}]
    assert isinstance(found, Platt | Isotonic)
    lines = found.platt if isinstance(found, Isotonic) else found
    patients = item.part.source.rows.patient_code
    known = ~np.isnan(item.part.source.rows.targets)
    result = []
    for k, label in enumerate(lines.labels):
        own = {"n_cases": int(lines.n_cases[k]), "n_patients": distinct(patients[known[:, k]])}
        fit: dict[str, Any] = {"slope": float(lines.slope[k]), "intercept": float(lines.intercept[k])}
        if isinstance(found, Isotonic):
            corners = found.steps[k]
            fit["reason"] = found.reasons[k]
            fit["steps"] = None if corners is None else [column.tolist() for column in corners]
        result.append({"label": label, **origin, **own, **fit})
    return result


def _zones(predictions: Predictions, rows: Predictions) -> Calibrated:
    """One temperature per zone, fold and seed; a zone that can't be fitted in a fold keeps its logits there."""
    divisor = np.ones(rows.logits.shape)
    width = rows.logits.shape[1] // len(rows.labels)
    parameters: list[dict[str, Any]] = []
    for group, name in enumerate(rows.labels):
        for part in crossed_parts(view_of(predictions, group)):
            found = fit_temperature(part.source, applied=part.applied, seed=part.seed)
            member = np.flatnonzero((rows.fold == part.fold) & (rows.seed == part.seed))
            divisor[np.ix_(member, np.arange(group * width, (group + 1) * width))] = found.temperature
            parameters.append({"label": name, **part.origin(), "temperature": found.temperature})
    if not parameters:
        return Calibrated("temperature", "no zone has rows of other patients to fit on", [], None, [])
    scaled = rows.having(logits=(rows.logits / divisor).astype(np.float32))
    return Calibrated("temperature", None, parameters, scaled, [])

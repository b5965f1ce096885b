"""What a deployed model is calibrated, thresholded and combined by, fitted on all out-of-fold rows.

The study's own figures come from fits that leave each case's fold out. New patients are in no fold, so here
every out-of-fold row counts; the rows still pass the gate that refuses in-sample predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.combining import one_blas_thread
from archbench.deployed_ensemble import (
    Recipe,
    combined_rows,
    known_rows,
    nobody,
    rows_of_seed,
    study_difference,
    uniform,
)
from archbench.metrics.views import whole_view
from archbench.out_of_fold import OutOfFold, fitting_problem
from archbench.recalibration import Isotonic, Platt, fit_isotonic, fit_platt
from archbench.temperature import fit_temperature
from archbench.thresholds import Rule, fit_cut_points, fit_thresholds
from archbench_predict.outputs import Task


def deployed_fits(
    tables: Mapping[str, Predictions],
    *,
    recipe: Recipe | None,
    seed: int,
    task: Task,
    rule: Rule,
    few: int,
    isotonic_patients: int | None = None,
    delivered: Predictions | None = None,
) -> dict[str, Any]:
    """Return combination, calibration, thresholds and cut points of bundle.json.

    Args:
        tables: Prediction table of each member, all folds and seeds.
        recipe: The ensemble's choice; None of a single model.
        seed: Training seed whose rows are fitted on.
        task: What the logits mean.
        rule: What a label's threshold is chosen for.
        few: Positive patients below which a label takes the global threshold.
        isotonic_patients: Positive and negative patients from which a label takes isotonic steps; None allows none.
        delivered: The ensemble's prediction table, which the combination is held against (key `study`).
    """
    import scipy.optimize  # noqa: F401  # brings a BLAS of its own, which the limit finds only once it is loaded

    with one_blas_thread():
        labels = task.labels if task.outputs == "labels" else ()
        reason = fitting_problem(next(iter(tables.values())))
        combination, source = uniform(len(tables)), None
        if reason is None and len(tables) == 1:
            source = rows_of_seed(next(iter(tables.values())), seed=seed)
        elif reason is None:
            assert recipe is not None
            source, combination = combined_rows(tables, recipe, seed=seed, task=task)
        result: dict[str, Any] = {"combination": combination, "cut_points": None, "thresholds": None}
        if recipe is not None and delivered is not None:
            result["study"] = study_difference(source, tables, combination, delivered, recipe, seed=seed, task=task)
        if source is None:
            halves = _half_thresholds(len(labels), str(reason)) if labels else None
            return {**result, "calibration": _uncalibrated(str(reason)), "thresholds": halves}
        result["calibration"] = deployed_calibration(source, seed=seed, isotonic_patients=isotonic_patients)
        if labels:
            result["thresholds"] = deployed_thresholds(
                source, seed=seed, rule=rule, few=few, isotonic_patients=isotonic_patients
            )
        if task.decision == "expected_grade" and task.outputs == "classes":
            result["cut_points"] = deployed_cut_points(source, result["calibration"]["temperature"], seed=seed)
        return result


def deployed_calibration(source: OutOfFold, *, seed: int, isotonic_patients: int | None = None) -> dict[str, Any]:
    """Return the calibration of bundle.json: a temperature, one per zone, or of each label Platt's line or steps.

    Args:
        source: Out-of-fold rows of the model, or of the ensemble as it is deployed.
        seed: Their training seed.
        isotonic_patients: As in `deployed_fits`.
    """
    rows = source.rows
    if rows.outputs == "value":
        return _uncalibrated("a regression states no probabilities")
    described = {
        "fitted_on": f"all {source.described} of seed {seed}",
        "n_cases": len(rows),
        "n_patients": len(np.unique(rows.patient_id)),
    }
    if rows.outputs == "labels":
        found = _fit_labels(source, seed=seed, isotonic_patients=isotonic_patients)
        line = found.platt if isinstance(found, Isotonic) else found
        fitted: dict[str, Any] = {"slope": line.slope.tolist(), "intercept": line.intercept.tolist()}
        if isinstance(found, Platt):
            return {"method": "platt", **fitted, **described}
        steps = [None if corners is None else [column.tolist() for column in corners] for corners in found.steps]
        return {"method": "isotonic", **fitted, "steps": steps, "reasons": list(found.reasons), **described}
    if rows.outputs == "zones":
        zones = [known_rows(source, whole_view(rows, group)) for group in range(len(rows.labels))]
        temperatures = [_temperature(one, seed) if len(one.rows) else 1.0 for one in zones]
        return {"method": "temperature", "temperature": temperatures, **described}
    return {"method": "temperature", "temperature": _temperature(source, seed), **described}


def _uncalibrated(reason: str) -> dict[str, Any]:
    """Return the calibration of bundle.json where nothing is fitted."""
    return {"method": "none", "reason": reason}


def _fit_labels(source: OutOfFold, *, seed: int, isotonic_patients: int | None) -> Platt | Isotonic:
    if isotonic_patients is None:
        return fit_platt(source, applied=nobody(source), seed=seed)
    return fit_isotonic(source, applied=nobody(source), seed=seed, min_patients=isotonic_patients)


def _temperature(source: OutOfFold, seed: int) -> float:
    return fit_temperature(source, applied=nobody(source), seed=seed).temperature


def deployed_thresholds(
    source: OutOfFold, *, seed: int, rule: Rule, few: int, isotonic_patients: int | None = None
) -> dict[str, Any]:
    """Return the thresholds of bundle.json for labels: chosen on calibrated rows as in the study, on raw log odds.

    Where none can be fitted they stand at .5, with the reason.
    """
    try:
        line = _fit_labels(source, seed=seed, isotonic_patients=isotonic_patients)
        calibrated = replace(source.rows, logits=line.log_odds(source.rows.logits).astype(np.float32))
        source = OutOfFold(rows=calibrated, group=source.group, crossed=source.crossed)
        found = fit_thresholds(source, applied=nobody(source), seed=seed, rule=rule, few=few)
    except ValueError as error:
        return _half_thresholds(len(source.rows.labels), str(error))
    raw = line.raw_logits(found.log_odds)
    falling = "calibration found that higher log odds are no more often right, so the label is called from 0 on"
    reasons = [falling if np.isnan(x) else reason for x, reason in zip(raw, found.reasons, strict=True)]
    value = rule.miss_cost if rule.kind == "cost" else rule.target
    return {
        "rule": rule.kind,
        "value": value,
        "on": "raw log odds",
        "log_odds": np.nan_to_num(raw).tolist(),
        "reasons": reasons,
    }


def _half_thresholds(n_labels: int, reason: str) -> dict[str, Any]:
    """Return thresholds at probability .5."""
    return {"rule": "half", "on": "raw log odds", "log_odds": [0.0] * n_labels, "reasons": [reason] * n_labels}


def deployed_cut_points(source: OutOfFold, temperature: float, *, seed: int) -> dict[str, Any]:
    """Return where one grade ends and the next begins on the calibrated mean grade, for the best QWK."""
    calibrated = source.rescored(source.rows.logits / temperature)
    cuts = fit_cut_points(calibrated, applied=nobody(calibrated), seed=seed).cuts
    return {"on": "calibrated mean grade", "for": "qwk", "cuts": cuts.tolist()}

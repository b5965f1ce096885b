"""What a deployed model is calibrated, thresholded and combined by, fitted on all out-of-fold rows.

The study's own figures come from fits that leave each case's fold out. New patients are in no fold, so here
every out-of-fold row counts; the rows still pass the gate that refuses in-sample predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.calibrated_mean import fit_calibrated_mean
from archbench.combining import Blend, fit_greedy, fit_weights
from archbench.label_stacking import fit_label_stacker
from archbench.members import member_logits, member_view, stack_members
from archbench.metrics.metric import Array
from archbench.metrics.views import is_grouped, whole_view
from archbench.out_of_fold import OutOfFold, cross_fitted, fitting_problem, fitting_source
from archbench.recalibration import fit_platt
from archbench.stacking import fit_stacker
from archbench.temperature import fit_temperature
from archbench.thresholds import Rule, fit_thresholds
from archbench_predict.outputs import Task, combine

BEST_BASE = "best base ("


def deployed_fits(
    tables: Mapping[str, Predictions],
    *,
    choice: str | None,
    seed: int,
    task: Task,
    rule: Rule,
    few: int,
) -> dict[str, Any]:
    """Return combination, calibration and thresholds of bundle.json.

    Args:
        tables: Prediction table of each member, all folds and seeds.
        choice: The ensemble's choice where there are several members.
        seed: Training seed whose rows are fitted on.
        task: What the logits mean.
        rule: What a label's threshold is chosen for.
        few: Positive patients below which a label takes the global threshold.
    """
    labels = task.labels if task.outputs == "labels" else ()
    reason = fitting_problem(next(iter(tables.values())))
    if reason is not None:
        return {
            "combination": _uniform(len(tables)),
            "calibration": _uncalibrated(reason),
            "thresholds": _half_thresholds(len(labels), reason) if labels else None,
        }
    if len(tables) == 1:
        source, combination = rows_of_seed(next(iter(tables.values())), seed=seed), _uniform(1)
    else:
        source, combination = combined_rows(tables, choice=str(choice), seed=seed, task=task)
    return {
        "combination": combination,
        "calibration": deployed_calibration(source, seed=seed),
        "thresholds": deployed_thresholds(source, seed=seed, rule=rule, few=few) if labels else None,
    }


def _uniform(n_members: int) -> dict[str, Any]:
    return {"kind": "single"} if n_members == 1 else {"kind": "mean", "weights": [1.0 / n_members] * n_members}


def rows_of_seed(predictions: Predictions, *, seed: int) -> OutOfFold:
    """Return all out-of-fold rows of one training seed.

    Raises:
        ValueError: If there are none, with the reason.
    """
    source = fitting_source(predictions)
    chosen = source.rows.seed == seed
    return OutOfFold(rows=source.rows.select(chosen), group=source.group[chosen], crossed=source.crossed)


def nobody(source: OutOfFold) -> Predictions:
    """Return the rows that a fit for deployment is applied to here: none, since its patients are still to come."""
    return source.rows.select(np.zeros(len(source.rows), dtype=bool))


def deployed_calibration(source: OutOfFold, *, seed: int) -> dict[str, Any]:
    """Return the calibration of bundle.json: a temperature, one per zone, or Platt's line per label.

    Args:
        source: Out-of-fold rows of the model, or of the ensemble as it is deployed.
        seed: Their training seed.
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
        line = fit_platt(source, applied=nobody(source), seed=seed)
        return {"method": "platt", "slope": line.slope.tolist(), "intercept": line.intercept.tolist(), **described}
    if rows.outputs == "zones":
        zones = [_known(source, whole_view(rows, group)) for group in range(len(rows.labels))]
        fitted = [_temperature(one, seed) if len(one.rows) else 1.0 for one in zones]
        return {"method": "temperature", "temperature": fitted, **described}
    return {"method": "temperature", "temperature": _temperature(source, seed), **described}


def _uncalibrated(reason: str) -> dict[str, Any]:
    """Return the calibration of bundle.json where nothing is fitted."""
    return {"method": "none", "reason": reason}


def _known(source: OutOfFold, rows: Predictions) -> OutOfFold:
    """The source with one label's or zone's view of its rows, those without a scored target left out."""
    known = ~np.isnan(rows.targets[:, 0])
    return OutOfFold(rows=rows.select(known), group=source.group[known], crossed=source.crossed)


def _temperature(source: OutOfFold, seed: int) -> float:
    return fit_temperature(source, applied=nobody(source), seed=seed).temperature


def deployed_thresholds(source: OutOfFold, *, seed: int, rule: Rule, few: int) -> dict[str, Any]:
    """Return the thresholds of bundle.json for labels: chosen on calibrated rows as in the study, on raw log odds.

    Where none can be fitted they stand at .5, with the reason.
    """
    try:
        line = fit_platt(source, applied=nobody(source), seed=seed)
        calibrated = replace(source.rows, logits=line.log_odds(source.rows.logits).astype(np.float32))
        source = OutOfFold(rows=calibrated, group=source.group, crossed=source.crossed)
        found = fit_thresholds(source, applied=nobody(source), seed=seed, rule=rule, few=few)
    except ValueError as error:
        return _half_thresholds(len(source.rows.labels), str(error))
    raw = line.raw_logits(found.log_odds)
    falling = "calibration found that higher log odds are no more often right, so the label is called from 0 on"
    reasons = [falling if np.isnan(x) else reason for x, reason in zip(raw, found.reasons, strict=True)]
    return {"rule": rule.kind, "on": "raw log odds", "log_odds": np.nan_to_num(raw).tolist(), "reasons": reasons}


def _half_thresholds(n_labels: int, reason: str) -> dict[str, Any]:
    """Return thresholds at probability .5."""
    return {"rule": "half", "on": "raw log odds", "log_odds": [0.0] * n_labels, "reasons": [reason] * n_labels}


def chosen_members(decision: Mapping[str, Any]) -> list[str]:
    """Return the models that an ensemble's choice needs: all members, or the one best base model.

    Raises:
        ValueError: If the choice is none that a bundle can hold.
    """
    choice = str(decision["choice"])
    if choice.startswith(BEST_BASE):
        return [choice.removeprefix(BEST_BASE).removesuffix(")")]
    back = [str(item["label"]) for item in decision.get("labels", ()) if item["choice"] != choice]
    if back:
        raise ValueError(
            f"the ensemble goes back to {decision['best_base']} for {', '.join(back)}, which a bundle can't hold yet; "
            "bundle one of its models"
        )
    if choice in ("mean", *_FITS):
        return [str(name) for name in decision["members"]]
    raise ValueError(
        f"the ensemble's choice is '{choice}', which a bundle can't hold yet (it can: best base, mean, "
        f"{', '.join(_FITS)}); bundle one of its models, or leave the candidate out of ensemble.candidates"
    )


def deployed_combination(source: OutOfFold, *, choice: str, n_members: int, seed: int) -> dict[str, Any]:
    """Return the combination of bundle.json, its weights fitted on these rows.

    Args:
        source: Stacked out-of-fold rows of the members.
        choice: mean, calibrated_mean, weighted, greedy or logistic.
    """
    if choice == "mean":
        return _uniform(n_members)
    return _FITS[choice](source, n_members, seed) | {"fitted_on": f"all {source.described} of seed {seed}"}


def _logistic(source: OutOfFold, n_members: int, seed: int) -> dict[str, Any]:
    """Ridge regression on the members' logits, for the classes or each zone; of labels the non-negative one."""
    if source.rows.outputs == "labels":
        labels = fit_label_stacker(source, applied=nobody(source), n_members=n_members, seed=seed)
        return {
            "kind": "linear",
            "fits": [{"weights": labels.weights.tolist(), "intercept": labels.intercept.tolist()}],
        }
    fits = []
    for one in _groups(source, n_members, split=is_grouped(source.rows)):
        stacker = fit_stacker(one, applied=nobody(one), n_members=n_members, seed=seed)
        arrays = {name: getattr(stacker, name).tolist() for name in ("centre", "scale", "intercept", "coefficients")}
        fits.append({"slope": stacker.slope, **arrays, "strength": stacker.strength})
    return {"kind": "logistic", "fits": fits}


def _blended(fit: Callable[..., Blend]) -> Callable[[OutOfFold, int, int], dict[str, Any]]:
    """One weight per member, for each zone; of labels the same for all."""

    def combination(source: OutOfFold, n_members: int, seed: int) -> dict[str, Any]:
        fits = []
        for one in _groups(source, n_members, split=source.rows.outputs == "zones"):
            weights = fit(one, applied=nobody(one), n_members=n_members, seed=seed).weights
            width = one.rows.logits.shape[1] // n_members
            per_column = np.repeat(weights[:, None], width, axis=1)
            fits.append({"weights": per_column.tolist(), "intercept": [0.0] * width})
        return {"kind": "linear", "fits": fits}

    return combination


def _groups(source: OutOfFold, n_members: int, *, split: bool) -> list[OutOfFold]:
    """The source as it is, or each label or zone of it."""
    if not split:
        return [source]
    return [_known(source, member_view(source.rows, k, n_members)) for k in range(len(source.rows.labels))]


def _calibrated_mean(source: OutOfFold, n_members: int, seed: int) -> dict[str, Any]:
    """Each member's own scale, for each zone; of labels a line of each label."""
    fits = []
    for one in _groups(source, n_members, split=source.rows.outputs == "zones"):
        found = fit_calibrated_mean(one, applied=nobody(one), n_members=n_members, seed=seed)
        fits.append({"weights": found.weights.tolist(), "intercept": found.intercept.tolist()})
    return {"kind": "linear", "fits": fits}


_FITS: dict[str, Callable[[OutOfFold, int, int], dict[str, Any]]] = {
    "calibrated_mean": _calibrated_mean,
    "weighted": _blended(fit_weights),
    "greedy": _blended(fit_greedy),
    "logistic": _logistic,
}


def combined_rows(
    tables: Mapping[str, Predictions], *, choice: str, seed: int, task: Task
) -> tuple[OutOfFold, dict[str, Any]]:
    """Return the ensemble's out-of-fold rows as it is deployed, and its combination.

    Each group of patients is combined by weights fitted on the others, so that calibration sees what new patients
    will get; the combination itself is fitted on all of them.
    """
    source = rows_of_seed(stack_members(tables), seed=seed)
    n_members = len(tables)

    def combined(others: OutOfFold, applied: Predictions) -> Array:
        combination = deployed_combination(others, choice=choice, n_members=n_members, seed=seed)
        return combine(member_logits(applied, n_members), combination, task)

    logits = cross_fitted(source, combined).astype(np.float32)
    rows = replace(source.rows, logits=logits, classes=next(iter(tables.values())).classes)
    rated = OutOfFold(rows=rows, group=source.group, crossed=source.crossed)
    return rated, deployed_combination(source, choice=choice, n_members=n_members, seed=seed)

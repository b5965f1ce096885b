"""An ensemble as it is deployed: the choice of decision.json fitted on all out-of-fold rows, and held to the study's.

The study fits for each fold on the other folds; new patients are in no fold, so a deployed ensemble is fitted on all.
What the runner makes of the study's own rows, by fits that leave their fold out, must be the study's predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.calibrated_mean import (
    CalibratedMean,
    fit_calibrated_greedy,
    fit_calibrated_mean,
    fit_calibrated_weights,
)
from archbench.combining import fit_gate
from archbench.label_stacking import fit_label_stacker
from archbench.members import member_logits, member_view, stack_members
from archbench.metrics.metric import Array
from archbench.metrics.views import is_grouped
from archbench.neural_stacking import NetworkSettings, fit_network
from archbench.out_of_fold import OutOfFold, cross_fitted, fitting_source
from archbench.stacking import fit_stacker
from archbench_predict.outputs import Task, combine

BEST_BASE = "best base ("


@dataclass(frozen=True)
class Recipe:
    """How an ensemble is combined.

    Attributes:
        choice: As decision.json calls it.
        members: Models that it needs: all of them, or the one best base model.
        fallback: The member that some labels or zones go back to; "" where none does.
        fallen_back: These labels or zones.
        folds: Folds of which the study's own choice was the same.
        network: How the candidate `mlp` is trained.
    """

    choice: str
    members: tuple[str, ...]
    fallback: str = ""
    fallen_back: tuple[str, ...] = ()
    folds: tuple[int, ...] = ()
    network: NetworkSettings = field(default_factory=NetworkSettings)


def recipe_of(decision: Mapping[str, Any], network: NetworkSettings | None = None) -> Recipe:
    """Return the recipe that decision.json states.

    Raises:
        ValueError: If the choice is none that a bundle can hold.
    """
    choice = str(decision["choice"])
    alone = choice.startswith(BEST_BASE)
    if not alone and choice not in ("mean", *_FITS):
        raise ValueError(
            f"the ensemble's choice is '{choice}', which a bundle can't hold (it can: best base, mean, "
            f"{', '.join(_FITS)}): was decision.json written by another version?"
        )
    members = [choice.removeprefix(BEST_BASE).removesuffix(")")] if alone else decision["members"]
    back = () if alone else tuple(str(x["label"]) for x in decision.get("labels", ()) if x["choice"] != choice)
    folds = [
        int(entry["fold"])
        for entry in decision.get("per_fold_choice", ())
        if entry["choice"] == choice and (alone or set(entry["fell_back"]) == set(back))
    ]
    return Recipe(
        choice=choice,
        members=tuple(map(str, members)),
        fallback=str(decision["best_base"]) if back else "",
        fallen_back=back,
        folds=tuple(folds),
        network=network or NetworkSettings(),
    )


def uniform(n_members: int) -> dict[str, Any]:
    """Return the combination of bundle.json in which nothing is fitted."""
    return {"kind": "single"} if n_members == 1 else {"kind": "mean", "weights": [1.0 / n_members] * n_members}


def rows_of_seed(predictions: Predictions, *, seed: int) -> OutOfFold:
    """Return all out-of-fold rows of one training seed.

    Raises:
        ValueError: If there are none, with the reason.
    """
    return fitting_source(predictions).of_seed(seed)


def nobody(source: OutOfFold) -> Predictions:
    """Return the rows that a fit for deployment is applied to here: none, since its patients are still to come."""
    return source.rows.select(np.zeros(len(source.rows), dtype=bool))


def known_rows(source: OutOfFold, rows: Predictions) -> OutOfFold:
    """The source with one label's or zone's view of its rows, those without a scored target left out."""
    known = ~np.isnan(rows.targets[:, 0])
    return OutOfFold(rows=rows.select(known), group=source.group[known], crossed=source.crossed)


def deployed_combination(source: OutOfFold, recipe: Recipe, *, seed: int) -> dict[str, Any]:
    """Return the combination of bundle.json, fitted on these rows.

    Args:
        source: Stacked out-of-fold rows of the members.
        recipe: What was chosen.
        seed: Training seed of the rows.
    """
    n_members = len(recipe.members)
    result = uniform(n_members)
    if recipe.choice in _FITS:
        result = _FITS[recipe.choice](source, n_members, seed, recipe.network)
        result |= {"fitted_on": f"all {source.described} of seed {seed}"}
    if recipe.fallen_back:
        groups = [source.rows.labels.index(label) for label in recipe.fallen_back]
        result["fallback"] = {"member": recipe.members.index(recipe.fallback), "groups": groups}
    return result


def combined_rows(
    tables: Mapping[str, Predictions], recipe: Recipe, *, seed: int, task: Task
) -> tuple[OutOfFold, dict[str, Any]]:
    """Return the ensemble's out-of-fold rows as it is deployed, and its combination.

    Each group of patients is combined by what was fitted on the others, so that calibration sees what new patients
    will get; the combination itself is fitted on all of them.
    """
    source, n_members = rows_of_seed(stack_members(tables), seed=seed), len(tables)

    def combined(others: OutOfFold, applied: Predictions) -> Array:
        fitted = deployed_combination(others, recipe, seed=seed)
        return combine(member_logits(applied, n_members), fitted, task)

    logits = cross_fitted(source, combined).astype(np.float32)
    rows = replace(source.rows, logits=logits, classes=next(iter(tables.values())).classes)
    rated = OutOfFold(rows=rows, group=source.group, crossed=source.crossed)
    return rated, deployed_combination(source, recipe, seed=seed)


def study_difference(
    rated: OutOfFold | None,
    tables: Mapping[str, Predictions],
    combination: Mapping[str, Any],
    delivered: Predictions,
    recipe: Recipe,
    *,
    seed: int,
    task: Task,
) -> dict[str, Any]:
    """Hold the runner's combination against the study's own predictions of the ensemble.

    Only folds whose own choice was that of all rows can agree: elsewhere the study combined otherwise.

    Args:
        rated: Rows combined by fits that left their group out; None where nothing can be fitted.
        delivered: The ensemble's prediction table.
    Returns:
        How many predictions of how many folds were compared, and the largest difference of a probability (of a
        value: relative above 1); None where none could be.
    """
    said: dict[tuple[str, str], Array] = {}
    if rated is not None:
        said |= _by_case(rated.rows, task.probabilities(rated.rows.logits))
    if (
        rated is None or not rated.crossed
    ):  # what was fitted on the validation part is applied to the test part as it is
        stacked = stack_members(tables)
        rest = stacked.select(stacked.seed == seed)
        rest = rest.test if len(rest.test) else rest.val
        said |= _by_case(rest, task.probabilities(combine(member_logits(rest, len(tables)), combination, task)))
    theirs = delivered.select((delivered.seed == seed) & np.isin(delivered.fold, recipe.folds))
    meant = _by_case(theirs, task.probabilities(theirs.logits))
    gaps = [np.abs(said[key] - meant[key]) / np.maximum(1.0, np.abs(meant[key])) for key in said if key in meant]
    return {
        "n_predictions": len(gaps),
        "folds": list(recipe.folds),
        "max_probability_difference": float(np.max(gaps)) if gaps else None,
    }


def _by_case(rows: Predictions, values: Array) -> dict[tuple[str, str], Array]:
    return dict(zip(zip(rows.case_id.tolist(), rows.split.tolist(), strict=True), values, strict=True))


# What is fitted, by the ensemble's choice


def _groups(source: OutOfFold, n_members: int, *, split: bool) -> list[OutOfFold]:
    """The source as it is, or each label or zone of it."""
    if not split:
        return [source]
    return [known_rows(source, member_view(source.rows, k, n_members)) for k in range(len(source.rows.labels))]


Fit = Callable[[OutOfFold, int, int, NetworkSettings], dict[str, Any]]


def _logistic(source: OutOfFold, n_members: int, seed: int, network: NetworkSettings) -> dict[str, Any]:
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


def _each(kind: str, fit: Callable[[OutOfFold, int, int, NetworkSettings], dict[str, Any]]) -> Fit:
    """What is fitted for each zone; for classes and for labels together once."""

    def combination(source: OutOfFold, n_members: int, seed: int, network: NetworkSettings) -> dict[str, Any]:
        parts = _groups(source, n_members, split=source.rows.outputs == "zones")
        return {"kind": kind, "fits": [fit(one, n_members, seed, network) for one in parts]}

    return combination


def _scaled(fit: Callable[..., CalibratedMean]) -> Fit:
    """Calibrated members, weighed alike or by fitted weights: of labels a line of each label."""

    def weights(one: OutOfFold, n_members: int, seed: int, network: NetworkSettings) -> dict[str, Any]:
        found = fit(one, applied=nobody(one), n_members=n_members, seed=seed)
        return {"weights": found.weights.tolist(), "intercept": found.intercept.tolist()}

    return _each("linear", weights)


def _gate(one: OutOfFold, n_members: int, seed: int, network: NetworkSettings) -> dict[str, Any]:
    found = fit_gate(one, applied=nobody(one), n_members=n_members, seed=seed)
    return {name: getattr(found, name) for name in ("centre", "scale", "coefficients")}


def _layers(one: OutOfFold, n_members: int, seed: int, network: NetworkSettings) -> dict[str, Any]:
    found = fit_network(one, applied=nobody(one), n_members=n_members, seed=seed, settings=network)
    arrays = {"centre": found.centre, "scale": found.scale}
    for k, (weights, bias) in enumerate(found.layers):
        arrays |= {f"weights{k}": weights, f"bias{k}": bias}
    return arrays


_FITS: dict[str, Fit] = {
    "calibrated_mean": _scaled(fit_calibrated_mean),
    "weighted": _scaled(fit_calibrated_weights),
    "greedy": _scaled(fit_calibrated_greedy),
    "logistic": _logistic,
    "attention": _each("attention", _gate),
    "mlp": _each("network", _layers),
}

"""What decision.json holds: every candidate with its score, the choice, the reason, and the gain label by label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from archbench.adoption import LabelChoice, Trial, gain_over
from archbench.artifacts import Predictions
from archbench.ensemble_choice import Choice, Measured, Setting, base_table
from archbench.metrics.auroc import metric_at_cut
from archbench.metrics.metric import defined_or_none
from archbench.metrics.scoring import Scores, frozen_questions, score
from archbench.metrics.views import is_grouped
from archbench.statistics import Estimate, estimate

DELIVERED = "ensemble as delivered"
OF_CLASSES = "auroc_macro"  # of the gain class by class: a class has no other metric of its own


def decision_record(
    choice: Choice,
    per_fold: list[tuple[int, Choice]],
    *,
    basis: Predictions,
    measured: Mapping[str, Measured],
    delivered: Measured,
    diagnostics: list[str],
    setting: Setting,
) -> dict[str, Any]:
    """Return the content of decision.json without provenance.

    Args:
        choice: On all rows.
        per_fold: The nested choice of each fold.
        basis: Stacked rows that were chosen on.
        measured: The best member and each candidate's cross-fitted predictions on these rows.
        delivered: The predictions that are handed on, on the same rows.
        diagnostics: Signs of a wrong stack.
        setting: What all choices share.
    """
    return {
        "primary": setting.metric.name,
        "candidates": [_candidate_record(trial, setting) for trial in choice.adoption.trials],
        "choice": choice.shown,
        "reason": choice.reason,
        "members": list(setting.stack.members),
        "base_models": [_base_record(name, basis, measured, setting) for name in setting.stack.members],
        "skipped": [{"name": name, "reason": reason} for name, reason in (choice.skipped or {}).items()],
        "labels": [_label_record(item) for item in choice.labels],
        "improvement": _improvement(choice.best_base, {**measured, DELIVERED: delivered}, setting),
        "per_fold_choice": [
            {"fold": fold, "choice": found.shown, "reason": found.reason, "fell_back": list(found.fallen_back)}
            for fold, found in per_fold
        ],
        "diagnostics": diagnostics,
        "best_base": choice.best_base,
    }


def _candidate_record(trial: Trial, setting: Setting) -> dict[str, Any]:
    return {
        "name": trial.name,
        **_value_record(trial.scores, setting),
        "gain": None if trial.gain is None else _gain_record(trial.gain),
        "against": trial.against,
        "adopted": trial.adopted,
        "reason": trial.reason,
    }


def _base_record(name: str, basis: Predictions, measured: Mapping[str, Measured], setting: Setting) -> dict[str, Any]:
    found = measured.get(name) or setting.measured(base_table(basis, name, setting))
    return {"name": name, **_value_record(found.scores, setting)}


def _value_record(scores: Scores, setting: Setting) -> dict[str, Any]:
    found = estimate(scores, confidence=setting.confidence, bounds=setting.metric.bounds)
    return {
        "value": defined_or_none(found.value),
        "low": defined_or_none(found.low),
        "high": defined_or_none(found.high),
    }


def _gain_record(gain: Estimate) -> dict[str, Any]:
    return {
        "value": defined_or_none(gain.value),
        "low90": defined_or_none(gain.low),
        "high90": defined_or_none(gain.high),
    }


def _label_record(item: LabelChoice) -> dict[str, Any]:
    return {"label": item.label, "choice": item.choice, "gain": _gain_record(item.gain), "reason": item.reason}


def _improvement(best_base: str, measured: Mapping[str, Measured], setting: Setting) -> dict[str, Any] | None:
    """Gain of each candidate over the best member on each label, zone or class; None where there is only a number."""
    outputs = measured[best_base].table.outputs
    if outputs == "value":
        return None
    base = part_scores(measured[best_base], setting)
    grouped = is_grouped(measured[best_base].table)
    better = setting.metric.greater_is_better or not grouped
    return {
        "metric": setting.metric.name if grouped else OF_CLASSES,
        "of": {"labels": "label", "zones": "zone"}.get(outputs, "class"),
        "base": best_base,
        "labels": list(base),
        "base_values": [defined_or_none(scores.point) for scores in base.values()],
        "candidates": [
            {"name": name, **_gains(part_scores(found, setting), base, greater_is_better=better)}
            for name, found in measured.items()
            if name != best_base
        ],
    }


def _gains(mine: Mapping[str, Scores], base: Mapping[str, Scores], *, greater_is_better: bool) -> dict[str, Any]:
    gains = [gain_over(mine[name], base[name], greater_is_better=greater_is_better) for name in base]
    return {
        "gains": [_gain_record(gain) for gain in gains],
        "n_improved": sum(bool(gain.value > 0) for gain in gains),
        "n_surely_improved": sum(bool(gain.low > 0) for gain in gains),
        "n_surely_worse": sum(bool(gain.high < 0) for gain in gains),
    }


def part_scores(found: Measured, setting: Setting) -> Mapping[str, Scores]:
    """Return the scores of each label or zone in the primary metric, or of each class in AUROC against the rest.

    Classes with too few patients on a side are left out, as everywhere.
    """
    predictions = found.table
    if is_grouped(predictions):
        return found.labels
    auroc = metric_at_cut(OF_CLASSES, 1)
    frozen = frozen_questions(predictions, auroc)
    names = predictions.classes[-1:] if len(frozen) == 1 else predictions.classes
    alone = np.eye(len(frozen), dtype=bool)  # the macro mean over one class is that class
    return {
        name: score(predictions, auroc, setting.drawn.patients, setting.drawn.weights, mask)
        for name, mask, counts in zip(names, alone, frozen, strict=True)
        if counts
    }

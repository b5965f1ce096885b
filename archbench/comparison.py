"""Paired comparison of all models of a dataset: the content of comparison.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np

from archbench.artifacts import Predictions
from archbench.auroc_tests import delong_p_values, has_delong
from archbench.intervals import interval_of
from archbench.metrics.auroc import metric_at_cut
from archbench.metrics.drawn import Drawn
from archbench.metrics.metric import Array, defined_or_none
from archbench.metrics.scoring import Scores, frozen_questions, score, scored_rows
from archbench.proportions import no_proportion, settled
from archbench.significance import tied_with
from archbench.statistics import (
    FEW_PATIENTS,
    Estimate,
    bootstrap_p_value,
    difference,
    estimate,
    holm,
    patient_weights,
    ranks,
    seed_standard_error,
    widening,
)
from archbench.verdicts import default_delta, verdict

EQUIVALENCE_CONFIDENCE = 0.90


class Direction(Protocol):
    """What a comparison has to know of a metric."""

    @property
    def greater_is_better(self) -> bool:
        """Whether more is better."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible value."""


def compare(
    models: Mapping[str, Predictions],
    *,
    primary: str,
    resamples: int,
    confidence: float,
    seed: int,
    delta: float | None = None,
    clinical_cut: int = 2,
) -> dict[str, Any]:
    """Compare every pair on the primary metric with the same patient resamples.

    Args:
        models: Prediction table of each model, the ensemble included; the same cases, folds and classes.
        delta: Margin of equivalence; None takes the metric's own.
    Returns:
        The content of comparison.json without its provenance; models best first. Where the primary metric is an
        AUROC, `p_delong` of a pair is the cross-check by clustered DeLong: uncorrected, for these seeds.
    Raises:
        ValueError: If the tables don't hold the same cases.
    """
    rows = {name: scored_rows(table).sorted() for name, table in models.items()}
    _check_same_cases(rows)
    metric = metric_at_cut(primary, clinical_cut)
    reference = next(iter(rows.values()))
    drawn = patient_weights(reference.patient_id, strata=reference.fold, resamples=resamples, seed=seed)
    scores = {name: score(table, metric, drawn.patients, drawn.weights) for name, table in rows.items()}
    found = compare_scores(
        scores,
        primary=primary,
        metric=metric,
        confidence=confidence,
        delta=delta,
        estimates={
            name: interval_of(Drawn(table, drawn.patients, drawn.weights), metric, scores[name], confidence=confidence)
            for name, table in rows.items()
        },
        warnings=_warnings(rows, scores, len(drawn.patients)),
    )
    if has_delong(metric, reference):
        p_values = delong_p_values(rows, metric, frozen_questions(reference, metric))
        for pair in found["pairs"]:
            pair["p_delong"] = defined_or_none(p_values[pair["a"], pair["b"]])
    return found


def compare_scores(
    scores: Mapping[str, Scores],
    *,
    primary: str,
    metric: Direction,
    confidence: float,
    delta: float | None = None,
    estimates: Mapping[str, Estimate] | None = None,
    warnings: list[str],
) -> dict[str, Any]:
    """Compare every pair of models by scores that share their patient resamples.

    Args:
        scores: Of each model, drawn with the same weights.
        primary: Name of the metric.
        estimates: The models' values with their intervals; None takes percentiles.
        warnings: What was noticed before; what the ranks lack is added.
    Returns:
        As `compare`.
    """
    margin = default_delta(primary) if delta is None else delta
    ordered = sorted(scores, key=lambda name: (_order(scores[name].point, metric), name))
    return {
        "primary": primary,
        "delta": margin,
        "greater_is_better": metric.greater_is_better,
        "models": _ranked(
            ordered, scores, metric=metric, confidence=confidence, estimates=estimates or {}, warnings=warnings
        ),
        "pairs": _pairs(ordered, scores, metric=metric, confidence=confidence, delta=margin),
        "best": ordered[0],
        "warnings": warnings,
    }


def _check_same_cases(rows: Mapping[str, Predictions]) -> None:
    if not rows:
        raise ValueError("there are no models to compare")
    (first, reference), *others = rows.items()
    for name, table in others:
        if table.classes != reference.classes:
            raise ValueError(f"{name} has the classes {table.classes}, {first} has {reference.classes}")
        same = len(table) == len(reference) and all(
            np.array_equal(getattr(table, field), getattr(reference, field))
            for field in ("case_id", "patient_id", "fold", "seed")
        )
        same = same and np.array_equal(table.targets, reference.targets, equal_nan=True)
        if not same:
            raise ValueError(f"{name} and {first} were not tested on the same cases, folds, seeds and targets")


def _order(value: float, metric: Direction) -> float:
    """Sort key: best first, undefined last."""
    if np.isnan(value):
        return np.inf
    return -value if metric.greater_is_better else value


def _warnings(rows: Mapping[str, Predictions], scores: Mapping[str, Scores], n_patients: int) -> list[str]:
    warnings = []
    if not any((table.split == "test").any() for table in rows.values()):
        warnings.append("selected and reported on the same cases: the comparison favours what overfits them")
    if len(next(iter(scores.values())).points) == 1:
        warnings.append("one training seed: seed variance was not estimated, verdicts hold for these trained models")
    if n_patients < FEW_PATIENTS:
        warnings.append(f"only {n_patients} patients: below {FEW_PATIENTS} bootstrap tests reject too often")
    undefined = [name for name, found in scores.items() if np.isnan(found.point)]
    if undefined:
        warnings.append(f"the primary metric is undefined for {', '.join(undefined)}: ranked last, not compared")
    return warnings


def _ranked(
    ordered: list[str],
    scores: Mapping[str, Scores],
    *,
    metric: Direction,
    confidence: float,
    estimates: Mapping[str, Estimate],
    warnings: list[str],
) -> list[dict[str, Any]]:
    found = {name: estimates.get(name) or _percentiles(scores[name], metric, confidence) for name in ordered}
    compared = [name for name in ordered if not np.isnan(scores[name].point)]
    placed = _ranks(compared, scores, metric=metric, confidence=confidence, warnings=warnings)
    ties = tied_with({name: scores[name].mean_draws for name in compared})
    empty: dict[str, Any] = {
        "mean_rank": None,
        "rank_low": None,
        "rank_high": None,
        "p_rank1": None,
        "rank_shares": None,
    }
    return [
        {
            "model": name,
            "value": defined_or_none(found[name].value),
            "low": defined_or_none(found[name].low),
            "high": defined_or_none(found[name].high),
            "reason": found[name].reason,
            **placed.get(name, empty),
            "tied_with": ties.get(name, []),
        }
        for name in ordered
    ]


def _percentiles(scores: Scores, metric: Direction, confidence: float) -> Estimate:
    """None where every resample gives the same value: that is no interval."""
    return settled(estimate(scores, confidence=confidence, bounds=metric.bounds), no_proportion, confidence=confidence)


def _ranks(
    compared: list[str],
    scores: Mapping[str, Scores],
    *,
    metric: Direction,
    confidence: float,
    warnings: list[str],
) -> dict[str, dict[str, Any]]:
    """Ranks over the resamples in which every compared model is defined."""
    if not compared:
        return {}
    draws = np.stack([_widened_draws(scores[name]) for name in compared])
    kept = ~np.isnan(draws).any(axis=0)
    if not kept.all():
        warnings.append(f"ranks: {int((~kept).sum())} of {len(kept)} resamples left the primary metric undefined")
    if not kept.any():
        return {}
    found = ranks(draws[:, kept], greater_is_better=metric.greater_is_better, confidence=confidence)
    return {
        name: {
            "mean_rank": float(found.mean[k]),
            "rank_low": float(found.low[k]),
            "rank_high": float(found.high[k]),
            "p_rank1": float(found.first[k]),
            "rank_shares": {f"{place:g}": share for place, share in found.shares[k].items()},
        }
        for k, name in enumerate(compared)
    }


def _widened_draws(scores: Scores) -> Array:
    """Draws (B,), spread about the point for the variance between seeds."""
    draws = scores.mean_draws
    defined = draws[~np.isnan(draws)]
    spread = float(defined.std(ddof=1)) if len(defined) > 1 else 0.0
    factor = widening(se_patients=spread, se_seeds=seed_standard_error(scores.points))
    return scores.point + factor * (draws - scores.point) if factor != 1.0 else draws


@dataclass(frozen=True)
class _Pair:
    a: str
    b: str
    scores: Scores


def _pairs(
    ordered: list[str], scores: Mapping[str, Scores], *, metric: Direction, confidence: float, delta: float
) -> list[dict[str, Any]]:
    """Every pair, the better one first; p values corrected over all pairs."""
    pairs = [_Pair(a=a, b=b, scores=difference(scores[a], scores[b])) for a, b in combinations(ordered, 2)]
    raw = np.array([bootstrap_p_value(pair.scores) for pair in pairs])
    corrected = holm(raw)
    return [
        _pair_record(pair, p=p, p_holm=p_holm, metric=metric, confidence=confidence, delta=delta)
        for pair, p, p_holm in zip(pairs, raw, corrected, strict=True)
    ]


def _pair_record(
    pair: _Pair, *, p: float, p_holm: float, metric: Direction, confidence: float, delta: float
) -> dict[str, Any]:
    outer = estimate(pair.scores, confidence=confidence)
    inner = estimate(pair.scores, confidence=EQUIVALENCE_CONFIDENCE)
    sign = 1.0 if metric.greater_is_better else -1.0
    low, high = sorted((sign * inner.low, sign * inner.high))
    words = verdict(
        gain=sign * outer.value, significant=bool(p_holm < 1.0 - confidence), inner=(low, high), delta=delta
    )
    return {
        "a": pair.a,
        "b": pair.b,
        "difference": defined_or_none(outer.value),
        "low": defined_or_none(outer.low),
        "high": defined_or_none(outer.high),
        "low90": defined_or_none(inner.low),
        "high90": defined_or_none(inner.high),
        "p": defined_or_none(p),
        "p_holm": defined_or_none(p_holm),
        "verdict": words,
    }

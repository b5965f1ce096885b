"""Scores of given masks per patient, with intervals: the content of summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from archbench.mask_measurement import CaseResult, tools
from archbench.metrics.metric import Array, defined_or_none, mean_defined, ratio
from archbench.metrics.scoring import Scores
from archbench.metrics.segmentation import MASK_METRICS, MaskScores
from archbench.proportions import no_proportion, settled
from archbench.resampling import mean_draws
from archbench.statistics import FEW_PATIENTS, estimate, metric_record, patient_weights, wilson_interval

ALL = "all labels"  # mean over the labels that are defined in a case


def case_values(results: Sequence[CaseResult], tool: str, structure: str, metric: str) -> Array:
    """Return a metric of each case, shape (N,), NaN where undefined; of `ALL` the mean over defined structures."""
    rows = [result.scores[tool] for result in results]
    names = list(rows[0]) if structure == ALL else [structure]
    return mean_defined(np.array([[row[name].values[metric] for name in names] for row in rows], dtype=float))


def structures_of(results: Sequence[CaseResult]) -> list[str]:
    """Names of the scored structures, their mean first if there are several."""
    names = list(next(iter(results[0].scores.values())))
    return [ALL, *names] if len(names) > 1 else names


@dataclass(frozen=True)
class PatientDraws:
    """Scored masks grouped by patient, and how often each resample draws each patient.

    Attributes:
        rows: Patient of each mask, shape (N,).
        weights: Shape (P, B).
        cases: Number of each mask's case, shape (N,); several seeds have masks of the same case.
        seeds: Training seed of each mask, shape (N,).
    """

    rows: Array
    weights: Array
    cases: Array
    seeds: Array

    def of_seeds(self) -> list[Array]:
        """Return which masks each seed drew, boolean, shape (N,) each."""
        return [self.seeds == seed for seed in np.unique(self.seeds)]


def draw_patients(
    results: Sequence[CaseResult], *, resamples: int, seed: int, folds: Mapping[str, int] | None = None
) -> PatientDraws:
    """Draw the resamples that all tools and metrics share.

    Args:
        folds: Fold in which each case was tested; patients are drawn fold by fold.
    """
    patients = np.array([result.patient for result in results])
    strata = np.array([(folds or {}).get(result.case, 0) for result in results])
    drawn = patient_weights(patients, strata=strata, resamples=resamples, seed=seed)
    return PatientDraws(
        rows=np.searchsorted(drawn.patients, patients),
        weights=drawn.weights.T.astype(np.float64),
        cases=np.unique([result.case for result in results], return_inverse=True)[1],
        seeds=np.array([result.seed for result in results]),
    )


def patient_scores(values: Array, drawn: PatientDraws) -> Scores:
    """Return the mean over patients of their mean over cases, of each seed, as points and for every resample."""
    points, draws = [], []
    for of_seed in drawn.of_seeds():
        of_patients = patient_means(np.where(of_seed, values, np.nan), drawn)
        points.append(mean_defined(of_patients))
        draws.append(mean_draws(of_patients, drawn.weights, np.arange(len(of_patients))))
    return Scores(points=np.array(points), draws=np.stack(draws))


def patient_means(values: Array, drawn: PatientDraws) -> Array:
    """Return each patient's mean over the masks with a value, shape (P,)."""
    defined = ~np.isnan(values)
    sums = np.bincount(drawn.rows[defined], weights=values[defined], minlength=len(drawn.weights))
    return ratio(sums, np.bincount(drawn.rows[defined], minlength=len(drawn.weights)))


def summarise(
    results: Sequence[CaseResult], *, failed: Mapping[str, int], total: int, drawn: PatientDraws, confidence: float
) -> dict[str, Any]:
    """Return success, metrics and detection of each tool.

    Args:
        failed: Cases of each tool that can't be scored because of its own files or the truth's.
        total: Cases that were to be scored. A case that fails for one tool is left out of all, so that they are
            compared on the same cases.
    """
    return {tool: _summary_of(results, tool, failed.get(tool, 0), total, drawn, confidence) for tool in tools(results)}


def _summary_of(
    results: Sequence[CaseResult], tool: str, failed: int, total: int, drawn: PatientDraws, confidence: float
) -> dict[str, Any]:
    return {
        "total": total,
        "successful": total - failed,
        "success_rate": (total - failed) / total,
        "scored": len({result.case for result in results}),
        "structures": {
            name: {
                metric: case_record(case_values(results, tool, name, metric), metric, drawn, confidence)
                for metric in MASK_METRICS
            }
            for name in structures_of(results)
        },
        "detection": {
            name: _detection([result.scores[tool][name] for result in results], drawn, confidence)
            for name in results[0].scores[tool]
        },
    }


def case_record(values: Array, metric: str, drawn: PatientDraws, confidence: float) -> dict[str, Any]:
    """Return the mean over patients with its interval, spread and extremes over masks, and how many have no value.

    Args:
        values: One per mask, shape (N,), NaN where undefined.
    """
    defined = values[~np.isnan(values)]
    found = estimate(patient_scores(values, drawn), confidence=confidence, bounds=MASK_METRICS[metric].bounds)
    found = settled(found, no_proportion, confidence=confidence)
    n_patients = int((~np.isnan(patient_means(values, drawn))).sum())
    record = metric_record(
        metric,
        found,
        n_cases=len(np.unique(drawn.cases[~np.isnan(values)])),
        n_patients=n_patients,
        undefined_reason="undefined in every case: see the reasons in per_case.csv",
    )
    spread: dict[str, float | None] = {"sd": None, "min": None, "median": None, "max": None}
    if len(defined):
        spread = {
            "sd": float(defined.std(ddof=1)) if len(defined) > 1 else None,
            "min": float(defined.min()),
            "median": float(np.median(defined)),
            "max": float(defined.max()),
        }
    return {**record, **spread, "undefined_cases": len(values) - len(defined)}


def _detection(scores: Sequence[MaskScores], drawn: PatientDraws, confidence: float) -> dict[str, Any]:
    """Which masks are empty: the counts, the shares with intervals, and the sizes of false positives."""
    true = np.array([score.truth_size > 0 for score in scores])
    said = np.array([score.predicted_size > 0 for score in scores])
    sizes = [score.predicted_size for score, wrong in zip(scores, said & ~true, strict=True) if wrong]
    return {
        "true_positive": int((true & said).sum()),
        "false_negative": int((true & ~said).sum()),
        "false_positive": len(sizes),
        "true_negative": int((~true & ~said).sum()),
        "sensitivity": _share(np.where(true, said, np.nan), drawn, confidence, "no truth holds this structure"),
        "specificity": _share(np.where(~true, ~said, np.nan), drawn, confidence, "no truth is empty"),
        "false_positive_sizes": sizes,
        "mean_false_positive_size": float(np.mean(sizes)) if sizes else None,
    }


def _share(hits: Array, drawn: PatientDraws, confidence: float, reason: str) -> dict[str, Any]:
    """Share of the cases, averaged over seeds, with its interval from resampled patients.

    Wilson's where each patient has one case, and, with one observation per patient, where every draw is the same:
    a share of 1 is not certain.
    """
    n = len(np.unique(drawn.cases[~np.isnan(hits)]))
    if not n:
        return {"value": None, "low": None, "high": None, "n_cases": 0, "reason": reason}
    parts = [np.where(of_seed, hits, np.nan) for of_seed in drawn.of_seeds()]
    shares = np.array([mean_defined(part) for part in parts])
    share = float(shares.mean())
    draws = np.stack([mean_draws(part, drawn.weights, drawn.rows) for part in parts])
    found = estimate(Scores(shares, draws), confidence=confidence, bounds=(0.0, 1.0))
    low, high = found.low, found.high
    n_patients = len(np.unique(drawn.rows[~np.isnan(hits)]))
    if n_patients == n or low == high:
        low, high = wilson_interval(share * n_patients, n_patients, confidence)
    return {"value": share, "low": defined_or_none(low), "high": defined_or_none(high), "n_cases": n, "reason": None}


def tool_scores(
    results: Sequence[CaseResult], *, structure: str, metric: str, drawn: PatientDraws
) -> dict[str, Scores]:
    """Return the scores of each tool, on the same resamples, ready to be compared."""
    return {tool: patient_scores(case_values(results, tool, structure, metric), drawn) for tool in tools(results)}


@dataclass(frozen=True)
class Example:
    """A mask to be looked at: the best, the median or the worst of a tool by its Dice."""

    tool: str
    kind: str
    case: str
    seed: int
    dice: float


def examples(results: Sequence[CaseResult]) -> list[Example]:
    """Return best, median and worst case of each tool by Dice; fewer where fewer cases have one."""
    found = []
    for tool in tools(results):
        values = case_values(results, tool, structures_of(results)[0], "dice")
        order = [k for k in np.argsort(-values, kind="stable").tolist() if not np.isnan(values[k])]
        places = {"best": 0, "median": len(order) // 2, "worst": len(order) - 1} if order else {}
        shown: set[int] = set()
        for kind, place in places.items():
            if order[place] not in shown:
                shown.add(order[place])
                shown_one = results[order[place]]
                found.append(Example(tool, kind, shown_one.case, shown_one.seed, float(values[order[place]])))
    return found


def warnings_of(results: Sequence[CaseResult], *, n_patients: int, patients_given: bool) -> list[str]:
    """What a reader must know before trusting the numbers."""
    warnings = []
    if n_patients < FEW_PATIENTS:
        warnings.append(f"only {n_patients} patients: below {FEW_PATIENTS} bootstrap tests reject too often")
    if not patients_given and len({result.case for result in results}) > 1:
        warnings.append("no table of patients was given: each case counts as a patient of its own")
    return warnings

"""The gate before anything is timed or deployed: does the exported network answer as torch does?

First logit by logit on real images at several batch sizes; then on the whole validation set, by the primary
metric, its paired difference with resampled patients, and the decisions that change.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.image_cache import unit_of
from archbench.metrics.metric import Metric
from archbench.metrics.scoring import Scores, score
from archbench.metrics.views import decided, is_grouped
from archbench.onnx_runner import ExportedNetwork
from archbench.statistics import difference, estimate, patient_weights

SMALL_BATCHES = (1, 2, 3)
IMAGES = 64
RTOL, ATOL = 1e-3, 1e-4
NOT_FINITE = "the export's logits are not finite"
CONFIDENCE = 0.90  # two-sided: its lower end is a one-sided bound of 95 %


@dataclass(frozen=True)
class Comparison:
    """What the metric gate compares by.

    Attributes:
        metric: The primary metric.
        margin: Largest loss that still passes, in the metric's unit.
        resamples, seed: Of the patients.
    """

    metric: Metric
    margin: float
    resamples: int
    seed: int


def gate_batches(network: ExportedNetwork, batch_sizes: Sequence[int]) -> list[int]:
    """Return the batch sizes to compare: 1, 2, 3 and the largest; of fixed ones those that there are."""
    return network.fixed_batches or sorted({*SMALL_BATCHES, max(batch_sizes)})


def compare_logits(
    network: ExportedNetwork,
    images: np.ndarray,
    rows: np.ndarray,
    expected: np.ndarray,
    *,
    batch_sizes: Sequence[int],
    exact: bool = True,
) -> dict[str, Any]:
    """Compare an export's logits with torch's at each batch size.

    Args:
        images: The image cache.
        rows: Validation rows, at least one; 64 are compared, or as many as fill a larger batch, or all.
        expected: Torch's logits of `rows`, shape (N, K).
        exact: Ask for |difference| <= ATOL + RTOL · |logit|; a lower precision is only measured.
    """
    found = []
    for batch_size in batch_sizes:
        n = min(len(rows), max(IMAGES, batch_size))
        got = network.logits(images, rows[:n], batch_size=batch_size)
        gap = np.abs(got - expected[:n])
        found.append(
            {
                "batch_size": batch_size,
                "n_images": n,
                "max_abs_difference": _finite(gap.max()),
                "max_rel_difference": _finite((gap / np.maximum(np.abs(expected[:n]), 1e-6)).max()),
                "passed": bool((gap <= ATOL + RTOL * np.abs(expected[:n])).all()) if exact else None,
            }
        )
        print(f"parity at batch {batch_size}: {gap.max():.1e} on {n} {unit_of(images)}", file=sys.stderr, flush=True)
    passed = all(item["passed"] for item in found) if exact else None
    tolerance = {"rtol": RTOL, "atol": ATOL} if exact else None
    return {"tolerance": tolerance, "batches": found, "passed": passed}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def compare_quality(reference: Predictions, logits: np.ndarray, comparison: Comparison) -> dict[str, Any]:
    """Compare an export with torch on the whole validation set, patients resampled in pairs.

    Args:
        reference: Torch's predictions of one part of one fold; cases without a known target are left out.
        logits: The export's, in the same order.
    Returns:
        The metric of both, the oriented difference (below 0: the export is worse) with its 90 % interval, whether
        its lower end stays above -margin (None where undefined, with the reason), and the changed decisions.
    """
    metric = comparison.metric
    changed = replace(reference, logits=logits)
    known, known_changed = reference.known(), changed.known()
    result = quality_record(metric.name, comparison, known.patient_id)
    if not np.isfinite(logits).all():
        return result | _undefined(NOT_FINITE, non_inferior=False)
    result["flips"], result["n_decisions"] = count_flips(reference, changed)
    if not len(known):
        return result | _undefined("no validation case has a known target")
    drawn = patient_weights(known.patient_id, strata=known.fold, resamples=comparison.resamples, seed=comparison.seed)
    export, torch = (score(table, metric, drawn.patients, drawn.weights) for table in (known_changed, known))
    undefined = f"{metric.name}: {metric.undefined_reason}"
    return result | judged(export, torch, comparison, greater_is_better=metric.greater_is_better, undefined=undefined)


def quality_record(metric: str, comparison: Comparison, patients: np.ndarray) -> dict[str, Any]:
    """Return what is known of a comparison before anything is scored, undefined so far.

    Args:
        patients: Patient of each case, shape (N,).
    """
    return {
        "metric": metric,
        "margin": comparison.margin,
        "confidence": CONFIDENCE,
        "n_cases": len(patients),
        "n_patients": len(np.unique(patients)),
        "flips": None,
        "n_decisions": 0,
        **_undefined(""),
    }


def judged(
    export: Scores, torch: Scores, comparison: Comparison, *, greater_is_better: bool, undefined: str
) -> dict[str, Any]:
    """Return the export's value, torch's, and whether their difference stays above -margin.

    Args:
        undefined: Why there may be no difference.
    """
    signed = difference(export, torch) if greater_is_better else difference(torch, export)
    found = estimate(signed, confidence=CONFIDENCE)
    if np.isnan(found.low):
        return _undefined(found.reason or undefined)
    return {
        "value": export.point,
        "reference": torch.point,
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "non_inferior": bool(found.low > -comparison.margin),
        "reason": None,
    }


def _undefined(reason: str, *, non_inferior: bool | None = None) -> dict[str, Any]:
    values = dict.fromkeys(("value", "reference", "difference", "low", "high"))
    return {**values, "non_inferior": non_inferior, "reason": reason}


def count_flips(first: Predictions, second: Predictions) -> tuple[int | None, int]:
    """Return how many decisions differ and how many there are; None for a number, of which nothing is decided.

    Decided as the task does: likeliest class or rounded mean grade; of labels, at a probability of one half.
    """
    if first.outputs == "value":
        return None, 0
    if not is_grouped(first):
        return int((first.decisions != second.decisions).sum()), len(first)
    before, after = decided(first)[0], decided(second)[0]
    return int((before != after).sum()), before.size


def quality_problem(quality: dict[str, Any]) -> str | None:
    """Return why a variant's quality doesn't pass, or None if it is shown to be non-inferior."""
    if quality["non_inferior"]:
        return None
    if quality["reason"] is not None:
        return f"not shown to be as good: {quality['reason']}"
    return (
        f"{quality['metric']} {quality['value']:.3f} against {quality['reference']:.3f} of torch: the difference "
        f"{quality['difference']:+.3f} may be as low as {quality['low']:+.3f}, margin {quality['margin']:g}"
    )


def parity_problem(parity: dict[str, Any]) -> str | None:
    """Return where logits differ from torch's by more than the tolerance, or None."""
    failed = [item for item in parity["batches"] if item["passed"] is False]
    if not failed:
        return None
    worst = max(failed, key=lambda item: item["max_abs_difference"] or np.inf)
    gap = worst["max_abs_difference"]
    by = "are not finite" if gap is None else f"differ from torch's by up to {gap:.1e}"
    return f"logits {by} at batch {worst['batch_size']} (allowed: {ATOL:g} + {RTOL:g} of the logit)"

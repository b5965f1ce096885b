"""Tools or models whose masks are compared: metrics, detection, paired tests, in the form that the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from archbench.comparison import compare_scores
from archbench.mask_evaluation import draw_patients, structures_of, summarise, tool_scores
from archbench.mask_measurement import CaseResult, size_unit, tools
from archbench.metrics.segmentation import MASK_METRICS


@dataclass(frozen=True)
class Resampling:
    """How intervals and tests are made.

    Attributes:
        resamples, comparison_resamples: Patient draws of intervals, and of tests.
        confidence: Level of the intervals.
        delta: Margin of equivalence in Dice; None: the default.
        folds: Fold in which each case was tested; None draws all patients together.
    """

    resamples: int
    comparison_resamples: int
    confidence: float
    seed: int
    delta: float | None = None
    folds: Mapping[str, int] | None = None

    def settings(self) -> dict[str, Any]:
        """Return what a summary says of them."""
        return {
            "confidence": self.confidence,
            "resamples": self.resamples,
            "comparison_resamples": self.comparison_resamples,
            "seed": self.seed,
        }


def mask_summary(
    results: Sequence[CaseResult],
    drawing: Resampling,
    *,
    failed: Mapping[str, int],
    total: int,
    apart: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what summary.json says of the scores, and of every pair by structure and metric.

    Args:
        failed: Cases of each tool that can't be scored because of its own files or the truth's.
        total: Cases that were to be scored.
        apart: Models that were told something of the truth: scored, but neither ranked nor tested against others.
    """
    left_out = set(apart) if set(apart) < set(tools(results)) else set()  # alone they may be compared
    drawn = draw_patients(results, resamples=drawing.resamples, seed=drawing.seed, folds=drawing.folds)
    structures = structures_of(results)
    pairs = compare_all(results, structures, drawing, left_out=left_out)
    primary = pairs[structures[0]]["dice"]
    return {
        "n_cases": len({result.case for result in results}),
        "folds": sorted(set((drawing.folds or {}).values())),
        "seeds": sorted({result.seed for result in results}),
        "n_patients": len(drawn.weights),
        "size_unit": size_unit(results),
        "structures": structures,
        "order": [*(row["model"] for row in primary["models"]), *sorted(left_out)],
        "apart": sorted(left_out),
        "models": summarise(results, failed=failed, total=total, drawn=drawn, confidence=drawing.confidence),
        "comparison": {"dice": primary},
        "pairs": {of: {name: found["pairs"] for name, found in by.items()} for of, by in pairs.items()},
        "warnings": list(primary["warnings"]),
    }


def compare_all(
    results: Sequence[CaseResult], structures: Sequence[str], drawing: Resampling, *, left_out: Set[str] = frozenset()
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return every pair of tools by structure and metric, on the same resampled patients.

    Args:
        left_out: Tools that are not compared.
    """
    drawn = draw_patients(results, resamples=drawing.comparison_resamples, seed=drawing.seed, folds=drawing.folds)
    return {
        structure: {
            name: compare_scores(
                {
                    tool: scores
                    for tool, scores in tool_scores(results, structure=structure, metric=name, drawn=drawn).items()
                    if tool not in left_out
                },
                primary=name,
                metric=metric,
                confidence=drawing.confidence,
                delta=drawing.delta,
                warnings=[],
            )
            for name, metric in MASK_METRICS.items()
        }
        for structure in structures
    }

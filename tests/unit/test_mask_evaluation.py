"""Intervals of mask metrics from redrawn patients."""

from __future__ import annotations

import numpy as np
import pytest

from archbench.mask_evaluation import case_record, draw_patients
from archbench.mask_measurement import CaseResult
from archbench.metrics.segmentation import score_mask

TRUTH = np.zeros((8, 8), dtype=bool)
TRUTH[2:6, 2:6] = True


def results(masks: list[np.ndarray]) -> list[CaseResult]:
    found = []
    for index, mask in enumerate(masks):
        score = score_mask(TRUTH, mask, spacing_mm=(1.0, 1.0), tolerance_mm=1.0)
        found.append(CaseResult(f"case{index}", f"patient{index}", 2, {"tool": {"nodule": score}}))
    return found


def dice_record(masks: list[np.ndarray]) -> dict[str, object]:
    cases = results(masks)
    drawn = draw_patients(cases, resamples=200, seed=1)
    values = np.array([case.scores["tool"]["nodule"].values["dice"] for case in cases])
    return case_record(values, "dice", drawn, 0.95)


@pytest.mark.parametrize(("mask", "dice"), [(np.zeros_like(TRUTH), 0.0), (TRUTH, 1.0)])
def test_a_structure_never_or_perfectly_found_is_not_certain_to_stay_so(mask: np.ndarray, dice: float) -> None:
    record = dice_record([mask] * 5)
    assert record["value"] == dice
    assert record["low"] is None and record["high"] is None
    assert "every resample" in str(record["reason"])


def test_cases_that_differ_have_an_interval() -> None:
    half = TRUTH.copy()
    half[4:] = False
    record = dice_record([TRUTH, half, TRUTH, half, half])
    assert record["low"] is not None and float(str(record["low"])) < float(str(record["value"]))

"""The metric gate: what an export may lose, in which direction, and when nothing can be said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from archbench.artifacts import Predictions
from archbench.parity import Comparison, compare_quality, count_flips, quality_problem
from archbench.registry import METRICS

CLASSES = ("none", "mild", "severe")


def table(n: int = 120, *, outputs: str = "classes") -> Predictions:
    """Torch's predictions of n images of n/2 patients, mostly right."""
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 3, n)
    logits, targets, metadata = rng.normal(0, 1, (n, 3)), y_true[:, None].astype(float), {"decision": "expected_grade"}
    logits[np.arange(n), y_true] += 2.5
    names: tuple[str, ...] = ("grade",)
    if outputs == "labels":
        targets, names, metadata = (rng.random((n, 3)) < 0.4).astype(float), CLASSES, {"outputs": "labels"}
        logits = 2 * targets - 1 + rng.normal(0, 1, (n, 3))
    if outputs == "value":
        logits, targets, metadata = logits[:, :1], logits[:, :1] + rng.normal(0, 0.1, (n, 1)), {"outputs": "value"}
    return Predictions(
        case_id=np.array([f"case{i:03d}" for i in range(n)]),
        patient_id=np.array([f"patient{i // 2:03d}" for i in range(n)]),
        split=np.full(n, "val"),
        fold=np.zeros(n, np.int64),
        seed=np.full(n, 42),
        logits=logits.astype(np.float32),
        targets=targets,
        classes=CLASSES if outputs != "value" else ("value",),
        labels=names,
        metadata=metadata,
    )


def compared_by(metric: str, margin: float = 0.02) -> Comparison:
    return Comparison(METRICS.get(metric), margin, resamples=400, seed=0)


@pytest.mark.parametrize(
    ("outputs", "metric"), [("classes", "qwk"), ("classes", "auroc_macro"), ("labels", "auroc_macro"), ("value", "mae")]
)
def test_an_export_with_torchs_logits_passes(outputs: str, metric: str) -> None:
    rows = table(outputs=outputs)
    found = compare_quality(rows, rows.logits + 1e-6, compared_by(metric))
    assert found["non_inferior"] and found["reason"] is None and quality_problem(found) is None
    assert found["difference"] == pytest.approx(0, abs=1e-5) and found["n_patients"] == 60
    assert (found["flips"], found["n_decisions"]) == {"classes": (0, 120), "labels": (0, 360), "value": (None, 0)}[
        outputs
    ]


def test_noise_in_the_logits_fails_and_says_by_how_much() -> None:
    rows = table()
    noisy = rows.logits + np.random.default_rng(1).normal(0, 2, rows.logits.shape).astype(np.float32)
    found = compare_quality(rows, noisy, compared_by("qwk"))
    assert not found["non_inferior"] and found["low"] < found["difference"] < -0.02
    assert found["flips"] == (rows.decisions != replace(rows, logits=noisy).decisions).sum() > 10
    assert "margin 0.02" in str(quality_problem(found)) and f"{found['value']:.3f} against" in str(
        quality_problem(found)
    )
    assert compare_quality(rows, noisy, compared_by("qwk", margin=1.0))["non_inferior"]


def test_of_an_error_more_is_worse() -> None:
    rows = table(outputs="value")
    worse = compare_quality(rows, rows.logits + 1.0, compared_by("mae"))
    better = compare_quality(rows, rows.targets.astype(np.float32), compared_by("mae"))
    assert worse["difference"] < -0.5 and not worse["non_inferior"]
    assert better["difference"] > 0 and better["non_inferior"]


def test_what_can_not_be_said_is_no_pass() -> None:
    few = table(12)
    found = compare_quality(few, few.logits, compared_by("auroc_macro"))
    assert found["non_inferior"] is None and found["value"] is None and found["reason"]
    assert "not shown to be as good" in str(quality_problem(found))
    unknown = replace(few, targets=np.full((12, 1), np.nan))
    assert compare_quality(unknown, few.logits, compared_by("qwk"))["reason"] == "no validation case has a known target"


def test_logits_that_are_not_finite_fail() -> None:
    rows = table()
    broken = rows.logits.copy()
    broken[7, 1] = np.nan
    found = compare_quality(rows, broken, compared_by("qwk"))
    assert found["non_inferior"] is False and "not finite" in str(quality_problem(found))


def test_flips_of_labels_are_counted_cell_by_cell() -> None:
    rows = table(outputs="labels")
    changed = rows.logits.copy()
    changed[3, 0] *= -1
    changed[5] *= -1
    assert count_flips(rows, replace(rows, logits=changed)) == (4, 360)

"""Proportions of 0 and 1: the interval has a width, and what no resample changes has none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from label_tables import label_table
from planted import planted
from scipy.stats import binomtest

from archbench.evaluation import evaluate

SETTINGS = {"resamples": 200, "confidence": 0.95, "seed": 0}
GRADE_METRICS = {"metrics": ("qwk", "accuracy", "off_by_two"), "primary": "qwk"}
LABEL_METRICS = ("f1_macro", "precision_macro", "precision_micro", "recall_micro", "specificity_macro", "exact_match")


def wilson(successes, n):
    found = binomtest(successes, n).proportion_ci(method="wilson")
    return found.low, found.high


def f1_of(overlap):
    """F1 = 2 TP / (2 TP + wrong) of the overlap TP / (TP + wrong)."""
    return 2 * overlap / (1 + overlap)


def right(rows):
    """The same rows with every class called rightly."""
    logits = 8.0 * np.eye(5, dtype=np.float32)[rows.y_true] - 4.0
    return replace(rows, logits=logits, metadata={})


def test_all_cases_right_leaves_the_share_of_patients_uncertain():
    rows = right(planted(patients=60))
    found = evaluate(rows, **GRADE_METRICS, **SETTINGS)["metrics"]
    assert found["accuracy"]["method"] == "wilson" and "60 patients" in found["accuracy"]["reason"]
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == pytest.approx(wilson(60, 60))
    assert (found["off_by_two"]["low"], found["off_by_two"]["high"]) == pytest.approx(wilson(0, 60))


def test_what_is_no_proportion_has_no_interval_then():
    found = evaluate(right(planted(patients=60)), **GRADE_METRICS, **SETTINGS)["metrics"]["qwk"]
    assert found["value"] == 1.0 and found["low"] is None and found["method"] == "none"
    assert "every resample of the patients gives the same value" in found["reason"]


def test_a_class_is_called_rightly_by_as_many_patients_as_it_is_called_for():
    rows = planted(patients=60, skill=1.0)
    logits = rows.logits.copy()
    logits[:, 4] = np.where(rows.y_true == 4, 9.0, -9.0)  # the last class is never mistaken, the others are
    rows = replace(rows, logits=logits, metadata={})
    found = evaluate(rows, metrics=("accuracy",), primary="accuracy", **SETTINGS)
    n = len(np.unique(rows.patient_id[rows.y_true == 4]))
    last = found["per_class"]["proliferative"]["precision"]
    assert last["value"] == 1.0 and (last["low"], last["high"]) == pytest.approx(wilson(n, n))
    assert found["metrics"]["accuracy"]["method"] == "percentile"


def test_an_f1_of_one_rests_on_the_patients_of_its_class():
    rows = right(planted(patients=60))
    found = evaluate(rows, metrics=("macro_f1",), primary="macro_f1", **SETTINGS)
    patients = [len(np.unique(rows.patient_id[rows.y_true == k])) for k in range(5)]
    lows = [f1_of(wilson(n, n)[0]) for n in patients]
    of_class = [found["per_class"][name]["f1"] for name in rows.classes]
    assert [record["low"] for record in of_class] == pytest.approx(lows)
    assert all(record["method"] == "wilson" and record["high"] == pytest.approx(1.0) for record in of_class)
    assert found["metrics"]["macro_f1"]["low"] == pytest.approx(np.mean(lows))


def test_labels_by_themselves_pooled_and_on_average():
    rows = label_table(n=200)
    wide = replace(rows, logits=np.where(rows.targets == 1, 5.0, -5.0).astype(np.float32))
    found = evaluate(wide, metrics=LABEL_METRICS, primary="f1_macro", **SETTINGS)

    def patients(mask):
        return len(np.unique(rows.patient_id[mask]))

    labels = [patients(rows.targets[:, k] == 1) for k in range(3)]
    for name, n in zip(rows.labels, labels, strict=True):
        own = found["per_class"][name]["precision"]
        assert own["method"] == "wilson" and own["low"] == pytest.approx(wilson(n, n)[0])
        assert found["per_class"][name]["f1"]["low"] == pytest.approx(f1_of(wilson(n, n)[0]))
    metrics = found["metrics"]
    assert metrics["precision_macro"]["low"] == pytest.approx(np.mean([wilson(n, n)[0] for n in labels]))
    pooled = patients((rows.targets == 1).any(axis=1))
    assert metrics["precision_micro"]["low"] == pytest.approx(wilson(pooled, pooled)[0])
    assert metrics["recall_micro"]["low"] == pytest.approx(wilson(pooled, pooled)[0])
    everyone = patients(slice(None))
    assert metrics["exact_match"]["low"] == pytest.approx(wilson(everyone, everyone)[0])
    assert metrics["f1_macro"]["low"] == pytest.approx(np.mean([f1_of(wilson(n, n)[0]) for n in labels]))
    assert "overlap" in metrics["f1_macro"]["reason"] and metrics["specificity_macro"]["high"] == 1.0

"""The content of metrics.json: averaging, undefined values, warnings, curves."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from planted import cohort, holdout, noisy_logits, planted, table
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from archbench.artifacts import softmax
from archbench.evaluation import evaluate
from archbench.tasks import TASKS

ORDINAL = {
    "metrics": TASKS["ordinal"].metrics,
    "primary": "qwk",
    "resamples": 300,
    "confidence": 0.95,
    "seed": 0,
}


def test_values_agree_with_sklearn_by_fold_and_seed():
    predictions = planted(seeds=(1, 2))
    found = evaluate(predictions, **ORDINAL)
    kappas, aurocs = [], []
    for seed in (1, 2):
        rows = predictions.select(predictions.seed == seed)
        predicted = rows.logits.argmax(axis=1)
        kappas.append(cohen_kappa_score(rows.y_true, predicted, labels=range(5), weights="quadratic"))
        for fold in range(5):
            part = rows.select(rows.fold == fold)
            aurocs.append(roc_auc_score(part.y_true, softmax(part.logits), multi_class="ovr", labels=range(5)))
    assert found["metrics"]["qwk"]["value"] == pytest.approx(np.mean(kappas), abs=1e-12)
    assert found["metrics"]["auroc_macro"]["value"] == pytest.approx(np.mean(aurocs), abs=1e-12)
    assert found["seed_sd"]["qwk"] == pytest.approx(np.std(kappas, ddof=1), abs=1e-12)
    assert found["standard_errors"]["qwk"]["seeds"] == pytest.approx(np.std(kappas, ddof=1) / np.sqrt(2))
    by_fold = [entry["metrics"]["auroc_macro"] for entry in found["per_fold"]]
    np.testing.assert_allclose(by_fold, aurocs, atol=1e-12)


def test_every_interval_holds_its_value_and_the_file_is_valid_json():
    found = evaluate(planted(), **ORDINAL)
    records = [*found["metrics"].values()]
    records += [record for group in found["per_class"].values() for key, record in group.items() if key != "support"]
    for record in records:
        assert record["low"] <= record["value"] <= record["high"], record
        assert (record["n_cases"], record["n_patients"]) == (300, 150)
    json.dumps(found, allow_nan=False)
    assert list(found["metrics"]) == list(TASKS["ordinal"].metrics)
    assert np.sum(found["confusion_matrix"]) == 300
    assert sum(group["support"] for group in found["per_class"].values()) == 300


def test_order_of_rows_does_not_matter():
    predictions = planted(seeds=(1, 2), patients=60)
    shuffled = predictions.select(np.random.default_rng(0).permutation(len(predictions)))
    first, second = evaluate(predictions, **ORDINAL), evaluate(shuffled, **ORDINAL)
    assert first["confusion_matrix"] == second["confusion_matrix"]
    for name, record in first["metrics"].items():
        other = second["metrics"][name]
        assert (record["value"], record["low"]) == pytest.approx((other["value"], other["low"]), abs=1e-12)


def test_one_seed_is_said_and_has_no_seed_variance():
    found = evaluate(planted(patients=60), **ORDINAL)
    assert any("seed variance was not estimated" in text for text in found["warnings"])
    assert found["seed_sd"]["qwk"] is None
    assert not any("seed variance" in text for text in evaluate(planted(seeds=(1, 2)), **ORDINAL)["warnings"])


def test_few_patients_and_reporting_on_selected_cases_are_said():
    few = evaluate(planted(patients=24, folds=2), **ORDINAL)
    assert any("only 24 patients" in text for text in few["warnings"])
    flagged = evaluate(planted(), selected_and_reported=True, **ORDINAL)
    assert any("selected and reported on the same cases" in text for text in flagged["warnings"])
    only_val = evaluate(planted(split="val"), **ORDINAL)
    assert any("selected and reported on the same cases" in text for text in only_val["warnings"])


def test_test_rows_are_reported_where_there_are_some():
    predictions = holdout()
    assert evaluate(predictions, **ORDINAL)["n_cases"] == len(predictions.test)


def absent_grade():
    case_id, patient_id, fold, y_true = cohort()
    y_true[y_true == 3] = 2
    logits = noisy_logits(y_true, skill=2.0, rng=0)
    logits[:, 3] -= 50
    return table(case_id, patient_id, fold, y_true, logits)


def test_an_absent_class_is_null_with_a_reason():
    found = evaluate(absent_grade(), **ORDINAL)
    for name, reason in (
        ("auroc", "no fold"),
        ("f1", "neither"),
        ("recall", "no case"),
        ("precision", "never"),
    ):
        record = found["per_class"]["severe"][name]
        assert record["value"] is None and record["low"] is None and reason in record["reason"]
    assert any("macro F1 leaves out" in text and "severe" in text for text in found["warnings"])
    assert any("macro AUROC leaves out" in text and "severe" in text for text in found["warnings"])
    assert found["metrics"]["auroc_macro"]["value"] is not None
    assert "severe" not in found["roc"]


def test_auroc_without_enough_patients_is_null_not_half():
    case_id, patient_id, fold, _ = cohort(patients=30, folds=2)
    y_true = np.zeros(len(case_id), int)
    found = evaluate(table(case_id, patient_id, fold, y_true, noisy_logits(y_true, skill=0, rng=0)), **ORDINAL)
    for name in ("auroc_macro", "auroc_clinical_cut"):
        assert found["metrics"][name]["value"] is None and found["metrics"][name]["reason"]
    assert {entry["metrics"]["auroc_macro"] for entry in found["per_fold"]} == {None}


def test_a_class_that_some_folds_lack_says_how_many_count():
    case_id, patient_id, fold, y_true = cohort()
    y_true[(y_true == 4) & (fold == 0)] = 3
    predictions = table(case_id, patient_id, fold, y_true, noisy_logits(y_true, skill=1.5, rng=0))
    found = evaluate(predictions, **ORDINAL)
    assert any("proliferative: mean over the 4 of 5 folds" in text for text in found["warnings"])
    assert found["per_class"]["proliferative"]["auroc"]["value"] is not None


def test_unknown_targets_are_left_out():
    predictions = planted(patients=60)
    predictions.targets[:3] = np.nan
    assert evaluate(predictions, **ORDINAL)["n_cases"] == 117


def test_mean_roc_curve_has_the_mean_area():
    found = evaluate(planted(patients=600), **ORDINAL)
    for name, curve in found["roc"].items():
        assert len(curve["fpr"]) == len(curve["tpr"]) == 101
        assert (np.diff(curve["tpr"]) >= 0).all() and curve["tpr"][0] == 0 and curve["tpr"][-1] == 1
        area = np.trapezoid(curve["tpr"], curve["fpr"])
        assert area == pytest.approx(found["per_class"][name]["auroc"]["value"], abs=0.01)


def test_a_perfect_model_is_perfect():
    predictions = planted()
    perfect = replace(predictions, logits=(20 * np.eye(5)[predictions.y_true]).astype(np.float32))
    found = evaluate(perfect, **ORDINAL)["metrics"]
    assert found["qwk"]["value"] == 1 and found["auroc_macro"]["value"] == 1 and found["off_by_two"]["value"] == 0


def test_clinical_cut_is_used():
    predictions = planted(patients=60)
    at = {cut: evaluate(predictions, clinical_cut=cut, **ORDINAL)["metrics"]["auroc_clinical_cut"] for cut in (2, 4)}
    assert at[2]["value"] != at[4]["value"]


def test_six_hundred_cases_take_less_than_two_seconds():
    predictions = planted(patients=300)
    start = time.perf_counter()
    evaluate(predictions, **{**ORDINAL, "resamples": 2000})
    assert time.perf_counter() - start < 2.0

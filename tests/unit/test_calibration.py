"""Temperatures recover what was planted; measures before and after; protocols without a fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import cohort, holdout, noisy_logits, planted, table

from archbench.artifacts import softmax
from archbench.calibrated import calibrated
from archbench.calibration import calibrate, null_floor, reliability_bins
from archbench.temperature import minimise_log_loss

SETTINGS = {"resamples": 300, "confidence": 0.95, "seed": 0}


def temperatures(predictions):
    """Fitted temperatures, by seed and fold."""
    return calibrated(predictions).parameters


def calibrated_table(*, scale=1.0, patients=400, rng=0):
    """Truth drawn from the model's own probabilities: perfectly calibrated at scale 1."""
    case_id, patient_id, fold, _ = cohort(patients=patients)
    generator = np.random.default_rng(rng)
    logits = 1.5 * generator.normal(size=(len(case_id), 5))
    y_true = (softmax(logits).cumsum(axis=1) < generator.random(len(case_id))[:, None]).sum(axis=1)
    return table(case_id, patient_id, fold, y_true, scale * logits)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_planted_temperature_is_recovered_in_every_fold(scale):
    found = temperatures(calibrated_table(scale=scale))
    assert [item["fold"] for item in found] == [0, 1, 2, 3, 4]
    for item in found:
        assert item["temperature"] == pytest.approx(scale, rel=0.2)
        assert str(item["fold"]) not in item["fitted_on"].split("folds")[1]
        assert item["n_patients"] == 320


def test_temperature_is_the_least_log_loss():
    predictions = planted(skill=4.0)
    best = minimise_log_loss(predictions.logits, predictions.y_true)

    def loss(temperature):
        of_truth = softmax(predictions.logits / temperature)[np.arange(len(predictions)), predictions.y_true]
        return -np.log(of_truth).mean()

    assert loss(best) <= min(loss(t) for t in np.geomspace(best / 3, best * 3, 201)) + 1e-9


def test_rows_of_a_fold_dont_move_their_own_temperature():
    predictions = planted()
    changed = replace(predictions, logits=predictions.logits.copy())
    changed.logits[changed.fold == 2] *= -5
    before, after = temperatures(predictions), temperatures(changed)
    assert before[2] == after[2]
    assert before[1] != after[1]


def test_calibration_helps_an_overconfident_model_and_keeps_its_classes():
    predictions = calibrated_table(scale=3.0)
    found = calibrate(predictions, **SETTINGS)
    for name in ("ece", "log_loss", "brier"):
        raw, after = found[name]["raw"], found[name]["calibrated"]
        assert after["value"] < raw["value"]
        assert raw["low"] <= raw["value"] <= raw["high"]
    assert found["ece"]["calibrated"]["value"] < 2 * found["ece"]["null_floor_calibrated"]
    scaled = calibrated(predictions).rows
    assert scaled is not None
    np.testing.assert_array_equal(scaled.logits.argmax(axis=1), predictions.logits.argmax(axis=1))


def test_a_perfectly_calibrated_model_lies_at_the_null_floor():
    predictions = calibrated_table(patients=1000)
    found = calibrate(predictions, **SETTINGS)["ece"]
    assert found["raw"]["value"] == pytest.approx(found["null_floor"], rel=0.6)
    assert null_floor(calibrated_table(patients=100), seed=0) > 2 * null_floor(predictions, seed=0)


def test_a_holdout_is_fitted_on_validation_and_measured_on_test():
    predictions = holdout()
    found = calibrate(predictions, **SETTINGS)
    (parameters,) = found["parameters"]
    assert parameters["fitted_on"] == "validation rows"
    assert parameters["n_cases"] == len(predictions.val)
    assert parameters["temperature"] == pytest.approx(minimise_log_loss(predictions.val.logits, predictions.val.y_true))
    assert found["log_loss"]["raw"]["n_cases"] == len(predictions.test)


def test_without_a_test_part_nothing_is_fitted_and_the_reason_is_said():
    found = calibrate(planted(split="val", folds=1), **SETTINGS)
    assert found["parameters"] == [] and "no test part" in found["reason"]
    assert found["ece"]["calibrated"]["value"] is None
    assert "no test part" in found["ece"]["calibrated"]["reason"]
    assert found["ece"]["raw"]["value"] is not None and found["reliability"]["calibrated"] == []


def test_each_seed_has_its_own_temperature():
    predictions = planted(seeds=(1, 2), patients=60)
    assert [(item["seed"], item["fold"]) for item in temperatures(predictions)] == [
        (seed, fold) for seed in (1, 2) for fold in range(5)
    ]


def test_reliability_bins_hold_every_case_and_their_accuracy_lies_in_its_band():
    predictions = planted()
    bins = reliability_bins(predictions, confidence=0.95)
    assert sum(item["n"] for item in bins) == len(predictions)
    for item in bins:
        assert item["low"] <= item["accuracy"] <= item["high"]
    twice = planted(seeds=(1, 2))
    doubled = replace(twice, logits=np.tile(predictions.logits, (2, 1)))
    again = reliability_bins(doubled, confidence=0.95)
    assert [item["low"] for item in again] == pytest.approx([item["low"] for item in bins])


def test_order_of_rows_does_not_matter():
    predictions = planted(patients=60)
    shuffled = predictions.select(np.random.default_rng(0).permutation(len(predictions)))
    first, second = calibrate(predictions, **SETTINGS), calibrate(shuffled, **SETTINGS)
    for name in ("ece", "log_loss", "brier"):
        for part in ("raw", "calibrated"):
            values = [[found[name][part][key] for key in ("value", "low", "high")] for found in (first, second)]
            assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_a_model_without_skill_gets_a_high_temperature():
    case_id, patient_id, fold, y_true = cohort()
    noise = table(case_id, patient_id, fold, y_true, 3 * noisy_logits(y_true, skill=0.0, rng=4))
    assert min(item["temperature"] for item in temperatures(noise)) > 5

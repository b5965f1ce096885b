"""Calibration measures of binary probabilities: scikit-learn, loops, simulations and hand values."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from archbench.reliability import (
    N_BINS,
    binary_reliability,
    bins_of,
    calibration_draws,
    calibration_line,
    ece_floor,
)


def cohort(rng, *, patients=200, images=3, shared=1.0):
    """Perfectly calibrated log odds, targets and owners; images of a patient share part of their odds."""
    generator = np.random.default_rng(rng)
    owner = np.repeat(np.arange(patients), images)
    odds = shared * generator.normal(size=patients)[owner] + generator.normal(size=len(owner))
    targets = (generator.random(len(owner)) < 1 / (1 + np.exp(-odds))).astype(float)
    return odds, targets, owner


def sigmoid(odds):
    return 1 / (1 + np.exp(-odds))


def test_draws_are_those_of_repeated_rows():
    odds, targets, owner = cohort(0)
    probabilities = sigmoid(2 * odds)
    weights = np.random.default_rng(1).multinomial(200, np.full(200, 1 / 200), size=6).T
    found = calibration_draws(probabilities, targets, weights, owner)
    for draw in range(6):
        rows = np.repeat(np.arange(len(owner)), weights[owner, draw])
        p, y = probabilities[rows], targets[rows]
        assert found.brier[draw] == pytest.approx(brier_score_loss(y, p), abs=1e-12)
        assert found.log_loss[draw] == pytest.approx(log_loss(y, p), abs=1e-12)
        gaps = np.array([abs((p - y)[bins_of(p) == k].sum()) for k in range(N_BINS)])
        counts = np.bincount(bins_of(p), minlength=N_BINS)
        assert found.ece[draw] == pytest.approx(gaps.sum() / len(rows), abs=1e-12)
        assert found.mce[draw] == pytest.approx((gaps[counts > 0] / counts[counts > 0]).max(), abs=1e-12)


def test_a_resample_without_cases_is_undefined():
    found = calibration_draws(np.array([0.2, 0.7]), np.array([0.0, 1.0]), np.array([[0, 1], [0, 1]]), np.arange(2))
    for values in (found.ece, found.mce, found.brier, found.log_loss):
        assert np.isnan(values[0]) and values[1] > 0


def test_a_calibrated_model_lies_at_its_floor_and_an_extreme_one_above():
    eces, floors = [], []
    for rng in range(30):
        odds, targets, owner = cohort(rng, patients=300, images=1)
        one = np.ones((300, 1))
        eces.append(calibration_draws(sigmoid(odds), targets, one, owner).ece[0])
        floors.append(ece_floor(sigmoid(odds), seed=rng, simulations=100))
    assert np.mean(eces) == pytest.approx(np.mean(floors), rel=0.1)
    odds, targets, owner = cohort(99, patients=3000, images=1)
    extreme = sigmoid(3 * odds)
    ece = calibration_draws(extreme, targets, np.ones((3000, 1)), owner).ece[0]
    assert ece > 3 * ece_floor(extreme, seed=0)
    assert ece_floor(extreme, seed=0) == ece_floor(extreme, seed=0)
    assert np.isnan(ece_floor(np.empty(0), seed=0))


def test_the_floor_of_one_bin_is_the_mean_deviation_of_a_proportion():
    """All probabilities .5: the floor is E|B / n - 1/2|, about sqrt(1 / (2 pi n))."""
    assert ece_floor(np.full(400, 0.5), seed=0, simulations=4000) == pytest.approx(
        np.sqrt(1 / (2 * np.pi * 400)), rel=0.05
    )


def test_line_agrees_with_sklearn_and_finds_planted_values():
    odds, targets, owner = cohort(2, patients=3000)
    found = calibration_line(2 * odds + 1, targets, owner)
    model = LogisticRegression(C=np.inf, tol=1e-10).fit((2 * odds + 1)[:, None], targets)
    assert found.slope == pytest.approx(model.coef_[0, 0], abs=1e-4)
    assert found.slope == pytest.approx(0.5, abs=0.05)
    shifted = calibration_line(odds - 0.7, targets, owner)
    assert shifted.intercept == pytest.approx(0.7, abs=0.1) and shifted.slope == pytest.approx(1.0, abs=0.1)


def test_standard_errors_are_those_of_the_patient_bootstrap():
    generator = np.random.default_rng(4)
    odds, _, owner = cohort(3, patients=250, images=4, shared=0.5)
    hidden = generator.normal(size=250)[owner]  # what a patient's images share beyond the prediction
    targets = (generator.random(len(owner)) < sigmoid(odds + 1.5 * hidden)).astype(float)
    found = calibration_line(odds, targets, owner)
    by_image = calibration_line(odds, targets, np.arange(len(owner)))
    slopes, intercepts = [], []
    rows_of = [np.flatnonzero(owner == patient) for patient in range(250)]
    for _ in range(300):
        rows = np.concatenate([rows_of[k] for k in generator.integers(0, 250, size=250)])
        line = calibration_line(odds[rows], targets[rows], owner[rows])
        slopes.append(line.slope)
        intercepts.append(line.intercept)
    assert found.slope_se == pytest.approx(np.std(slopes), rel=0.15)
    assert found.intercept_se == pytest.approx(np.std(intercepts), rel=0.15)
    assert found.intercept_se > 1.2 * by_image.intercept_se
    low, high = found.interval("slope", 0.95)
    assert low < found.slope < high


def test_undefined_lines_say_why():
    one_class = calibration_line(np.array([0.1, 0.4]), np.ones(2), np.arange(2))
    assert np.isnan(one_class.slope) and "same target" in str(one_class.reason)
    separated = calibration_line(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([0.0, 0, 1, 1]), np.arange(4))
    assert np.isnan(separated.slope) and "separated" in str(separated.reason)
    constant = calibration_line(np.zeros(50), np.arange(50) % 5 == 0, np.arange(50))
    assert np.isnan(constant.slope) and constant.intercept == pytest.approx(np.log(0.25))


def test_bands_are_wider_for_patients_than_for_images():
    generator = np.random.default_rng(0)
    owner = np.repeat(np.arange(60), 8)
    probabilities = np.full(480, 0.5)
    targets = (generator.random(60) < 0.5).astype(float)[owner]
    widths = []
    for rows, n in ((owner, 60), (np.arange(480), 480)):
        weights = generator.multinomial(n, np.full(n, 1 / n), size=500).T
        (only,) = binary_reliability(probabilities, targets, weights, rows, confidence=0.95)
        assert only.low < only.observed < only.high and only.n_cases == 480
        widths.append(only.high - only.low)
    assert widths[0] > 2 * widths[1]
    (single,) = binary_reliability(probabilities[:8], targets[:8], np.ones((1, 5)), np.zeros(8, int), confidence=0.95)
    assert np.isnan(single.low) and single.n_patients == 1

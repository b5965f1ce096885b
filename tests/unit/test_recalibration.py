"""Platt and isotonic calibration: planted miscalibration is undone, rare labels borrow, nothing leaks in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted
from planted_labels import halves, planted_labels
from sklearn.linear_model import LogisticRegression

from archbench.combining import log_loss
from archbench.out_of_fold import LeakError, out_of_fold
from archbench.recalibration import STRONGEST, fit_isotonic, fit_platt, shrinkage, solve_platt


def test_planted_slope_and_shift_are_found():
    """Logits are 2 * log odds - 1 without noise, so that the truth is slope 1/2 and intercept 1/2."""
    source, applied = halves(planted_labels(noise=0.0, slope=2.0, shift=-1.0, patients=4000))
    found = fit_platt(source, applied=applied, seed=1)
    np.testing.assert_allclose(found.slope, 0.5, atol=0.05)
    np.testing.assert_allclose(found.intercept, 0.5, atol=0.12)
    assert found.shared_slope == pytest.approx(0.5, abs=0.03)


def test_it_lowers_the_loss_of_the_held_out_patients():
    source, applied = halves(planted_labels(noise=0.5, slope=3.0, shift=1.0, patients=600, unknown=0.2))
    found = fit_platt(source, applied=applied, seed=1)
    before = log_loss(applied.logits, applied.targets, multilabel=True)
    after = log_loss(found.log_odds(applied.logits), applied.targets, multilabel=True)
    assert after < 0.7 * before


def test_without_shrinkage_it_is_sklearns_logistic_regression_on_smoothed_targets():
    rows = planted_labels(patients=150, unknown=0.2)
    slope, intercept, _ = solve_platt(rows.logits.astype(float), rows.targets, 0.0)
    for k, (logits, targets) in enumerate(zip(rows.logits.T, rows.targets.T, strict=True)):
        known = ~np.isnan(targets)
        positives = (targets == 1).sum()
        negatives = known.sum() - positives
        share = np.where(targets[known] == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        twice = np.r_[logits[known], logits[known]][:, None]
        model = LogisticRegression(C=1e9, tol=1e-10, max_iter=5000)
        model.fit(twice, np.repeat([1, 0], known.sum()), sample_weight=np.r_[share, 1 - share])
        assert slope[k] == pytest.approx(model.coef_[0, 0], rel=1e-3)
        assert intercept[k] == pytest.approx(model.intercept_[0], abs=1e-3)


def test_a_strong_shrinkage_gives_one_slope_and_a_rare_label_stays_near_it():
    rows = planted_labels(patients=300, prevalence=[0.5, 0.4, 0.3, 0.005], slope=2.0)
    logits = rows.logits.astype(float)
    slope, _, shared = solve_platt(logits, rows.targets, 1e9)
    np.testing.assert_allclose(slope, shared, atol=1e-5)
    free, _, _ = solve_platt(logits, rows.targets, 0.0)
    some, _, shared = solve_platt(logits, rows.targets, 30.0)
    moved = np.abs(some - free) / np.maximum(np.abs(shared - free), 1e-9)
    assert moved[3] > moved[:3].max()


def test_labels_that_differ_only_by_chance_share_their_slope_and_others_keep_theirs():
    alike = planted_labels(noise=0.0, slope=2.0, patients=800)
    targets, logits = alike.targets, alike.logits.astype(float)
    strengths = [shrinkage(logits, targets, images_per_patient=images) for images in (1.0, 2.0)]
    assert strengths[1] >= strengths[0] > 100
    own = logits * np.array([0.5, 1.0, 2.0, 4.0])  # true slopes 1, 1/2, 1/4, 1/8
    assert shrinkage(own, targets, images_per_patient=2.0) < 30
    slope, _, _ = solve_platt(own, targets, shrinkage(own, targets, images_per_patient=2.0))
    np.testing.assert_allclose(slope, [1, 1 / 2, 1 / 4, 1 / 8], rtol=0.25)
    assert shrinkage(logits[:, :1], targets[:, :1], images_per_patient=1.0) == STRONGEST


def test_labels_without_positives_or_without_any_target_stay_finite():
    rows = planted_labels(patients=100)
    rows.targets[:, 1] = 0.0
    rows.targets[:, 2] = np.nan
    slope, intercept, shared = solve_platt(rows.logits.astype(float), rows.targets, 3.0)
    assert np.isfinite(slope).all() and np.isfinite(intercept).all()
    assert slope[2] == pytest.approx(shared) and intercept[2] == pytest.approx(0.0, abs=1e-6)
    assert intercept[1] < 0


def test_isotonic_only_with_enough_patients_and_it_says_so():
    source, applied = halves(planted_labels(patients=500, prevalence=[0.5, 0.5, 0.3, 0.01]))
    found = fit_isotonic(source, applied=applied, seed=1)
    assert found.steps[0] is not None and found.steps[3] is None
    assert "isotonic needs 100 on each side" in str(found.reasons[3]) and found.reasons[0] is None
    grid = np.tile(np.linspace(-6, 6, 200)[:, None], (1, 4))
    odds = found.log_odds(grid)
    assert (np.diff(odds, axis=0) >= -1e-12).all() and np.isfinite(odds).all()
    np.testing.assert_allclose(odds[:, 3], found.platt.log_odds(grid)[:, 3])


def test_isotonic_undoes_what_a_line_cannot():
    rows = planted_labels(noise=0.0, patients=4000, prevalence=[0.5] * 4)
    bent = replace(rows, logits=np.sign(rows.logits) * rows.logits**2)
    source, applied = halves(bent)
    line = fit_platt(source, applied=applied, seed=1).log_odds(applied.logits)
    steps = fit_isotonic(source, applied=applied, seed=1).log_odds(applied.logits)
    losses = [log_loss(odds, applied.targets, multilabel=True) for odds in (line, steps)]
    assert losses[1] < losses[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 79), st.sampled_from([fit_platt, fit_isotonic]))
def test_no_row_of_a_patient_it_is_applied_to_gets_in(row, fit):
    rows = planted_labels(patients=40)
    with pytest.raises(LeakError, match="other patients"):
        fit(out_of_fold(rows), applied=rows.select(np.array([row])), seed=1)
    with pytest.raises(TypeError, match="OutOfFold"):
        fit(rows, applied=rows.select(np.array([row])), seed=1)


def test_other_tables_and_seeds_are_refused():
    rows = planted(patients=40)
    with pytest.raises(ValueError, match="one logit per label"):
        fit_platt(out_of_fold(rows), applied=rows.select(np.arange(0)), seed=1)
    rows = planted_labels(patients=40)
    with pytest.raises(ValueError, match=r"seed 7 \(seeds: \[1\]\)"):
        fit_platt(out_of_fold(rows), applied=rows.select(np.arange(0)), seed=7)

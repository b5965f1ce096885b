"""Thresholds, cut points and decision curves: brute force, honest tuning, few patients, nothing leaks in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted
from planted_labels import halves, planted_labels
from sklearn import metrics as reference

from archbench.net_benefit import decision_curve
from archbench.out_of_fold import LeakError, out_of_fold
from archbench.threshold_results import spread
from archbench.thresholds import (
    Rule,
    best_cuts,
    best_threshold,
    expected_grade,
    fit_cut_points,
    fit_thresholds,
)

RULES = {
    "f1": Rule("f1"),
    "youden": Rule("youden"),
    "sensitivity": Rule("sensitivity", target=0.8),
    "specificity": Rule("specificity", target=0.8),
    "cost": Rule("cost", miss_cost=5.0),
}


def value_at(kind, threshold, scores, targets):
    """The goal of a rule by its definition."""
    called = scores >= threshold
    tp, fp = (called & (targets == 1)).sum(), (called & (targets == 0)).sum()
    fn, tn = (targets == 1).sum() - tp, (targets == 0).sum() - fp
    sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
    return {
        "f1": 2 * tp / (2 * tp + fp + fn),
        "youden": sensitivity + specificity,
        "sensitivity": specificity if sensitivity >= 0.8 - 1e-12 else -1,
        "specificity": sensitivity if specificity >= 0.8 - 1e-12 else -1,
        "cost": -(5.0 * fn + fp),
    }[kind]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(RULES)), st.integers(0, 10_000), st.integers(4, 40), st.sampled_from([3, 1000]))
def test_no_other_threshold_is_better(kind, rng, n, levels):
    generator = np.random.default_rng(rng)
    scores = generator.integers(0, levels, size=n) / levels
    targets = (generator.random(n) < 0.4).astype(float)
    found = best_threshold(scores, targets, RULES[kind])
    if len(np.unique(targets)) < 2:
        assert np.isnan(found)
        return
    others = np.r_[scores, scores + 1e-9, -1.0, 2.0]
    best = max(value_at(kind, threshold, scores, targets) for threshold in others)
    assert value_at(kind, found, scores, targets) == pytest.approx(best, abs=1e-12)


def test_thresholds_tuned_on_the_test_data_look_too_good_and_ours_do_not():
    """The protocol's reason for the rule: tuned in place, F1 of a rare label flatters itself."""
    gaps = []
    for rng in range(12):
        rows = planted_labels(patients=125, images=2, prevalence=[0.05] * 4, noise=1.5, rng=rng)
        source, applied = halves(rows, of_five=2)
        in_place = [best_threshold(x, y, RULES["f1"]) for x, y in zip(applied.logits.T, applied.targets.T, strict=True)]
        honest = fit_thresholds(source, applied=applied, seed=1, rule=RULES["f1"])
        f1 = [
            reference.f1_score(applied.targets, applied.logits >= cut, average="macro", zero_division=0)
            for cut in (np.array(in_place), honest.log_odds)
        ]
        gaps.append(f1[0] - f1[1])
    assert np.mean(gaps) > 0.03


def test_a_label_with_few_positive_patients_takes_the_global_threshold_and_says_so():
    rows = planted_labels(patients=400, prevalence=[0.5, 0.4, 0.3, 0.003])
    source, applied = halves(rows)
    found = fit_thresholds(source, applied=applied, seed=1, rule=RULES["youden"])
    patients = len(np.unique(source.rows.patient_id[source.rows.targets[:, 3] == 1]))
    assert patients < 25
    assert found.reasons[:3] == (None, None, None)
    assert found.reasons[3] == f"{patients} positive patients, below 25: the global threshold"
    assert found.log_odds[3] == found.global_log_odds != found.log_odds[0]
    assert found.decide(applied.logits).shape == applied.logits.shape
    known = best_threshold(source.rows.logits.ravel(), source.rows.targets.ravel(), RULES["youden"])
    assert found.global_log_odds == known


def test_youden_of_a_calibrated_model_is_near_the_prevalence():
    rows = planted_labels(noise=0.0, patients=4000, prevalence=[0.5, 0.3, 0.2, 0.1])
    source, applied = halves(rows)
    found = fit_thresholds(source, applied=applied, seed=1, rule=RULES["youden"])
    np.testing.assert_allclose(found.probabilities, np.nanmean(source.rows.targets, axis=0), atol=0.12)
    cost = fit_thresholds(source, applied=applied, seed=1, rule=Rule("cost", miss_cost=4.0))
    np.testing.assert_allclose(cost.probabilities, 1 / 5, atol=0.08)  # act where p > 1 / (1 + miss cost)


def test_spread_over_folds():
    values = np.array([0.2, 0.3, 0.7])
    found = spread(values)
    assert found["mean"] == pytest.approx(np.mean(values)) and found["sd"] == pytest.approx(np.std(values, ddof=1))
    assert found["low"] == 0.2 and found["high"] == 0.7
    assert spread(values[:1])["sd"] is None


def test_masked_targets_count_for_nothing():
    rows = planted_labels(patients=300, unknown=0.4)
    source, applied = halves(rows)
    changed = out_of_fold(source.rows)
    changed.rows.logits[np.isnan(changed.rows.targets)] = 1e3
    first = fit_thresholds(source, applied=applied, seed=1, rule=RULES["f1"])
    second = fit_thresholds(changed, applied=applied, seed=1, rule=RULES["f1"])
    np.testing.assert_array_equal(first.log_odds, second.log_odds)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 79))
def test_no_row_of_a_patient_they_are_applied_to_gets_in(row):
    labels, grades = planted_labels(patients=40), planted(patients=40)
    with pytest.raises(LeakError, match="other patients"):
        fit_thresholds(out_of_fold(labels), applied=labels.select(np.array([row])), seed=1, rule=RULES["f1"])
    with pytest.raises(LeakError, match="other patients"):
        fit_cut_points(out_of_fold(grades), applied=grades.select(np.array([row])), seed=1)
    with pytest.raises(TypeError, match="OutOfFold"):
        fit_cut_points(grades, applied=grades.select(np.arange(0)), seed=1)


@pytest.mark.parametrize(
    ("kind", "settings_of", "words"),
    [("f2", {}, "unknown"), ("sensitivity", {"target": 1.5}, "target"), ("cost", {"miss_cost": -1}, "miss_cost")],
)
def test_bad_rules_are_refused(kind, settings_of, words):
    with pytest.raises(ValueError, match=words):
        Rule(kind, **settings_of)


def kappa(expected, y_true, cuts):
    called = np.searchsorted(cuts, expected, side="right")
    return reference.cohen_kappa_score(y_true, called, labels=np.arange(5), weights="quadratic")


def test_cut_points_undo_a_squeezed_scale():
    generator = np.random.default_rng(0)
    y_true = generator.integers(0, 5, size=2000)
    expected = 1.0 + 0.4 * (y_true + 0.6 * generator.normal(size=2000))
    cuts = best_cuts(expected, y_true, 5)
    np.testing.assert_allclose(cuts, [1.2, 1.6, 2.0, 2.4], atol=0.12)
    assert kappa(expected, y_true, cuts) > kappa(expected, y_true, np.arange(4) + 0.5) + 0.1


def test_cut_points_are_never_worse_than_rounding_and_rise():
    for rng in range(10):
        rows = planted(patients=60, rng=rng, skill=0.8)
        expected = expected_grade(rows.logits)
        cuts = best_cuts(expected, rows.y_true, 5)
        assert (np.diff(cuts) >= 0).all()
        assert kappa(expected, rows.y_true, cuts) >= kappa(expected, rows.y_true, np.arange(4) + 0.5) - 0.02


def test_cut_points_of_one_grade_stay_at_the_rounding_points():
    np.testing.assert_array_equal(best_cuts(np.full(20, 2.0), np.full(20, 2), 5), [0.5, 1.5, 2.5, 3.5])


def test_net_benefit_by_hand():
    probabilities, targets = np.array([0.9, 0.6, 0.4, 0.2]), np.array([1.0, 0.0, 1.0, 0.0])
    found = decision_curve(probabilities, targets, thresholds=np.array([0.5, 0.25]))
    np.testing.assert_allclose(found["model"][:, 0], [(1 - 1) / 4, (2 - 1 / 3) / 4])
    np.testing.assert_allclose(found["all"][:, 0], [0.0, (2 - 2 / 3) / 4])
    assert (found["none"] == 0).all()


def test_net_benefit_of_resampled_patients_is_that_of_repeated_rows():
    generator = np.random.default_rng(0)
    owner, probabilities = generator.integers(0, 30, size=90), generator.random(90)
    targets = (generator.random(90) < probabilities).astype(float)
    weights = generator.integers(0, 3, size=(30, 4))
    found = decision_curve(probabilities, targets, thresholds=np.array([0.3]), weights=weights, rows=owner)
    for draw in range(4):
        rows = np.repeat(np.arange(90), weights[owner, draw])
        again = decision_curve(probabilities[rows], targets[rows], thresholds=np.array([0.3]))
        assert found["model"][0, draw] == pytest.approx(again["model"][0, 0], abs=1e-12)
        assert found["all"][0, draw] == pytest.approx(again["all"][0, 0], abs=1e-12)

"""Metrics against scikit-learn, hand values and their edge cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from archbench.artifacts import softmax
from archbench.metrics.auroc import auroc, metric_at_cut, roc_curve
from archbench.metrics.f1 import class_f1, class_precision, class_recall
from archbench.metrics.metric import confusion_matrix
from archbench.registry import METRICS
from archbench.tasks import TASKS

# Metrics of one label with classes; those of several labels and of numbers have tests of their own.
CLASS_METRICS = sorted({*TASKS["ordinal"].metrics, *TASKS["multiclass"].metrics, "ece", "mce", "auprc_macro"})

EXACT = {"rtol": 0, "atol": 1e-12}
LABELS = np.arange(5)


def draw(rng, n=300, absent=()):
    generator = np.random.default_rng(rng)
    probabilities = softmax(generator.normal(size=(n, 5)) * 2)
    present = [k for k in range(5) if k not in absent]
    y_true = generator.choice(present, size=n)
    return probabilities, y_true, generator.integers(0, 4, size=n).astype(float)


def confusion_value(name, y_true, y_pred, weights=None):
    return float(METRICS.get(name).function(confusion_matrix(y_true, y_pred, 5, weights)))


@pytest.mark.parametrize("rng", range(3))
@pytest.mark.parametrize("weighted", [False, True])
def test_confusion_metrics_agree_with_sklearn(rng, weighted):
    probabilities, y_true, weights = draw(rng)
    y_pred = probabilities.argmax(axis=1)
    w = weights if weighted else None
    expected = {
        "qwk": reference.cohen_kappa_score(y_true, y_pred, labels=LABELS, weights="quadratic", sample_weight=w),
        "accuracy": reference.accuracy_score(y_true, y_pred, sample_weight=w),
        "balanced_accuracy": reference.balanced_accuracy_score(y_true, y_pred, sample_weight=w),
        "macro_f1": reference.f1_score(y_true, y_pred, average="macro", sample_weight=w),
        "mcc": reference.matthews_corrcoef(y_true, y_pred, sample_weight=w),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(confusion_value(name, y_true, y_pred, w), value, err_msg=name, **EXACT)


def test_per_class_metrics_agree_with_sklearn():
    probabilities, y_true, weights = draw(4)
    y_pred = probabilities.argmax(axis=1)
    counts = confusion_matrix(y_true, y_pred, 5, weights)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(y_true, y_pred, sample_weight=weights)
    np.testing.assert_allclose(class_precision(counts), precision, **EXACT)
    np.testing.assert_allclose(class_recall(counts), recall, **EXACT)
    np.testing.assert_allclose(class_f1(counts), f1, **EXACT)


@pytest.mark.parametrize("weighted", [False, True])
def test_probability_metrics_agree_with_sklearn(weighted):
    probabilities, y_true, weights = draw(5)
    w = weights if weighted else np.ones(len(y_true))
    expected = {
        "log_loss": reference.log_loss(y_true, probabilities, labels=LABELS, sample_weight=w),
        "brier": reference.brier_score_loss(y_true, probabilities, labels=LABELS, sample_weight=w, scale_by_half=False),
    }
    for name, value in expected.items():
        metric = METRICS.get(name)
        found = metric.function(metric.terms(probabilities, y_true) @ w)
        np.testing.assert_allclose(found, value, err_msg=name, **EXACT)


def test_log_loss_of_a_certain_mistake_is_finite_and_sklearns():
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0]])
    y_true = np.array([1, 1])
    found = METRICS.get("log_loss").value(probabilities, y_true)
    np.testing.assert_allclose(found, reference.log_loss(y_true, probabilities, labels=[0, 1]), **EXACT)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 8))
def test_auroc_agrees_with_sklearn_with_ties_and_weights(rng, n, levels):
    generator = np.random.default_rng(rng)
    score = generator.integers(0, levels, size=n) / levels
    positive = generator.random(n) < 0.4
    weights = generator.integers(0, 4, size=(n, 3)).astype(float)
    found = auroc(score, positive, weights)
    for column in range(3):
        w = weights[:, column]
        if w[positive].sum() == 0 or w[~positive].sum() == 0:
            assert np.isnan(found[column])
        else:
            np.testing.assert_allclose(
                found[column], reference.roc_auc_score(positive, score, sample_weight=w), **EXACT
            )


def test_auroc_chunks_give_the_same_values(monkeypatch):
    generator = np.random.default_rng(3)
    score, positive = generator.normal(size=50), generator.random(50) < 0.5
    weights = generator.integers(0, 3, size=(50, 40)).astype(float)
    whole = auroc(score, positive, weights)
    monkeypatch.setattr("archbench.resampling.PRODUCT_ELEMENTS", 350)
    monkeypatch.setattr("archbench.resampling.BLOCK_DRAWS", 3)
    np.testing.assert_array_equal(auroc(score, positive, weights), whole)


def test_auroc_of_patients_equals_auroc_of_their_cases():
    generator = np.random.default_rng(8)
    score, positive, rows = generator.normal(size=40), generator.random(40) < 0.5, np.repeat(np.arange(10), 4)
    weights = generator.integers(0, 3, size=(10, 7)).astype(float)
    np.testing.assert_allclose(auroc(score, positive, weights, rows), auroc(score, positive, weights[rows]), **EXACT)


def test_auroc_macro_is_sklearns_one_vs_rest():
    probabilities, y_true, _ = draw(6)
    expected = reference.roc_auc_score(y_true, probabilities, multi_class="ovr", labels=LABELS)
    np.testing.assert_allclose(METRICS.get("auroc_macro").value(probabilities, y_true), expected, **EXACT)


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_clinical_cut_sums_the_grades_from_the_cut(cut):
    probabilities, y_true, _ = draw(7)
    expected = reference.roc_auc_score(y_true >= cut, probabilities[:, cut:].sum(axis=1))
    found = metric_at_cut("auroc_clinical_cut", cut).value(probabilities, y_true)
    np.testing.assert_allclose(found, expected, **EXACT)


def test_cut_beyond_the_grades_is_undefined():
    assert np.isnan(metric_at_cut("auroc_clinical_cut", 9).value(*draw(7)[:2]))


def test_roc_curve_agrees_with_sklearn_with_ties():
    generator = np.random.default_rng(2)
    score, positive = generator.integers(0, 6, size=80) / 6, generator.random(80) < 0.5
    fpr, tpr, _ = reference.roc_curve(positive, score, drop_intermediate=False)
    found = roc_curve(score, positive)
    np.testing.assert_allclose(found[0], fpr, **EXACT)
    np.testing.assert_allclose(found[1], tpr, **EXACT)


def test_qwk_keeps_a_missing_middle_grade():
    # grades 0, 1, 3, 4 occur; without the full list grade 3 would slide to 2 and the distances shrink
    y_true = np.array([0, 0, 0, 1, 1, 3, 3, 4, 4, 4])
    y_pred = np.array([0, 0, 1, 1, 0, 3, 4, 4, 4, 0])
    found = confusion_value("qwk", y_true, y_pred)
    full = reference.cohen_kappa_score(y_true, y_pred, labels=LABELS, weights="quadratic")
    shrunk = reference.cohen_kappa_score(y_true, y_pred, weights="quadratic")
    np.testing.assert_allclose(found, full, **EXACT)
    assert abs(found - shrunk) > 0.01


def test_qwk_by_hand():
    # truth 0, 2; predicted 0, 0 of three grades: observed 4 / 2; expected (0 + 0 + 4 * 1 * 2) / 4 -> kappa 0
    assert confusion_value("qwk", np.array([0, 2]), np.array([0, 0])) == 0.0
    assert confusion_value("qwk", np.array([0, 1, 4]), np.array([0, 1, 4])) == 1.0


@pytest.mark.parametrize("name", ["qwk", "mcc"])
def test_agreement_of_a_single_grade_is_undefined(name):
    assert np.isnan(confusion_value(name, np.zeros(5, int), np.zeros(5, int)))


def test_absent_class_is_left_out_of_macro_means():
    probabilities, y_true, _ = draw(9, absent=(2,))
    probabilities[:, 2] = 0.0
    y_pred = probabilities.argmax(axis=1)
    counts = confusion_matrix(y_true, y_pred, 5)
    assert np.isnan(class_f1(counts)[2])
    expected = reference.f1_score(y_true, y_pred, average="macro", labels=[0, 1, 3, 4])
    np.testing.assert_allclose(confusion_value("macro_f1", y_true, y_pred), expected, **EXACT)


def test_ordinal_errors_by_hand():
    y_true, y_pred = np.array([0, 0, 4, 4, 4]), np.array([0, 1, 4, 2, 0])
    assert confusion_value("macro_mae", y_true, y_pred) == pytest.approx((0.5 + 2.0) / 2)
    assert confusion_value("off_by_two", y_true, y_pred) == pytest.approx(2 / 5)


def test_calibration_errors_by_hand():
    # four cases at confidence .9, three right; two at .6, none right
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 2)
    y_true = np.array([0, 0, 0, 1, 1, 1])
    assert METRICS.get("ece").value(probabilities, y_true) == pytest.approx((4 * 0.15 + 2 * 0.6) / 6)
    assert METRICS.get("mce").value(probabilities, y_true) == pytest.approx(0.6)


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_every_metric_is_perfect_on_perfect_predictions_and_within_its_bounds(name):
    metric = METRICS.get(name)
    y_true = np.tile(np.arange(5), 8)
    best = 1.0 if metric.greater_is_better else 0.0
    assert metric.value(np.eye(5)[y_true], y_true) == pytest.approx(best, abs=1e-9)
    found = metric.value(*draw(11)[:2])
    assert metric.bounds[0] <= found <= metric.bounds[1]
    assert metric.undefined_reason and metric.name == name


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_no_cases_are_undefined(name):
    assert np.isnan(METRICS.get(name).value(np.zeros((0, 5)), np.zeros(0, int)))

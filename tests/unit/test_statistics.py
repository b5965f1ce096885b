"""Resampling, intervals, tests and ranks: against naive loops, closed forms and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from planted import cohort, noisy_logits, planted, table
from sklearn.metrics import average_precision_score, roc_auc_score

from archbench.artifacts import softmax
from archbench.metrics.scoring import Scores, frozen_questions, score, scored_rows
from archbench.registry import METRICS
from archbench.statistics import (
    bootstrap_p_value,
    difference,
    estimate,
    holm,
    patient_weights,
    ranks,
    wilson_interval,
)
from archbench.tasks import TASKS

# Metrics of one label with classes; those of several labels and of numbers have tests of their own.
CLASS_METRICS = sorted({*TASKS["ordinal"].metrics, *TASKS["multiclass"].metrics, "ece", "mce", "auprc_macro"})


def one_seed(draws, point=None):
    draws = np.asarray(draws, float)[None, :]
    return Scores(points=np.array([draws.mean() if point is None else point]), draws=draws)


def test_weights_depend_on_patients_and_folds_only():
    _, patients, folds, _ = cohort(patients=40)
    order = np.random.default_rng(0).permutation(len(patients))
    first = patient_weights(patients, strata=folds, resamples=50, seed=3)
    again = patient_weights(patients[order], strata=folds[order], resamples=50, seed=3)
    np.testing.assert_array_equal(first.weights, again.weights)
    np.testing.assert_array_equal(first.patients, np.unique(patients))
    other = patient_weights(patients, strata=folds, resamples=50, seed=4)
    assert (other.weights != first.weights).any()


def test_weights_keep_the_size_of_each_fold_and_more_resamples_continue_the_draw():
    _, patients, folds, _ = cohort(patients=43, folds=4)
    drawn = patient_weights(patients, strata=folds, resamples=80, seed=0)
    fold_of = dict(zip(patients.tolist(), folds.tolist(), strict=True))
    for fold in range(4):
        members = [fold_of[name] == fold for name in drawn.patients.tolist()]
        assert (drawn.weights[:, members].sum(axis=1) == sum(members)).all()
    longer = patient_weights(patients, strata=folds, resamples=200, seed=0)
    np.testing.assert_array_equal(longer.weights[:80], drawn.weights)


def test_a_patient_in_two_folds_is_refused():
    with pytest.raises(ValueError, match="more than one fold"):
        patient_weights(np.array(["a", "a"]), strata=np.array([0, 1]), resamples=5, seed=0)


def naive(predictions, metric, row_of):
    """Recompute a metric on really repeated rows, by the protocol's averaging."""
    if metric.kind != "rank":
        return metric.value(softmax(predictions.logits[row_of]), predictions.y_true[row_of])
    scores, positives = metric.terms(softmax(predictions.logits[row_of]), predictions.y_true[row_of])
    folds = predictions.fold[row_of]
    reference = average_precision_score if metric.name.startswith("auprc") else roc_auc_score
    by_question = [
        np.mean([reference(positive[folds == fold], values[folds == fold]) for fold in np.unique(folds)])
        for values, positive in zip(scores, positives, strict=True)
    ]
    return float(np.mean(by_question))


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_resampled_metric_equals_a_loop_over_repeated_rows(name):
    predictions = planted(patients=120, folds=2)
    metric = METRICS.get(name)
    drawn = patient_weights(predictions.patient_id, strata=predictions.fold, resamples=8, seed=1)
    found = score(predictions, metric, drawn.patients, drawn.weights)
    count_of = {name: drawn.weights[:, k] for k, name in enumerate(drawn.patients.tolist())}
    assert found.point == pytest.approx(naive(predictions, metric, np.arange(len(predictions))), abs=1e-12)
    for draw in range(8):
        repeats = [int(count_of[patient][draw]) for patient in predictions.patient_id.tolist()]
        rows = np.repeat(np.arange(len(predictions)), repeats)
        assert found.draws[0, draw] == pytest.approx(naive(predictions, metric, rows), abs=1e-12)


def test_rank_metrics_are_not_pooled_over_folds():
    # the same skill in each fold, but the second fold's scores are shifted: pooling would hide it
    case_id, patient_id, fold, y_true = cohort(patients=200, folds=2, n_classes=2)
    logits = noisy_logits(y_true, skill=1.0, rng=0, n_classes=2)
    shifted = logits + np.where(fold == 1, 3.0, 0.0)[:, None] * np.array([0.0, 1.0])
    metric = METRICS.get("auroc_macro")
    values = []
    for columns in (logits, shifted):
        predictions = table(case_id, patient_id, fold, y_true, columns, classes=("no", "yes"))
        drawn = patient_weights(patient_id, strata=fold, resamples=2, seed=0)
        values.append(score(predictions, metric, drawn.patients, drawn.weights).point)
    assert values[1] == pytest.approx(values[0], abs=1e-5)
    assert metric.value(softmax(shifted), y_true) < values[0] - 0.05


def test_frozen_classes_need_ten_patients_on_each_side():
    case_id, patient_id, fold, y_true = cohort(patients=60, folds=3)
    y_true[y_true == 4] = 3
    rare = np.flatnonzero(y_true == 2)
    keep = [i for i in rare if patient_id[i] in np.unique(patient_id[rare])[:9]]
    y_true[np.setdiff1d(rare, keep)] = 1
    predictions = table(case_id, patient_id, fold, y_true, noisy_logits(y_true, skill=1, rng=0))
    frozen = frozen_questions(predictions, METRICS.get("auroc_macro"))
    assert frozen.tolist() == [True, True, False, True, False]


def test_repeated_rows_and_patients_in_two_folds_are_refused():
    predictions = planted(patients=30)
    twice = np.r_[np.arange(len(predictions)), 0]
    with pytest.raises(ValueError, match="more than one prediction per seed"):
        scored_rows(predictions.select(twice))
    moved = planted(patients=30)
    moved.fold[0] = (moved.fold[0] + 1) % 5
    with pytest.raises(ValueError, match="more than one fold"):
        scored_rows(moved)


def test_interval_is_the_percentile_interval_with_one_seed():
    draws = np.random.default_rng(0).normal(0.7, 0.05, size=2000)
    found = estimate(one_seed(draws), confidence=0.9)
    assert (found.low, found.high) == tuple(np.quantile(draws, [0.05, 0.95]))
    assert np.isnan(found.se_seeds)


def test_seed_variance_widens_the_interval_by_the_quadrature_sum():
    draws = np.random.default_rng(0).normal(0.0, 0.03, size=4000)
    points = np.array([0.66, 0.70, 0.74])
    scores = Scores(points=points, draws=points[:, None] + draws)
    found = estimate(scores, confidence=0.95)
    assert found.se_seeds == pytest.approx(0.04 / np.sqrt(3))
    low, high = np.quantile(scores.mean_draws, [0.025, 0.975])
    factor = np.sqrt(found.se_patients**2 + found.se_seeds**2) / found.se_patients
    assert found.high - found.low == pytest.approx(factor * (high - low))
    cut = estimate(scores, confidence=0.95, bounds=(0.68, 0.72))
    assert (cut.low, cut.high) == (0.68, 0.72)


def test_undefined_draws_beyond_five_percent_leave_no_interval():
    draws = np.full(1000, 0.5)
    draws[:51] = np.nan
    found = estimate(one_seed(draws, point=0.5), confidence=0.95)
    assert np.isnan(found.low) and "51 of 1000" in str(found.reason) and found.value == 0.5
    draws[40:51] = 0.5
    found = estimate(one_seed(draws, point=0.5), confidence=0.95)
    assert found.low == 0.5 and found.undefined_draws == 40 and found.reason is None


def test_wilson_interval_by_hand():
    # Newcombe 1998, table I: 15 of 148 -> .0624 to .1605; 0 of 20 -> 0 to .1611
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.01, np.nan, 0.6])), [0.02, np.nan, 0.6])


def test_ranks_share_ties():
    draws = np.array([[0.9, 0.5], [0.5, 0.5], [0.1, 0.1]])
    found = ranks(draws, greater_is_better=True, confidence=0.95)
    np.testing.assert_allclose(found.mean, [1.25, 1.75, 3.0])
    np.testing.assert_allclose(found.first, [0.75, 0.25, 0.0])
    for of, mean in zip(found.shares, found.mean, strict=True):
        assert sum(of.values()) == pytest.approx(1.0)
        assert sum(place * share for place, share in of.items()) == pytest.approx(mean)
    turned = ranks(-draws, greater_is_better=False, confidence=0.95)
    np.testing.assert_allclose(turned.mean, found.mean)


def test_p_value_counts_centred_draws():
    draws = np.array([0.1, 0.2, 0.3, 0.4])
    assert bootstrap_p_value(one_seed(draws, point=0.25)) == pytest.approx(1 / 5)
    assert bootstrap_p_value(one_seed(draws, point=0.10)) == pytest.approx(3 / 5)
    assert bootstrap_p_value(one_seed(np.zeros(9), point=0.0)) == 1.0


def clustered_pair(generator, *, patients, images, gap=0.0):
    """Two binary scores of equal (or planted) skill whose errors are shared within a patient."""
    owner = np.repeat(np.arange(patients), images)
    y_true = (generator.random(patients) < 0.5).astype(int)[owner]
    noise = [generator.normal(size=patients)[owner] + 0.5 * generator.normal(size=len(owner)) for _ in range(2)]
    logits = [np.stack([np.zeros(len(owner)), (1.5 + gap * k) * y_true + noise[k]], axis=1) for k in range(2)]
    names = np.array([f"p{i:03d}" for i in owner])
    cases = np.arange(len(owner)).astype(str)
    return [table(cases, names, 0, y_true, columns, classes=("no", "yes")) for columns in logits]


def test_coverage_and_type_one_error_with_clustered_patients():
    """400 runs, patients of 4 images: patient resampling keeps its promises, image resampling doesn't.

    Tolerances are 3 standard errors of a share in 400 runs about 95 % and 5 %.
    """
    generator, metric = np.random.default_rng(0), METRICS.get("accuracy")
    runs, covered, rejected, rejected_by_image = 400, 0, 0, 0
    truth = np.mean(
        [metric.value(softmax(p.logits), p.y_true) for p in clustered_pair(generator, patients=60_000, images=1)]
    )
    for run in range(runs):
        pair = clustered_pair(generator, patients=80, images=4)
        drawn = patient_weights(pair[0].patient_id, strata=pair[0].fold, resamples=400, seed=run)
        a, b = (score(p, metric, drawn.patients, drawn.weights) for p in pair)
        found = estimate(a, confidence=0.95)
        covered += found.low <= truth <= found.high
        rejected += bootstrap_p_value(difference(a, b)) < 0.05
        images = patient_weights(pair[0].case_id, strata=pair[0].fold, resamples=400, seed=run)
        correct = [(p.logits.argmax(axis=1) == p.y_true).astype(float) for p in pair]
        gap = (correct[0] - correct[1])[np.argsort(pair[0].case_id)]
        naive_draws = images.weights @ gap / len(gap)
        rejected_by_image += bootstrap_p_value(one_seed(naive_draws, point=gap.mean())) < 0.05
    assert covered / runs > 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)
    assert rejected / runs < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert rejected_by_image / runs > 0.15

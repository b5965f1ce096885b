"""The kernel of the bootstrap against scikit-learn: ties, absent classes, masks, patients of several cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from archbench import resampling
from archbench.resampling import auroc, average_precision, mean_draws, question_draws

EXACT = {"rtol": 0, "atol": 1e-12}


def cases(rng, *, n, levels, patients, draws=4, prevalence=0.3, unknown=0.0):
    generator = np.random.default_rng(rng)
    rows = generator.integers(0, patients, size=n)
    scores = generator.integers(0, levels, size=(n, 2)) / levels
    targets = (generator.random((n, 2)) < prevalence).astype(float)
    targets[generator.random((n, 2)) < unknown] = np.nan
    weights = generator.multinomial(patients, np.full(patients, 1 / patients), size=draws).T.astype(np.uint16)
    return scores, targets, weights, rows


def expected(scores, targets, weight):
    """What scikit-learn says of the known cases, undefined where it has no positive or no negative weight."""
    known = ~np.isnan(targets)
    y_true, y_score, w = targets[known], scores[known], weight[known]
    n_positive, n_negative = w[y_true == 1].sum(), w[y_true == 0].sum()
    area = reference.roc_auc_score(y_true, y_score, sample_weight=w) if n_positive and n_negative else np.nan
    precision = reference.average_precision_score(y_true, y_score, sample_weight=w) if n_positive else np.nan
    return area, precision


@settings(max_examples=150, deadline=None)
@given(
    rng=st.integers(0, 100_000),
    n=st.integers(1, 80),
    levels=st.sampled_from([1, 2, 5, 1000]),
    patients=st.integers(1, 20),
    prevalence=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    unknown=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_both_areas_agree_with_sklearn(rng, n, levels, patients, prevalence, unknown):
    scores, targets, weights, rows = cases(
        rng, n=n, levels=levels, patients=patients, prevalence=prevalence, unknown=unknown
    )
    areas, precisions = question_draws(scores, targets, weights, rows)
    for draw in range(weights.shape[1]):
        for q in range(2):
            area, precision = expected(scores[:, q], targets[:, q], weights[rows, draw].astype(float))
            np.testing.assert_allclose(areas[q, draw], area, **EXACT)
            np.testing.assert_allclose(precisions[q, draw], precision, **EXACT)


def test_one_question_at_a_time_gives_the_same():
    scores, targets, weights, rows = cases(1, n=200, levels=30, patients=40)
    areas, precisions = question_draws(scores, targets, weights, rows)
    for q in range(2):
        positive = targets[:, q] == 1
        np.testing.assert_array_equal(auroc(scores[:, q], positive, weights, rows), areas[q])
        np.testing.assert_array_equal(average_precision(scores[:, q], positive, weights, rows), precisions[q])


def test_fractional_weights_agree_with_sklearn():
    generator = np.random.default_rng(0)
    scores, targets, _, rows = cases(2, n=300, levels=20, patients=50)
    weights = generator.random((50, 3))
    areas, precisions = question_draws(scores, targets, weights, rows)
    for draw in range(3):
        found = expected(scores[:, 0], targets[:, 0], weights[rows, draw])
        np.testing.assert_allclose((areas[0, draw], precisions[0, draw]), found, **EXACT)


def test_blocks_change_nothing(monkeypatch):
    scores, targets, weights, rows = cases(3, n=200, levels=50, patients=40, draws=30)
    whole = question_draws(scores, targets, weights, rows)
    monkeypatch.setattr(resampling, "FEW_DRAWS", 1)
    by_row = question_draws(scores, targets, weights, rows)
    monkeypatch.setattr(resampling, "BLOCK_DRAWS", 4)
    monkeypatch.setattr(resampling, "RUN", 3)
    monkeypatch.setattr(resampling, "PRODUCT_ELEMENTS", 40)
    for found, kept, other in zip(question_draws(scores, targets, weights, rows), by_row, whole, strict=True):
        np.testing.assert_allclose(found, kept, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [7, 1000])
@pytest.mark.parametrize("heaviest", [3, 400, 60_000])
def test_small_whole_numbers_and_floats_give_the_same(levels, heaviest):
    scores, targets, _, rows = cases(6, n=400, levels=levels, patients=90)
    generator = np.random.default_rng(7)
    weights = generator.integers(0, 3, size=(90, 40)).astype(np.uint16)
    weights[generator.integers(90, size=5)] = heaviest
    for small, wide in zip(
        question_draws(scores, targets, weights, rows),
        question_draws(scores, targets, weights.astype(float), rows),
        strict=True,
    ):
        np.testing.assert_allclose(small, wide, rtol=0, atol=1e-13)


def test_weights_are_counted_in_the_smallest_numbers_that_hold_their_sums():
    rows = np.arange(10)
    for heaviest, kind in ((6000, np.uint16), (6600, np.float32), (2_000_000, np.float64), (0.5, np.float64)):
        weights = np.full((10, 40), heaviest)
        assert [block.dtype for _, block in resampling.blocks(weights, rows)] == [kind]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 100_000), st.integers(1, 80), st.sampled_from([1, 3, 1000]), st.sampled_from([0.0, 0.1, 0.5, 1.0])
)
def test_running_down_the_steps_and_whole_arrays_give_the_same(rng, n, levels, prevalence):
    scores, targets, weights, rows = cases(rng, n=n, levels=levels, patients=10, prevalence=prevalence, draws=6)
    question = resampling.steps(scores[:, 0], targets[:, 0] == 1, rows, len(weights))
    found = [
        way(question, weights.astype(float), precision=True)
        for way in (resampling._sums_at_once, resampling._sums_in_blocks)
    ]
    for at_once, by_row in zip(*found, strict=True):
        np.testing.assert_allclose(by_row, at_once, rtol=1e-13, atol=1e-12)


def test_a_classifier_of_constant_score_has_half_the_area_and_the_prevalence():
    positive = np.arange(40) < 10
    assert auroc(np.ones(40), positive) == pytest.approx(0.5)
    assert average_precision(np.ones(40), positive) == pytest.approx(0.25)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="1 of 3 scores are NaN"):
        auroc(np.array([0.1, np.nan, 0.3]), np.array([True, False, False]))


def test_means_leave_undefined_cases_out():
    generator = np.random.default_rng(4)
    values, rows = generator.random(60), generator.integers(0, 12, size=60)
    values[:20] = np.nan
    weights = generator.integers(0, 3, size=(12, 5))
    for draw, found in enumerate(mean_draws(values, weights, rows)):
        assert found == pytest.approx(np.average(values[20:], weights=weights[rows[20:], draw]), abs=1e-12)
    assert np.isnan(mean_draws(np.full(60, np.nan), weights, rows)).all()

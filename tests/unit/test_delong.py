"""Clustered DeLong: against its formula written out, the bootstrap, published values and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from archbench.delong import auroc_interval, clustered_auroc, macro_auroc, newcombe_interval, paired_p_value
from archbench.resampling import auroc


def cohort(rng, *, patients=60, largest=6, models=2, gap=0.0):
    """Patients of 1 to `largest` images whose scores depend on each other; both classes within a patient."""
    generator = np.random.default_rng(rng)
    owner = np.repeat(np.arange(patients), generator.integers(1, largest + 1, size=patients))
    sick = generator.normal(size=patients)[owner] + generator.normal(size=len(owner)) > 0.3
    shared = generator.normal(size=(models, patients))[:, owner]
    scores = 1.2 * sick + shared + 0.7 * generator.normal(size=(models, len(owner)))
    scores[0] += gap * sick
    return scores, sick, owner


def by_the_formula(scores, positive, patients):
    """Obuchowski's equations with explicit loops over pairs of images and over patients."""
    x, y = scores[:, positive], scores[:, ~positive]
    wins = (x[:, :, None] > y[:, None, :]) + 0.5 * (x[:, :, None] == y[:, None, :])
    area, m, n = wins.mean(axis=(1, 2)), x.shape[1], y.shape[1]
    of_x, of_y = wins.mean(axis=2), wins.mean(axis=1)
    names = np.unique(patients)
    s10, s01, s11 = (np.zeros((len(scores), len(scores))) for _ in range(3))
    for name in names:
        a = (of_x - area[:, None])[:, patients[positive] == name].sum(axis=1)
        b = (of_y - area[:, None])[:, patients[~positive] == name].sum(axis=1)
        s10 += np.outer(a, a)
        s01 += np.outer(b, b)
        s11 += np.outer(a, b)
    i10, i01, i = len(np.unique(patients[positive])), len(np.unique(patients[~positive])), len(names)
    s10, s01, s11 = s10 * i10 / ((i10 - 1) * m), s01 * i01 / ((i01 - 1) * n), s11 * i / (i - 1)
    return area, s10 / m + s01 / n + (s11 + s11.T) / (m * n)


@pytest.mark.parametrize("rng", range(4))
def test_it_is_obuchowskis_formula(rng):
    scores, positive, patients = cohort(rng, models=3)
    scores = np.round(scores, rng % 2 + 1)  # ties
    found = clustered_auroc(scores, positive, patients)
    area, covariance = by_the_formula(scores, positive, patients)
    np.testing.assert_allclose(found.values, area, atol=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-14)
    np.testing.assert_allclose(found.values, [roc_auc_score(positive, row) for row in scores], atol=1e-12)


def test_variance_is_that_of_the_patient_bootstrap_and_not_of_the_image_one():
    scores, positive, patients = cohort(0, patients=300, models=2)
    found = clustered_auroc(scores, positive, patients)
    generator = np.random.default_rng(1)
    weights = generator.multinomial(300, np.full(300, 1 / 300), size=4000).T
    draws = auroc(scores[0], positive, weights, patients) - auroc(scores[1], positive, weights, patients)
    variance = found.covariance[0, 0] + found.covariance[1, 1] - 2 * found.covariance[0, 1]
    assert np.sqrt(variance) == pytest.approx(draws.std(), rel=0.06)
    by_image = clustered_auroc(scores, positive, np.arange(len(positive)))
    assert by_image.covariance[0, 0] < 0.7 * found.covariance[0, 0]


def test_a_macro_of_one_question_is_the_question_and_of_two_the_bootstraps():
    scores, positive, patients = cohort(3, patients=200)
    single, macro = clustered_auroc(scores, positive, patients), macro_auroc([(scores, positive, patients)])
    np.testing.assert_allclose(macro.values, single.values)
    np.testing.assert_allclose(macro.covariance, single.covariance, rtol=0.02)
    other, second, _ = cohort(4, patients=200)
    size = min(len(positive), len(second))
    questions = [
        (scores[:, :size], positive[:size], patients[:size]),
        (other[:, :size], second[:size], patients[:size]),
    ]
    found = macro_auroc(questions)
    weights = np.random.default_rng(0).multinomial(200, np.full(200, 1 / 200), size=3000).T
    draws = np.mean([auroc(s[0], p, weights, u) for s, p, u in questions], axis=0)
    assert np.sqrt(found.covariance[0, 0]) == pytest.approx(np.nanstd(draws), rel=0.08)


def test_newcombe_solves_its_equation():
    low, high = newcombe_interval(0.85, 30, 40, 0.95)
    for bound in (low, high):
        size = 34.0
        spread = 1 + size * (1 - bound) / (2 - bound) + size * bound / (1 + bound)
        assert (0.85 - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) * spread / 1200, rel=1e-5)
    assert low < 0.85 < high


def test_a_perfect_model_gets_an_interval_that_says_how_little_is_known():
    positive = np.arange(20) < 10
    perfect = clustered_auroc(positive[None, :].astype(float), positive, np.arange(20))
    low, high = auroc_interval(perfect, 0, 0.95)
    assert perfect.values[0] == 1.0 and high == 1.0 and 0.75 < low < 0.85
    more = np.arange(200) < 100
    tighter = clustered_auroc(more[None, :].astype(float), more, np.arange(200))
    assert low < auroc_interval(tighter, 0, 0.95)[0] < 1.0


@pytest.mark.parametrize(("patients", "skill"), [(20, 2.3), (40, 3.3)])
def test_intervals_of_few_patients_and_near_one_cover_where_percentiles_do_not(patients, skill):
    """300 cohorts at a true AUROC of .95 and .99; the tolerance is 3 standard errors below 95 %."""
    generator, runs, covered, of_percentiles = np.random.default_rng(0), 300, 0, 0
    truth = {2.3: 0.948, 3.3: 0.990}[skill]  # normal scores of equal spread: Phi(skill / sqrt 2)
    for _ in range(runs):
        positive = np.arange(patients) % 2 == 0
        scores = skill * positive + generator.normal(size=patients)
        low, high = auroc_interval(clustered_auroc(scores, positive, np.arange(patients)), 0, 0.95)
        covered += low <= truth <= high
        weights = generator.multinomial(patients, np.full(patients, 1 / patients), size=300).T
        draws = auroc(scores, positive, weights)
        of_percentiles += np.nanquantile(draws, 0.025) <= truth <= np.nanquantile(draws, 0.975)
    assert covered / runs > 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)
    assert of_percentiles < covered


def test_undefined_stays_undefined():
    one_class = clustered_auroc(np.array([[0.1, 0.4, 0.3]]), np.ones(3, bool), np.arange(3))
    assert np.isnan(one_class.values).all() and np.isnan(auroc_interval(one_class, 0, 0.95)).all()
    one_patient = clustered_auroc(np.array([[0.1, 0.4, 0.3]]), np.array([True, False, False]), np.arange(3))
    assert one_patient.values[0] == 0.0 and np.isnan(one_patient.covariance).all()
    assert np.isnan(paired_p_value(one_patient, 0, 0))


def test_identical_models_are_a_tie():
    scores, positive, patients = cohort(1)
    twice = clustered_auroc(np.stack([scores[0], 3 * scores[0]]), positive, patients)
    assert paired_p_value(twice, 0, 1) == 1.0


def test_the_paired_test_keeps_its_level_and_finds_a_planted_gap():
    """400 cohorts of 60 patients; 3 standard errors about 5 %. DeLong by image rejects far too often."""
    runs, rejected, by_image, found_gap = 400, 0, 0, 0
    for run in range(runs):
        scores, positive, patients = cohort(run)
        rejected += paired_p_value(clustered_auroc(scores, positive, patients), 0, 1) < 0.05
        by_image += paired_p_value(clustered_auroc(scores, positive, np.arange(len(positive))), 0, 1) < 0.05
        scores, positive, patients = cohort(run, gap=1.0)
        found_gap += paired_p_value(clustered_auroc(scores, positive, patients), 0, 1) < 0.05
    assert rejected / runs < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert by_image / runs > 0.12
    assert found_gap / runs > 0.7

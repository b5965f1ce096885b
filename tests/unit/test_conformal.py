"""Conformal sets: a library, the published formula, coverage for new patients, nothing leaks in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from planted import GRADES, planted
from planted_labels import halves, planted_labels
from sklearn.base import BaseEstimator, ClassifierMixin

from archbench.artifacts import softmax
from archbench.conformal import fit_class_sets, fit_label_sets, patient_quantile
from archbench.out_of_fold import LeakError, out_of_fold


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_with_one_image_per_patient_it_is_split_conformal_prediction(rng, n, coverage):
    """The limit is the ceil((n + 1) * coverage)-th smallest score, infinite beyond n."""
    scores = np.random.default_rng(rng).random(n)
    place = int(np.ceil(round((n + 1) * coverage, 9)))
    expected = np.sort(scores)[place - 1] if place <= n else np.inf
    assert patient_quantile(scores, np.arange(n), coverage) == expected


def test_a_patient_with_many_images_counts_once():
    scores = np.r_[np.linspace(0, 0.5, 19), np.full(500, 0.99)]
    patients = np.r_[np.arange(19), np.full(500, 19)]
    assert patient_quantile(scores, patients, 0.85) < 0.5
    assert patient_quantile(scores, np.arange(519), 0.85) == 0.99


def test_mapie_agrees_for_every_class():
    """MAPIE's LAC score on the cases of one class, one image per patient: the same limit."""
    generator = np.random.default_rng(0)
    probabilities = softmax(2 * generator.normal(size=(400, 3)))
    y_true = np.array([generator.choice(3, p=row) for row in probabilities])

    class Given:
        """A fitted classifier whose inputs are its probabilities."""

        classes_ = np.arange(3)

        def fit(self, features, targets):
            return self

        def predict_proba(self, features):
            return features

        def predict(self, features):
            return features.argmax(axis=1)

        def __sklearn_is_fitted__(self):
            return True

    estimator = type("Estimator", (Given, ClassifierMixin, BaseEstimator), {})()
    theirs = SplitConformalClassifier(estimator=estimator, confidence_level=0.9, conformity_score="lac", prefit=True)
    theirs.conformalize(probabilities[:200], y_true[:200])
    _, sets = theirs.predict_set(probabilities[200:])
    limit = patient_quantile(1 - probabilities[np.arange(200), y_true[:200]], np.arange(200), 0.9)
    np.testing.assert_array_equal(1 - probabilities[200:] <= limit + 1e-12, sets[:, :, 0])


def test_each_class_of_new_patients_is_covered_as_promised():
    """Patients of 1 to 9 images that resemble each other; mean over 40 cohorts, tolerance 3 standard errors."""
    held = {name: [] for name in GRADES}
    for rng in range(40):
        rows = planted(patients=300, images=3, rng=rng, skill=1.5)
        source, applied = halves(rows)
        found = fit_class_sets(source, applied=applied, seed=1, coverage=0.9, ordinal=False)
        sets = found.sets(applied.logits)
        for k, name in enumerate(GRADES):
            held[name].append(sets[applied.y_true == k, k].mean())
    for values in held.values():
        assert np.mean(values) > 0.9 - 3 * np.std(values) / np.sqrt(40)
        assert np.mean(values) < 0.95


def test_ordinal_sets_are_runs_of_grades_and_hold_the_others():
    source, applied = halves(planted(patients=200, skill=1.0))
    plain = fit_class_sets(source, applied=applied, seed=1, coverage=0.9, ordinal=False).sets(applied.logits)
    runs = fit_class_sets(source, applied=applied, seed=1, coverage=0.9, ordinal=True).sets(applied.logits)
    assert (runs >= plain).all() and (runs != plain).any()
    edges = np.abs(np.diff(np.c_[np.zeros(len(runs)), runs, np.zeros(len(runs))], axis=1)).sum(axis=1)
    assert (edges <= 2).all()


def test_a_class_of_few_patients_is_in_every_set():
    rows = planted(patients=100)
    rows.targets[rows.targets == 4] = 3
    rows.targets[:2] = 4
    source, applied = halves(rows.select(np.r_[0:200]), of_five=1)
    found = fit_class_sets(source, applied=applied, seed=1, coverage=0.9, ordinal=False)
    assert np.isinf(found.limits[4]) and found.sets(applied.logits)[:, 4].all()


def test_labels_are_covered_on_both_sides():
    held = []
    for rng in range(30):
        rows = planted_labels(patients=300, rng=rng, unknown=0.2, noise=1.5)
        source, applied = halves(rows)
        sets = fit_label_sets(source, applied=applied, seed=1, coverage=0.8).sets(applied.logits)
        for answer in (0, 1):
            mine = applied.targets == answer
            held.append([sets[:, k, answer][mine[:, k]].mean() for k in range(4)])
    means = np.array(held).reshape(30, 2, 4).mean(axis=0)
    assert (means > 0.8 - 0.04).all() and (means < 0.88).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 79))
def test_no_row_of_a_patient_they_are_applied_to_gets_in(row):
    grades, labels = planted(patients=40), planted_labels(patients=40)
    with pytest.raises(LeakError, match="other patients"):
        fit_class_sets(out_of_fold(grades), applied=grades.select(np.array([row])), seed=1, coverage=0.9, ordinal=True)
    with pytest.raises(LeakError, match="other patients"):
        fit_label_sets(out_of_fold(labels), applied=labels.select(np.array([row])), seed=1, coverage=0.9)
    with pytest.raises(TypeError, match="OutOfFold"):
        fit_label_sets(labels, applied=labels.select(np.arange(0)), seed=1, coverage=0.9)


def test_bad_coverage_is_refused():
    rows = planted(patients=20)
    with pytest.raises(ValueError, match="between 0 and 1"):
        fit_class_sets(out_of_fold(rows), applied=rows.select(np.arange(0)), seed=1, coverage=95, ordinal=True)

"""The ensemble: alignment, honest scoring, the rule of adoption, diagnostics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import cohort, holdout, noisy_logits, planted, table
from sklearn.linear_model import LogisticRegression

from archbench.artifacts import softmax
from archbench.ensemble import build_ensemble
from archbench.ensemble_diagnostics import better_label_order
from archbench.evaluation import evaluate
from archbench.members import mean_log_probabilities, stack_members
from archbench.metrics.metric import log_softmax
from archbench.stacking import solve

SETTINGS = {
    "candidates": ("mean", "logistic"),
    "primary": "qwk",
    "resamples": 300,
    "confidence": 0.95,
    "seed": 0,
}
SCORING = {
    "metrics": ("qwk", "auroc_macro"),
    "primary": "qwk",
    "resamples": 200,
    "confidence": 0.95,
    "seed": 0,
}


def members(*skills, **settings):
    return {f"m{k}": planted(skill=skill, rng=k + 1, **settings) for k, skill in enumerate(skills)}


def test_one_base_model_reproduces_itself():
    tables = members(1.5)
    predictions, decision = build_ensemble(tables, **SETTINGS)
    np.testing.assert_allclose(softmax(predictions.logits), softmax(tables["m0"].sorted().logits), atol=1e-6)
    assert decision["choice"] == "best base (m0)" and decision["best_base"] == "m0"
    first, second = evaluate(predictions, **SCORING), evaluate(tables["m0"], **SCORING)
    assert first["metrics"]["qwk"] == second["metrics"]["qwk"]
    assert first["metrics"]["auroc_macro"]["value"] == pytest.approx(
        second["metrics"]["auroc_macro"]["value"], abs=1e-6
    )


def test_independent_models_are_combined_and_it_helps():
    tables = members(1.2, 1.2, 1.2)
    predictions, decision = build_ensemble(tables, **SETTINGS)
    assert decision["choice"] in ("mean", "logistic")
    base, mean = decision["candidates"][0], decision["candidates"][1]
    assert mean["gain"]["low90"] > 0 and mean["against"] == base["name"] and base["gain"] is None
    assert "adopted" in decision["reason"]
    best = max(evaluate(table, **SCORING)["metrics"]["qwk"]["value"] for table in tables.values())
    assert evaluate(predictions, **SCORING)["metrics"]["qwk"]["value"] > best + 0.05
    assert [entry["fold"] for entry in decision["per_fold_choice"]] == [0, 1, 2, 3, 4]
    assert decision["diagnostics"] == []


def test_a_model_that_adds_nothing_leaves_the_best_base():
    tables = members(3.0, 0.0, 0.0)
    predictions, decision = build_ensemble(tables, **SETTINGS)
    assert decision["choice"] == "best base (m0)"
    assert "not adopted" in decision["reason"] and "simpler one stays" in decision["reason"]
    np.testing.assert_allclose(softmax(predictions.logits), softmax(tables["m0"].sorted().logits), atol=1e-6)
    assert any("uniform mean is clearly below the best base" in text for text in decision["diagnostics"])


@pytest.mark.parametrize("rng", range(3))
def test_noise_labels_stay_near_chance(rng):
    """Base models that memorised nothing about the test cases: the whole ensemble must not find skill."""
    case_id, patient_id, fold, y_true = cohort(patients=200, rng=rng)
    shuffled = np.random.default_rng(rng + 50).permutation(y_true)
    tables = {
        f"m{k}": table(case_id, patient_id, fold, shuffled, noisy_logits(y_true, skill=1.5, rng=10 * rng + k))
        for k in range(3)
    }
    predictions, _ = build_ensemble(tables, **{**SETTINGS, "primary": "auroc_macro"})
    assert abs(evaluate(predictions, **SCORING)["metrics"]["auroc_macro"]["value"] - 0.5) < 0.05


def test_predictions_of_a_fold_don_t_depend_on_its_own_targets():
    tables = members(1.0, 1.2, patients=60)
    changed = {}
    for name, predictions in tables.items():
        targets = predictions.targets.copy()
        of_fold = predictions.fold == 2
        targets[of_fold] = np.random.default_rng(0).permutation(targets[of_fold])
        changed[name] = replace(predictions, targets=targets)
    before, _ = build_ensemble(tables, **SETTINGS)
    after, _ = build_ensemble(changed, **SETTINGS)
    of_fold = before.fold == 2
    np.testing.assert_array_equal(before.logits[of_fold], after.logits[of_fold])


def test_order_of_rows_does_not_matter():
    tables = members(1.0, 1.2, patients=60)
    shuffled = {
        name: rows.select(np.random.default_rng(k).permutation(len(rows)))
        for k, (name, rows) in enumerate(tables.items())
    }
    first, decision = build_ensemble(tables, **SETTINGS)
    second, again = build_ensemble(shuffled, **SETTINGS)
    np.testing.assert_array_equal(first.logits, second.logits)
    assert decision == again


def test_seeds_are_combined_separately():
    both, _ = build_ensemble(members(1.0, 1.2, patients=60, seeds=(1, 2)), **{**SETTINGS, "candidates": ("mean",)})
    assert np.unique(both.seed).tolist() == [1, 2] and len(both) == 240
    assert (both.logits[both.seed == 1] != both.logits[both.seed == 2]).any()


def test_a_holdout_fits_on_validation_and_predicts_both_parts():
    tables = {f"m{k}": holdout(skill=1.2, rng=k) for k in range(3)}
    predictions, decision = build_ensemble(tables, **SETTINGS)
    assert len(predictions.val) == len(tables["m0"].val) and len(predictions.test) == len(tables["m0"].test)
    assert len(decision["per_fold_choice"]) == 1
    # the test targets are never looked at
    blind = {}
    for name, rows in tables.items():
        targets = rows.targets.copy()
        targets[rows.split == "test"] = 0.0
        blind[name] = replace(rows, targets=targets)
    again, same = build_ensemble(blind, **SETTINGS)
    np.testing.assert_array_equal(predictions.logits, again.logits)
    assert same == decision


def test_one_validation_patient_allows_no_fit_but_an_ensemble():
    tables = {f"m{k}": holdout(skill=1.2, rng=k) for k in range(2)}
    first = tables["m0"].val.patient_id[0]
    tables = {name: one.select((one.split == "test") | (one.patient_id == first)) for name, one in tables.items()}
    predictions, decision = build_ensemble(tables, **SETTINGS)
    assert decision["choice"] == f"best base ({decision['best_base']})"
    assert {item["name"] for item in decision["skipped"]} == {"mean", "logistic"}
    assert len(predictions) == len(tables["m0"])


def test_two_folds_fall_back_to_groups_of_patients():
    predictions, decision = build_ensemble(members(1.2, 1.2, folds=2), **SETTINGS)
    assert len(predictions) == 300 and len(decision["per_fold_choice"]) == 2


def test_without_a_test_part_the_plain_mean_is_taken_and_said():
    tables = members(1.0, 1.2, folds=1, split="val")
    predictions, decision = build_ensemble(tables, **SETTINGS)
    assert decision["choice"] == "mean" and "Nothing could be fitted" in decision["reason"]
    expected = np.mean([softmax(rows.sorted().logits) for rows in tables.values()], axis=0)
    np.testing.assert_allclose(softmax(predictions.logits), expected, atol=1e-6)


def test_unknown_targets_get_a_prediction():
    tables = members(1.0, 1.2, patients=60)
    for rows in tables.values():
        rows.targets[5] = np.nan
    predictions, _ = build_ensemble(tables, **SETTINGS)
    assert len(predictions) == 120 and np.isfinite(predictions.logits).all()


def broken(rows, way):
    if way == "class order":
        return replace(rows, classes=rows.classes[::-1])
    if way == "rows":
        return rows.select(np.arange(len(rows) - 1))
    if way == "case":
        cases = rows.case_id.copy()
        cases[0] = "other000"
        return replace(rows, case_id=cases)
    targets = rows.targets.copy()
    targets[0] = (targets[0] + 1) % 5
    return replace(rows, targets=targets)


@pytest.mark.parametrize("way", ["class order", "rows", "case", "targets"])
def test_misaligned_members_are_named(way):
    tables = members(1.0, 1.0, patients=20)
    tables["m1"] = broken(tables["m1"], way)
    with pytest.raises(ValueError, match="m1"):
        stack_members(tables)


def test_a_permuted_label_order_is_flagged_and_only_there():
    tables = members(2.0, 2.0, 2.0)
    tables["m1"] = replace(tables["m1"], logits=tables["m1"].logits[:, [1, 2, 3, 4, 0]])
    _, decision = build_ensemble(tables, **SETTINGS)
    flagged = [text for text in decision["diagnostics"] if "label order" in text and "reordered" in text]
    assert len(flagged) == 1 and flagged[0].startswith("m1")
    y_true = tables["m0"].y_true
    assert better_label_order(softmax(tables["m1"].logits), y_true) == [1, 2, 3, 4, 0]
    assert better_label_order(softmax(tables["m0"].logits), y_true) is None
    assert better_label_order(np.full((len(y_true), 5), 0.2), y_true) is None


def test_mean_is_the_mean_of_probabilities():
    tables = members(1.0, 1.0, patients=20)
    found = mean_log_probabilities(stack_members(tables), 2)
    expected = np.mean([softmax(rows.sorted().logits) for rows in tables.values()], axis=0)
    np.testing.assert_allclose(np.exp(found), expected, atol=1e-12)


def test_stacking_is_at_least_as_good_as_sklearns_ridge():
    """The uniform mean is one direction more than scikit-learn's model has, so the same penalised loss gets lower."""
    stacked = stack_members(members(1.0, 1.5))
    logits = stacked.logits.reshape(len(stacked), 2, 5).astype(float)
    found = solve(logits, stacked.y_true, 10.0)
    features = ((logits - logits.mean(axis=2, keepdims=True)).reshape(len(logits), -1) - found.centre) / found.scale
    reference = LogisticRegression(C=0.1, max_iter=5000, tol=1e-10).fit(features, stacked.y_true)

    def loss(predicted, coefficients):
        return 5.0 * (coefficients**2).sum() - predicted[np.arange(len(predicted)), stacked.y_true].sum()

    theirs = loss(reference.predict_log_proba(features), reference.coef_)
    assert loss(found.log_probabilities(logits), found.coefficients) <= theirs + 1e-3


def test_stacking_is_sklearns_ridge_where_the_uniform_mean_says_nothing():
    rows = planted()
    logits = rows.logits.astype(float) - rows.logits.mean(axis=1, keepdims=True)
    # the opposite of a model beside it: equal logits on average, but log probabilities are not linear, so the
    # probabilities are compared, not the coefficients
    shifted = np.stack([0.01 * logits, -0.01 * logits], axis=1)
    found = solve(shifted, rows.y_true, 10.0)
    features = (shifted.reshape(len(rows), -1) - found.centre) / found.scale
    reference = LogisticRegression(C=0.1, max_iter=5000, tol=1e-10).fit(features, rows.y_true)
    np.testing.assert_allclose(np.exp(found.log_probabilities(shifted)), reference.predict_proba(features), atol=5e-3)


def test_a_strong_ridge_falls_back_to_the_scaled_uniform_mean():
    tables = members(1.0, 1.5)
    stacked = stack_members(tables)
    logits = stacked.logits.reshape(len(stacked), 2, 5)
    found = solve(logits, stacked.y_true, 1e9)
    expected = log_softmax(found.slope * log_softmax(logits).mean(axis=1) + found.intercept)
    np.testing.assert_allclose(found.log_probabilities(logits), expected, atol=1e-4)


def test_a_class_without_cases_stays_finite():
    tables = members(1.5, 1.5, patients=40)
    stacked = stack_members(tables)
    y_true = np.minimum(stacked.y_true, 3)
    found = solve(stacked.logits.reshape(len(stacked), 2, 5), y_true, 3.0)
    assert np.isfinite(found.intercept).all() and np.isfinite(found.coefficients).all()

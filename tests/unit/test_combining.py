"""Ensembles on out-of-fold logits: gradients, planted weights, honest scores, and the rule of patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted
from planted_labels import halves, planted_labels
from scipy.optimize import approx_fprime, minimize

from archbench.calibrated_mean import fit_calibrated_greedy, fit_calibrated_mean, fit_calibrated_weights
from archbench.combining import (
    Blend,
    fit_gate,
    fit_greedy,
    fit_weights,
    loss_and_gradient,
    member_scores,
    members_to_fit,
    one_blas_thread,
)
from archbench.label_stacking import fit_label_stacker, solve
from archbench.members import mean_log_odds, member_logits, stack_members
from archbench.neural_stacking import NetworkSettings, backward, fit_network, forward, train_network
from archbench.out_of_fold import LeakError, cross_fitted, out_of_fold
from archbench.recalibration import fit_platt
from archbench.resampling import question_draws
from archbench.temperature import fit_temperature

FITS = {
    "calibrated mean": fit_calibrated_mean,
    "calibrated weights": fit_calibrated_weights,
    "calibrated greedy": fit_calibrated_greedy,
    "weights": fit_weights,
    "greedy": fit_greedy,
    "gate": fit_gate,
    "per label": fit_label_stacker,
    "network": lambda *a, **k: fit_network(*a, **k, settings=NetworkSettings(epochs=1, hidden=(8, 4))),
}


def stack(*noises, **settings_of):
    return stack_members({f"m{k}": planted_labels(noise=n, rng=k + 1, **settings_of) for k, n in enumerate(noises)})


def uniform(n_members):
    return Blend(np.full(n_members, 1.0 / n_members))


def macro_auroc(scores, rows):
    area, _ = question_draws(scores, rows.targets, np.ones((len(rows), 1)), np.arange(len(rows)))
    return float(area.mean())


def loss(scores, rows):
    return loss_and_gradient(scores, rows.targets, multilabel=True)[0]


@pytest.mark.parametrize("multilabel", [True, False])
def test_the_gradient_is_that_of_the_loss(multilabel):
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(6, 4))
    targets = (generator.random((6, 4)) < 0.5).astype(float) if multilabel else generator.integers(0, 4, size=6)
    if multilabel:
        targets[2, 1] = np.nan
    value, gradient = loss_and_gradient(scores, targets, multilabel=multilabel)
    numeric = approx_fprime(
        scores.ravel(), lambda x: loss_and_gradient(x.reshape(6, 4), targets, multilabel=multilabel)[0], 1e-7
    )
    np.testing.assert_allclose(gradient.ravel(), numeric, atol=1e-6)
    assert value > 0


def test_weights_favour_the_better_member_and_gain_over_the_mean():
    source, applied = halves(stack(0.5, 3.0, patients=400))
    found = fit_weights(source, applied=applied, n_members=2, seed=1)
    assert found.weights[0] > 0.8 and found.weights.sum() == pytest.approx(1.0)
    members = member_scores(applied, 2)
    assert macro_auroc(found.scores(members), applied) > macro_auroc(uniform(2).scores(members), applied)


def test_weights_work_for_classes_that_exclude_each_other():
    rows = stack_members({"good": planted(skill=2.5, rng=1), "bad": planted(skill=0.3, rng=2)})
    source, applied = halves(rows)
    members = member_scores(applied, 2)
    np.testing.assert_allclose(np.exp(members).sum(axis=2), 1.0)
    for fit in (fit_weights, fit_greedy):
        found = fit(source, applied=applied, n_members=2, seed=1)
        assert found.weights[0] > 0.7 and found.scores(members).shape == (len(applied), 5)


def test_greedy_takes_members_several_times_and_one_member_reproduces_itself():
    source, applied = halves(stack(0.7, 1.0, 4.0, patients=300))
    found = fit_greedy(source, applied=applied, n_members=3, seed=1)
    assert found.weights[0] > found.weights[2] and found.weights.sum() == pytest.approx(1.0)
    assert found.weights.max() > 1 / 3
    alone, rest = halves(stack(1.0))
    np.testing.assert_array_equal(fit_greedy(alone, applied=rest, n_members=1, seed=1).weights, [1.0])
    np.testing.assert_allclose(fit_weights(alone, applied=rest, n_members=1, seed=1).weights, [1.0])


def test_greedy_follows_another_goal():
    source, applied = halves(stack(0.7, 0.7, patients=200))
    second = member_scores(source.rows, 2)[:, 1]
    found = fit_greedy(source, applied=applied, n_members=2, seed=1, goal=lambda s: -float(np.abs(s - second).sum()))
    np.testing.assert_array_equal(found.weights, [0.0, 1.0])


def test_stacking_per_label_gives_each_label_its_member():
    first, second = planted_labels(noise=0.5, rng=1, patients=600), planted_labels(noise=0.5, rng=2, patients=600)
    generator = np.random.default_rng(0)
    first.logits[:, 2:] = generator.normal(size=first.logits[:, 2:].shape)
    second.logits[:, :2] = generator.normal(size=second.logits[:, :2].shape)
    source, applied = halves(stack_members({"a": first, "b": second}))
    found = fit_label_stacker(source, applied=applied, n_members=2, seed=1)
    assert (found.weights >= 0).all()
    assert (found.weights[0, :2] > 4 * found.weights[1, :2]).all()
    assert (found.weights[1, 2:] > 4 * found.weights[0, 2:]).all()
    members = member_scores(applied, 2)
    assert macro_auroc(found.scores(members), applied) > macro_auroc(uniform(2).scores(members), applied) + 0.01


def test_a_member_that_says_the_opposite_gets_no_negative_weight():
    rows = stack(0.5, 0.5, patients=300)
    logits = member_logits(rows, 2).astype(float)
    logits[:, 1] *= -1
    with one_blas_thread():
        weights, _ = solve(logits, rows.targets, 0.1)
    np.testing.assert_array_equal(weights[1], 0.0)


def test_a_strong_ridge_is_the_uniform_mean_and_unknown_labels_keep_it():
    rows = stack(0.5, 2.0, patients=200)
    rows.targets[:, 3] = np.nan
    weights, intercept = solve(member_logits(rows, 2).astype(float), rows.targets, 1e9)
    np.testing.assert_allclose(weights, 0.5, atol=1e-4)
    weights, intercept = solve(member_logits(rows, 2).astype(float), rows.targets, 1.0)
    np.testing.assert_array_equal(weights[:, 3], 0.5)
    assert intercept[3] == 0.0


def test_stacking_per_label_is_the_optimum_of_its_penalised_loss():
    rows = stack(0.8, 1.2, patients=150)
    logits, targets = member_logits(rows, 2)[:, :, 0].astype(float), rows.targets[:, 0]

    def objective(x):
        odds = logits @ x[:2] + x[2]
        return np.logaddexp(0, odds).sum() - targets @ odds + 1.5 * ((x[:2] - 0.5) ** 2).sum() + 5e-4 * x[2] ** 2

    best = minimize(objective, [0.5, 0.5, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
    weights, intercept = solve(member_logits(rows, 2).astype(float), rows.targets, 3.0)
    np.testing.assert_allclose([*weights[:, 0], intercept[0]], best.x, atol=1e-3)


def test_attention_follows_the_member_that_knows_the_case():
    """Each member knows one half of the cases and shows large logits there: a gate can tell, a mean can't."""
    first, second = planted_labels(noise=0.3, rng=1, patients=600), planted_labels(noise=0.3, rng=2, patients=600)
    half = np.random.default_rng(0).random(len(first)) < 0.5
    generator = np.random.default_rng(1)
    first.logits[half] = 0.05 * generator.normal(size=first.logits[half].shape) - 4.0
    second.logits[~half] = 0.05 * generator.normal(size=second.logits[~half].shape) - 4.0
    source, applied = halves(stack_members({"a": first, "b": second}))
    gate = fit_gate(source, applied=applied, n_members=2, seed=1, ridge=1e-4)
    members = member_scores(applied, 2)
    np.testing.assert_allclose(gate.weights(members).sum(axis=1), 1.0)
    assert loss(gate.scores(members), applied) < 0.9 * loss(uniform(2).scores(members), applied)
    flat = fit_gate(source, applied=applied, n_members=2, seed=1, ridge=1e6)
    np.testing.assert_allclose(flat.weights(members), 0.5, atol=1e-3)


def test_a_mean_of_calibrated_logits_hears_no_member_better_because_it_shouts():
    """The better member whispers, the worse one shouts: the mean of probabilities follows the worse one."""
    better, worse = planted_labels(noise=0.3, rng=1, patients=500), planted_labels(noise=3.0, rng=2, patients=500)
    tables = {"a": replace(better, logits=0.1 * better.logits), "b": replace(worse, logits=6.0 * worse.logits + 2.0)}
    source, applied = halves(stack_members(tables))
    members = member_scores(applied, 2)
    found = fit_calibrated_mean(source, applied=applied, n_members=2, seed=1)
    plain, calibrated = mean_log_odds(applied, 2), found.scores(members)
    assert macro_auroc(calibrated, applied) > macro_auroc(plain, applied) + 0.05
    assert loss(calibrated, applied) < loss(plain, applied)
    # each member alone is calibrated as the workflow calibrates a model
    for k, table in enumerate(tables.values()):
        own, rest = halves(table)
        line = fit_platt(own, applied=rest, seed=1)
        np.testing.assert_allclose(found.weights[k], line.slope / 2, rtol=1e-9)


@pytest.mark.parametrize("fit", [fit_calibrated_weights, fit_calibrated_greedy])
@pytest.mark.parametrize("make", [planted_labels, planted])
def test_weights_of_calibrated_members_do_not_depend_on_how_loud_a_member_is(fit, make):
    """The order of the protocol: calibrate, then combine. A member times 8 says the same, and weighs the same."""
    quiet, other = make(rng=1, patients=200), make(rng=2, patients=200)
    found = []
    for factor in (1.0, 8.0):
        stacked = stack_members({"a": replace(quiet, logits=factor * quiet.logits), "b": other})
        source, applied = halves(stacked)
        fitted = fit(source, applied=applied, n_members=2, seed=1)
        found.append(fitted.scores(member_scores(applied, 2)))
        assert (fitted.weights > 0).all()
    centred = [scores - scores.mean(axis=1, keepdims=True) if make is planted else scores for scores in found]
    np.testing.assert_allclose(centred[0], centred[1], atol=0.02)


def test_a_mean_of_calibrated_logits_of_classes_is_scaled_by_each_temperature():
    tables = {"a": planted(skill=1.5, rng=1), "b": planted(skill=1.5, rng=2)}
    tables["b"] = replace(tables["b"], logits=5.0 * tables["b"].logits)
    source, applied = halves(stack_members(tables))
    found = fit_calibrated_mean(source, applied=applied, n_members=2, seed=1)
    temperatures = []
    for table in tables.values():
        own, rest = halves(table.sorted())
        temperatures.append(fit_temperature(own, applied=rest, seed=1).temperature)
    np.testing.assert_allclose(found.weights, np.repeat(0.5 / np.array(temperatures)[:, None], 5, axis=1), rtol=1e-6)
    assert temperatures[1] > 3 * temperatures[0] and (found.intercept == 0).all()


def test_the_networks_gradient_is_right():
    generator = np.random.default_rng(0)
    layers = tuple((generator.normal(size=(a, b)), generator.normal(size=b)) for a, b in ((3, 5), (5, 4), (4, 2)))
    inputs, targets = generator.normal(size=(7, 3)), (generator.random((7, 2)) < 0.5).astype(float)
    kept = tuple((generator.random((7, width)) > 0.3) / 0.7 for width in (5, 4))

    def value(flat):
        parts, place = [], 0
        for weights, bias in layers:
            size = weights.size
            parts.append((flat[place : place + size].reshape(weights.shape), flat[place + size :][: bias.size]))
            place += size + bias.size
        return loss_and_gradient(forward(inputs, tuple(parts), kept)[-1], targets, multilabel=True)[0]

    flat = np.concatenate([np.r_[w.ravel(), b] for w, b in layers])
    values = forward(inputs, layers, kept)
    _, of_outputs = loss_and_gradient(values[-1], targets, multilabel=True)
    found = np.concatenate([np.r_[w.ravel(), b] for w, b in backward(values, of_outputs, layers, kept)])
    np.testing.assert_allclose(found, approx_fprime(flat, value, 1e-7), atol=1e-5)


def test_a_trained_network_learns_and_stops():
    rows = stack(0.5, 0.5, patients=500)
    source, applied = halves(rows)
    settings_of = NetworkSettings(hidden=(64, 128), lr=1e-3, epochs=30, patience=4, plateau=2)
    found = fit_network(source, applied=applied, n_members=2, seed=1, settings=settings_of)
    assert len(found.history) < 30 and min(found.history) < found.history[0]
    members = member_scores(applied, 2)
    assert macro_auroc(found.scores(members), applied) > macro_auroc(uniform(2).scores(members), applied) - 0.05
    again = fit_network(source, applied=applied, n_members=2, seed=1, settings=settings_of)
    np.testing.assert_array_equal(found.scores(members), again.scores(members))
    assert loss(found.scores(members), applied) < 1.1 * loss(uniform(2).scores(members), applied)


def test_a_network_fed_in_sample_predictions_falls_below_its_best_member():
    """The story of the study that this workflow replaces: members that memorised what the network is trained on."""
    good, overfitted = planted_labels(noise=0.8, rng=1, patients=300), planted_labels(noise=4.0, rng=2, patients=300)
    applied_rows = stack_members({"a": good, "b": overfitted}).select(good.sorted().fold == 0)
    memorised = overfitted.logits.copy()
    memorised[:] = 6.0 * (overfitted.targets - 0.5)
    in_sample = stack_members({"a": good, "b": type(good)(**{**vars(overfitted), "logits": memorised})})
    settings_of = NetworkSettings(hidden=(64, 128), lr=1e-3)
    results = {}
    for name, rows in (("honest", stack_members({"a": good, "b": overfitted})), ("in-sample", in_sample)):
        source = out_of_fold(rows.select(rows.fold != 0))
        data = members_to_fit(source, applied=applied_rows, n_members=2, seed=1)
        network = train_network(data, held_out=data.group == 4, seed=1, settings=settings_of)
        results[name] = macro_auroc(network.scores(member_scores(applied_rows, 2)), applied_rows)
    best_base = macro_auroc(member_scores(applied_rows, 2)[:, 0], applied_rows)
    assert results["in-sample"] < best_base - 0.05 < results["honest"]


def test_noise_stays_near_chance_through_every_cross_fitted_ensemble():
    rows = stack(0.5, 0.5, 0.5, patients=300)
    order = np.random.default_rng(0).permutation(len(rows))
    rows.targets[:] = rows.targets[order]
    source = out_of_fold(rows)
    for name in ("calibrated weights", "calibrated greedy", "weights", "greedy", "gate", "per label"):

        def predict(fit_on, to, fit=FITS[name]):
            return fit(fit_on, applied=to, n_members=3, seed=1).scores(member_scores(to, 3))

        assert macro_auroc(cross_fitted(source, predict), source.rows) == pytest.approx(0.5, abs=0.05), name


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(FITS)), st.integers(0, 79))
def test_no_row_of_a_patient_it_is_applied_to_gets_in(name, row):
    rows = stack(1.0, 1.0, patients=40)
    with pytest.raises(LeakError, match="other patients"):
        FITS[name](out_of_fold(rows), applied=rows.select(np.array([row])), n_members=2, seed=1)
    with pytest.raises(TypeError, match="OutOfFold"):
        FITS[name](rows, applied=rows.select(np.array([row])), n_members=2, seed=1)


@pytest.mark.parametrize("name", sorted(FITS))
def test_scores_of_a_group_do_not_depend_on_its_own_targets(name):
    def cross(rows):
        def predict(fit_on, to):
            return FITS[name](fit_on, applied=to, n_members=2, seed=1).scores(member_scores(to, 2))

        return cross_fitted(out_of_fold(rows), predict)

    rows, changed = stack(1.0, 1.0, patients=40), stack(1.0, 1.0, patients=40)
    of_fold = rows.fold == 2
    changed.targets[of_fold] = 1.0 - changed.targets[of_fold]
    before, after = cross(rows), cross(changed)
    np.testing.assert_array_equal(before[of_fold], after[of_fold])
    assert (before[~of_fold] != after[~of_fold]).any()


def test_other_seeds_and_tasks_are_refused():
    source, applied = halves(stack(1.0, 1.0, patients=40))
    with pytest.raises(ValueError, match="seed 9"):
        fit_weights(source, applied=applied, n_members=2, seed=9)
    grades, rest = halves(stack_members({"a": planted(patients=40), "b": planted(patients=40, rng=2)}))
    with pytest.raises(ValueError, match="labels that may occur together"):
        fit_label_stacker(grades, applied=rest, n_members=2, seed=1)

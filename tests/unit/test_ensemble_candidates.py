"""Every candidate on every task, fallback label by label, the decision's content, and the rule of patients."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from label_tables import zone_table
from planted import planted
from planted_labels import LABELS, planted_labels

from archbench.ensemble import build_ensemble
from archbench.ensemble_candidates import COMPLEXITY, Stack, apply_candidate, plain_mean
from archbench.ensemble_record import DELIVERED
from archbench.evaluation import evaluate
from archbench.members import stack_members
from archbench.neural_stacking import NetworkSettings
from archbench.out_of_fold import LeakError, out_of_fold

SMALL = NetworkSettings(hidden=(16, 8), epochs=30, lr=1e-2)
SETTINGS = {"primary": "auroc_macro", "resamples": 200, "confidence": 0.95, "seed": 0, "network": SMALL}


def labels(*, outputs="labels", **settings):
    table = planted_labels(**settings)
    return replace(table, metadata={"outputs": outputs, "decision": "argmax"})


def values(**settings):
    table = planted(**settings)
    number = table.targets + np.random.default_rng(settings["rng"]).normal(size=table.targets.shape)
    return replace(
        table, logits=number.astype(np.float32), classes=("score",), labels=("score",), metadata={"outputs": "value"}
    )


TASKS = {
    "classes": (lambda rng: planted(skill=1.2, rng=rng, patients=80), "qwk"),
    "labels": (lambda rng: labels(noise=1.0, rng=rng, patients=120), "auroc_macro"),
    "zones": (lambda rng: zone_table(skill=0.6, rng=rng), "macro_f1"),
    "value": (lambda rng: values(rng=rng, patients=80), "mae"),
}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_candidate_is_tried_simple_before_complex_and_scored(task):
    make, primary = TASKS[task]
    members = {"a": make(1), "b": make(2)}
    backwards = tuple(reversed(COMPLEXITY))
    table, decision = build_ensemble(members, candidates=backwards, **{**SETTINGS, "primary": primary})
    assert len(table) == len(members["a"]) and np.isfinite(table.logits).all()
    tried = [item["name"] for item in decision["candidates"]]
    assert tried[0].startswith("best base") and tried[1:] == (["mean"] if task == "value" else list(COMPLEXITY))
    for item in decision["candidates"]:
        assert item["low"] <= item["value"] <= item["high"] and item["reason"]
    assert {item["name"] for item in decision["base_models"]} == {"a", "b"}
    skipped = [item["name"] for item in decision["skipped"]]
    assert skipped == (list(COMPLEXITY[1:]) if task == "value" else [])
    json.dumps(decision, allow_nan=False)


def test_an_unknown_candidate_is_named():
    with pytest.raises(ValueError, match=r"unknown candidates \['median'\] \(known: mean, calibrated_mean, weighted"):
        build_ensemble({"a": planted()}, candidates=("median",), **SETTINGS)


def test_the_record_counts_improved_labels_against_the_best_member():
    members = {"a": labels(noise=1.0, rng=1, patients=300), "b": labels(noise=1.0, rng=2, patients=300)}
    table, decision = build_ensemble(members, candidates=("mean",), **SETTINGS)
    found = decision["improvement"]
    assert found["labels"] == list(LABELS) and found["base"] == decision["best_base"]
    assert [item["name"] for item in found["candidates"]] == ["mean", DELIVERED]
    scoring = {"metrics": ("auroc_macro",), "primary": "auroc_macro", "resamples": 200, "confidence": 0.95, "seed": 0}
    ours, base = evaluate(table, **scoring), evaluate(members[found["base"]], **scoring)
    gains = {
        name: ours["per_class"][name]["auroc"]["value"] - base["per_class"][name]["auroc"]["value"] for name in LABELS
    }
    delivered = found["candidates"][-1]
    assert [gain["value"] for gain in delivered["gains"]] == pytest.approx([gains[name] for name in LABELS], abs=1e-6)
    assert delivered["n_improved"] == sum(gain > 0 for gain in gains.values()) == 4
    assert delivered["n_surely_improved"] == sum(gain["low90"] > 0 for gain in delivered["gains"])


def test_a_label_that_the_ensemble_spoils_goes_back_to_the_best_member():
    good, helper = labels(noise=1.5, rng=1, patients=400), labels(noise=1.5, rng=2, patients=400)
    helper.logits[:, 3] = 0.5 * np.random.default_rng(0).normal(size=len(good))  # knows three labels only
    table, decision = build_ensemble({"good": good, "helper": helper}, candidates=("mean",), **SETTINGS)
    assert decision["choice"] == "mean"
    assert [item["choice"] for item in decision["labels"]] == ["mean", "mean", "mean", "good"]
    assert "worse here" in decision["labels"][3]["reason"]
    table, own = table.sorted(), good.sorted()
    for item in decision["per_fold_choice"]:  # nested: each fold's fallback was decided by the others
        inside = table.fold == item["fold"]
        same = np.isclose(table.logits[inside], own.logits[inside], atol=1e-5).all(axis=0)
        alone = item["choice"] == "best base (good)"
        assert same.tolist() == [alone, alone, alone, alone or item["fell_back"] == ["fracture"]]
    assert sum(item["fell_back"] == ["fracture"] for item in decision["per_fold_choice"]) >= 3
    mean, delivered = decision["improvement"]["candidates"]
    assert mean["gains"][3]["high90"] < 0 and delivered["gains"][3]["value"] > mean["gains"][3]["value"]


def test_a_zone_goes_back_alone():
    good, helper = zone_table(n=800, skill=0.8, rng=1), zone_table(n=800, skill=0.8, rng=2)
    helper.logits[:, 8:] = np.random.default_rng(0).normal(size=helper.logits[:, 8:].shape)
    members = {"good": good, "helper": helper}
    table, decision = build_ensemble(members, candidates=("mean",), **{**SETTINGS, "primary": "macro_f1"})
    assert decision["choice"] == "mean"
    assert [item["choice"] for item in decision["labels"]] == ["mean", "mean", "good"]
    assert all(item["fell_back"] == ["lower"] for item in decision["per_fold_choice"])
    decided = [rows.sorted().logits[:, 8:].argmax(axis=1) for rows in (table, good)]
    np.testing.assert_array_equal(*decided)
    assert (table.logits[:, :4].argmax(axis=1) != good.sorted().logits[:, :4].argmax(axis=1)).any()


def test_labels_without_a_known_value_and_soft_targets_are_never_learnt_from():
    first, second = labels(noise=0.8, rng=1, unknown=0.2), labels(noise=0.8, rng=2, unknown=0.2)
    first.targets[:, 0] = second.targets[:, 0] = np.nan_to_num(first.targets[:, 0])  # no case is wholly unknown
    soft = {}
    for name, rows in (("a", first), ("b", second)):
        targets = np.where(np.isnan(rows.targets), 0.7, rows.targets)  # what a policy makes of an uncertain label
        soft[name] = replace(rows, targets=targets)
    for candidate in COMPLEXITY[1:]:
        results = []
        for members in ({"a": first, "b": second}, soft):
            stack = Stack(("a", "b"), SMALL)
            stacked = stack_members(members)
            inside = stacked.fold == 0
            results.append(
                apply_candidate(candidate, out_of_fold(stacked.select(~inside)), stacked.select(inside), stack)
            )
        np.testing.assert_allclose(results[0], results[1], err_msg=candidate)


@pytest.mark.parametrize("task", ["classes", "labels", "zones"])
@pytest.mark.parametrize("candidate", COMPLEXITY)
def test_no_candidate_sees_the_patients_it_is_applied_to(candidate, task):
    stacked = stack_members({name: TASKS[task][0](rng) for rng, name in enumerate("ab")})
    stack = Stack(("a", "b"), SMALL)
    with pytest.raises(LeakError, match="other patients"):
        apply_candidate(candidate, out_of_fold(stacked), stacked.select(np.array([0])), stack)
    assert not stack.fits, "what is refused is not fitted"
    changed = replace(stacked, targets=stacked.targets.copy())
    of_fold = stacked.fold == 1
    changed.targets[of_fold] = changed.targets[of_fold][::-1]
    source, other = out_of_fold(stacked).without(1), out_of_fold(changed).without(1)
    np.testing.assert_array_equal(
        apply_candidate(candidate, source, stacked.select(of_fold), stack),
        apply_candidate(candidate, other, changed.select(of_fold), Stack(("a", "b"), SMALL)),
    )


def test_the_same_rows_are_fitted_once_and_others_anew():
    stacked = stack_members({name: TASKS["labels"][0](rng) for rng, name in enumerate("ab")})
    source, stack = out_of_fold(stacked), Stack(("a", "b"), SMALL)
    first = apply_candidate("logistic", source.without(1), source.of(1), stack)
    fitted = dict(stack.fits)
    np.testing.assert_array_equal(apply_candidate("logistic", source.without(1), source.of(1), stack), first)
    # the folds left out in another order are the same rows, and a fit may be applied to either of the two
    apply_candidate("logistic", source.without(1).without(2), source.of(2), stack)
    apply_candidate("logistic", source.without(2).without(1), source.of(1), stack)
    assert len(fitted) == 1 and len(stack.fits) == 2
    flipped = replace(stacked, targets=1.0 - stacked.targets)
    other = apply_candidate("logistic", out_of_fold(flipped).without(1), flipped.select(flipped.fold == 1), stack)
    assert len(stack.fits) == 3 and np.abs(other - first).max() > 0.1
    with pytest.raises(LeakError, match="other patients"):
        apply_candidate("logistic", source.without(1), source.of(2), stack)


def test_the_mean_of_labels_is_that_of_their_probabilities():
    tables = {"a": labels(noise=1.0, rng=1, patients=20), "b": labels(noise=1.0, rng=2, patients=20)}
    found = plain_mean(stack_members(tables), 2)
    expected = np.mean([1 / (1 + np.exp(-t.sorted().logits.astype(float))) for t in tables.values()], axis=0)
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), expected, atol=1e-12)
    extreme = {name: replace(table, logits=table.logits * 1e3) for name, table in tables.items()}
    assert np.isfinite(plain_mean(stack_members(extreme), 2)).all()


@pytest.mark.parametrize("way", ["scale", "rows", "order"])
def test_a_mean_below_the_best_member_is_explained(way):
    tables = {f"m{k}": labels(noise=0.7, rng=k, patients=200) for k in range(3)}
    bad = tables["m1"]
    if way == "scale":
        bad = replace(
            labels(noise=4.0, rng=1, patients=200),
            logits=200 * bad.logits + 900 * np.random.default_rng(0).normal(size=bad.logits.shape).astype(np.float32),
        )
    elif way == "rows":
        bad = replace(bad, logits=4 * bad.logits[np.random.default_rng(0).permutation(len(bad))])
    else:
        bad = replace(bad, logits=4 * bad.logits[:, [1, 2, 3, 0]])
    _, decision = build_ensemble({**tables, "m1": bad}, candidates=("mean",), **SETTINGS)
    first, *others = decision["diagnostics"]
    assert "uniform mean is clearly below the best base model" in first and "named below" in first
    word = {"scale": "suspect its scale", "rows": "suspect row order", "order": "suspect label order"}[way]
    assert any(text for text in others if "m1" in text and word in text)
    assert not any("m0" in text or "m2" in text for text in others)


def test_a_mean_below_the_best_member_without_a_sign_says_so():
    tables = {"strong": labels(noise=0.3, rng=1, patients=300), "weak": labels(noise=3.0, rng=2, patients=300)}
    _, decision = build_ensemble(tables, candidates=("mean",), **SETTINGS)
    (text,) = decision["diagnostics"]
    assert "show nothing, so some are just much weaker" in text
    assert decision["choice"] == "best base (strong)" and decision["labels"] == []


def test_few_patients_and_labels_without_cases_break_nothing():
    members = {name: labels(noise=1.0, rng=rng, patients=24, folds=3) for rng, name in enumerate("ab")}
    for rows in members.values():
        rows.targets[:, 1] = 0.0  # nobody has it
        rows.targets[:, 2] = np.nan  # nobody knows
    table, decision = build_ensemble(members, candidates=COMPLEXITY, **SETTINGS)
    assert np.isfinite(table.logits).all() and len(decision["per_fold_choice"]) == 3
    assert not {"effusion", "nodule"} & set(decision["improvement"]["labels"])
    json.dumps(decision, allow_nan=False)
    for rows in members.values():
        rows.targets[:, [0, 3]] = 1.0  # not one label can be scored
    table, decision = build_ensemble(members, candidates=COMPLEXITY, **SETTINGS)
    assert decision["choice"].startswith("best base") and decision["improvement"]["labels"] == []
    assert "no interval" in decision["reason"]

"""DeLong of prediction tables: the value is the metric's own, the error and the test those of the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from label_tables import label_table, zone_table
from planted import planted

from archbench.auroc_tests import delong_interval, delong_p_value, delong_p_values, has_delong, why_delong
from archbench.evaluation import evaluate
from archbench.metrics.scoring import frozen_questions, score
from archbench.registry import METRICS
from archbench.statistics import bootstrap_p_value, difference, estimate, patient_weights

MACRO = METRICS.get("auroc_macro")


def tables(**settings):
    return planted(skill=1.5, rng=1, **settings), planted(skill=1.1, rng=2, **settings)


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_it_agrees_with_the_patient_bootstrap(seeds):
    a, b = tables(patients=400, folds=2, seeds=seeds)
    drawn = patient_weights(a.patient_id, strata=a.fold, resamples=2000, seed=0)
    questions = frozen_questions(a, MACRO)
    ours, other = (score(rows, MACRO, drawn.patients, drawn.weights, questions) for rows in (a, b))
    value, low, high = delong_interval(a, MACRO, questions, 0.95)
    by_bootstrap = estimate(type(ours)(ours.points.mean(keepdims=True), ours.mean_draws[None]), confidence=0.95)
    assert value == pytest.approx(ours.point, abs=1e-12)
    assert high - low == pytest.approx(by_bootstrap.high - by_bootstrap.low, rel=0.12)
    gap = difference(ours, other)
    paired = type(gap)(gap.points.mean(keepdims=True), gap.mean_draws[None])
    assert delong_p_value(a, b, MACRO, questions) == pytest.approx(bootstrap_p_value(paired), abs=0.02)


def test_a_table_equals_itself_and_nothing_is_undefined_silently():
    a, _ = tables(patients=200)
    questions = frozen_questions(a, MACRO)
    assert delong_p_value(a, a, MACRO, questions) == 1.0
    few, _ = tables(patients=60)  # some fold has a class of one patient, whose variance nobody knows
    assert np.isnan(delong_p_value(few, few, MACRO, questions))
    assert np.isnan(delong_interval(a, MACRO, np.zeros(5, bool), 0.95)).all()


def test_when_it_stands_in():
    a, _ = tables(patients=20)
    assert has_delong(MACRO, a) and not has_delong(METRICS.get("qwk"), a)
    assert "29 patients" in str(why_delong(0.8, 29)) and "above 0.95" in str(why_delong(0.97, 200))
    assert why_delong(0.8, 30) is None and why_delong(float("nan"), 100) is None


def evaluated(table, *names):
    found = evaluate(table, metrics=names, primary=names[0], resamples=400, confidence=0.95, seed=0)
    return found["metrics"] if len(names) > 1 else found["metrics"][names[0]]


def test_labels_of_a_patient_may_depend_on_each_other():
    a, b = label_table(n=800, skill=0.5, rng=1), label_table(n=800, skill=0.6, rng=2)
    assert has_delong(MACRO, a) and not has_delong(MACRO, zone_table())
    assert not has_delong(METRICS.get("auprc_macro"), a) and not has_delong(METRICS.get("auroc_micro"), a)
    drawn = patient_weights(a.patient_id, strata=a.fold, resamples=2000, seed=0)
    questions = frozen_questions(a, MACRO)
    ours, other = (score(rows, MACRO, drawn.patients, drawn.weights, questions) for rows in (a, b))
    value, low, high = delong_interval(a, MACRO, questions, 0.95)
    by_bootstrap = estimate(ours, confidence=0.95)
    assert value == pytest.approx(ours.point, abs=1e-12)
    assert high - low == pytest.approx(by_bootstrap.high - by_bootstrap.low, rel=0.12)
    assert delong_p_value(a, b, MACRO, questions) == pytest.approx(bootstrap_p_value(difference(ours, other)), abs=0.02)


def test_all_pairs_at_once_are_the_pairs_one_by_one():
    tables = dict(zip("abc", (*tables_of_two(), planted(skill=0.9, rng=3, patients=200, folds=2)), strict=True))
    questions = frozen_questions(tables["a"], MACRO)
    found = delong_p_values(tables, MACRO, questions)
    for (one, other), p in found.items():
        assert p == pytest.approx(delong_p_value(tables[one], tables[other], MACRO, questions), abs=1e-12)
    assert len(found) == 6


def tables_of_two():
    return tables(patients=200, folds=2)


def test_few_patients_take_the_delong_interval_and_the_record_says_so():
    few = planted(patients=28, images=4, folds=1, n_classes=2, skill=0.8)
    record = evaluated(few, "auroc_macro")
    assert record["method"] == "logit_delong" and "28 patients, below 30" in record["reason"]
    questions = frozen_questions(few, MACRO)
    assert (record["low"], record["high"]) == pytest.approx(delong_interval(few, MACRO, questions, 0.95)[1:])
    assert evaluated(few, "auroc_macro", "accuracy")["accuracy"]["method"] == "percentile"


def test_near_one_too_and_elsewhere_percentiles():
    near = evaluated(planted(patients=300, skill=3.2), "auroc_macro")
    assert near["value"] > 0.95 and near["method"] == "logit_delong" and "above 0.95" in near["reason"]
    assert near["low"] < near["value"] < near["high"] < 1
    plain = evaluated(planted(patients=300, skill=1.0), "auroc_macro")
    assert plain["method"] == "percentile" and plain["reason"] is None


def test_a_perfect_auroc_has_an_interval_with_a_width():
    perfect = planted(patients=200, skill=60.0)
    record = evaluated(perfect, "auroc_macro")
    assert record["value"] == 1 and record["low"] < 1 and record["high"] == 1


def test_where_delong_is_undefined_percentiles_stay_and_the_reason_says_it():
    few = planted(patients=28, images=2, folds=4, n_classes=2, skill=0.8)
    few.targets[(few.fold == 0)] = 0
    one = np.flatnonzero(few.fold == 0)[0]
    few.targets[one] = 1  # a single positive patient in this fold
    record = evaluated(few, "auroc_macro")
    assert record["method"] == "percentile" and "fewer than two patients on a side; percentiles" in record["reason"]
    assert record["low"] < record["value"] < record["high"]


def test_per_label_and_per_class_take_it_too_and_seeds_widen_it():
    near = label_table(n=800, skill=1.6, seeds=(1, 2, 3))
    found = evaluate(near, metrics=("auroc_macro",), primary="auroc_macro", resamples=400, confidence=0.95, seed=0)
    record = found["per_class"]["Edema"]["auroc"]
    assert record["method"] == "logit_delong" and record["low"] < record["value"] < record["high"] <= 1
    classes = evaluate(
        planted(patients=300, skill=3.2),
        metrics=("auroc_macro",),
        primary="auroc_macro",
        resamples=400,
        confidence=0.95,
        seed=0,
    )
    assert {entry["auroc"]["method"] for entry in classes["per_class"].values()} == {"logit_delong"}


def test_a_class_that_a_fold_lacks_has_the_same_value_by_both_ways():
    table, _ = tables(patients=200)
    table.targets[(table.targets == 4).ravel() & (table.fold == 0)] = 3
    questions = frozen_questions(table, MACRO)
    drawn = patient_weights(table.patient_id, strata=table.fold, resamples=10, seed=0)
    value = score(table, MACRO, drawn.patients, drawn.weights, questions).point
    assert delong_interval(table, MACRO, questions, 0.95)[0] == pytest.approx(value, abs=1e-12)

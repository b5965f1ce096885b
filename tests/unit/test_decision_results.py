"""What is fitted on other patients, in the files: thresholds, cut points, net benefit, sets, calibration."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from label_tables import LABELS, label_table, zone_table
from planted import GRADES, holdout, planted
from planted_labels import planted_labels
from sklearn import metrics as reference

from archbench.artifacts import softmax
from archbench.calibrated import calibrated
from archbench.calibration import calibrate
from archbench.evaluation import evaluate
from archbench.tasks import TASKS
from archbench.thresholds import rule_of

SETTINGS = {"resamples": 200, "confidence": 0.95, "seed": 0}
ORDERED = {"decision": "expected_grade"}


def run(table, task, **settings):
    kind = TASKS[task]
    found = evaluate(table, metrics=kind.metrics, primary=kind.primary, **SETTINGS, **settings)
    json.dumps(found, allow_nan=False)
    return found


def graded(**settings):
    return replace(planted(**settings), metadata=ORDERED)


def flipped(table, fold):
    """The table with the truth of one fold turned round."""
    targets = table.targets.copy()
    targets[table.fold == fold] = np.nanmax(targets) - targets[table.fold == fold]
    return replace(table, targets=targets)


def masked(table):
    """Labels drawn from planted odds as a table of labels, a third of them unknown."""
    return replace(table, metadata={"outputs": "labels", "class_names": []})


def of_fold(entries, fold):
    return [entry for entry in entries if entry["fold"] == fold]


# thresholds


def test_metrics_at_thresholds_are_those_of_the_written_probabilities() -> None:
    table = label_table(skill=0.5, n=600)
    found = run(table, "multilabel")["tuned"]
    rows = calibrated(table).rows
    assert rows is not None
    chance = 1 / (1 + np.exp(-rows.logits.astype(np.float64)))
    for scope in ("label", "global"):
        called = np.zeros(rows.targets.shape, bool)
        for item in found["parameters"]:
            member = rows.fold == item["fold"]
            if item["label"] and scope == "label":
                column = LABELS.index(item["label"])
                called[member, column] = chance[member, column] >= item["probability"]
            elif not item["label"] and scope == "global":
                called[member] = chance[member] >= item["probability"]
        expected = reference.f1_score(rows.targets, called, average=None)
        values = [found[scope]["per_label"][name]["f1"]["value"] for name in LABELS]
        np.testing.assert_allclose(values, expected, atol=1e-12)
        assert found[scope]["metrics"]["f1_macro"]["value"] == pytest.approx(expected.mean(), abs=1e-12)


def test_the_raw_logit_of_a_threshold_cuts_the_same_cases() -> None:
    table = label_table(skill=0.5, n=600)
    for isotonic in (None, 25):
        found = calibrated(table, isotonic_patients=isotonic)
        assert found.rows is not None
        scale = 1 / (1 + np.exp(-found.rows.logits.astype(np.float64)))
        for item in run(table, "multilabel", isotonic_patients=isotonic)["tuned"]["parameters"]:
            if item["label"] and item["logit"] is not None:
                rows, column = table.fold == item["fold"], LABELS.index(item["label"])
                by_logit = table.logits[rows, column] >= item["logit"] - 1e-6
                by_chance = scale[rows, column] >= item["probability"] - 1e-9
                assert (by_logit == by_chance).mean() > 0.99


def test_each_rule_reaches_what_it_is_asked_for() -> None:
    table = label_table(skill=0.5, n=1200)
    f1, caught, spared, youden, dear = (
        run(table, "multilabel", rule=rule_of(kind, value))["tuned"]
        for kind, value in (
            *(("f1", None), ("sensitivity", 0.95), ("specificity", 0.95)),
            *(("youden", None), ("cost", 9.0)),
        )
    )
    assert caught["label"]["metrics"]["recall_macro"]["value"] == pytest.approx(0.95, abs=0.03)
    assert spared["label"]["metrics"]["specificity_macro"]["value"] == pytest.approx(0.95, abs=0.03)
    assert f1["label"]["metrics"]["f1_macro"]["value"] > spared["label"]["metrics"]["f1_macro"]["value"]
    assert dear["rule"] == {"kind": "cost", "value": 9.0, "few_positive_patients": 25}
    # a calibrated model acts from 1 / (1 + cost) on
    assert dear["spread"]["Edema"]["mean"] == pytest.approx(0.1, abs=0.06)
    assert youden["spread"] != f1["spread"]


def test_few_positive_patients_is_a_setting() -> None:
    table = label_table(skill=0.5, n=600)
    own = run(table, "multilabel", few_positive_patients=10)["tuned"]
    shared = run(table, "multilabel", few_positive_patients=1000)["tuned"]
    assert {entry["scope"] for name, entry in own["spread"].items() if name} == {"label"}
    assert {entry["scope"] for entry in shared["spread"].values()} == {"global"}
    assert shared["label"]["metrics"]["f1_macro"] == shared["global"]["metrics"]["f1_macro"]
    assert "below 1000" in of_fold(shared["parameters"], 0)[1]["reason"]


@pytest.mark.parametrize("section", ["tuned", "cut_points"])
def test_a_fold_never_moves_its_own_thresholds(section: str) -> None:
    make, task = (label_table, "multilabel") if section == "tuned" else (graded, "ordinal")
    table = make(skill=0.6)
    before, after = (run(rows, task)[section]["parameters"] for rows in (table, flipped(table, 1)))
    assert of_fold(before, 1) == of_fold(after, 1)
    assert of_fold(before, 0) != of_fold(after, 0)


def test_without_other_patients_there_is_a_reason_and_no_threshold() -> None:
    found = run(label_table(skill=0.6, split="val"), "multilabel")
    assert "no test part" in found["tuned"]["reason"] and found["tuned"]["label"] is None
    assert found["decision_curve"]["probabilities"] == "raw" and "no test part" in found["decision_curve"]["reason"]
    assert found["conformal"]["coverage"] is None and "no test part" in found["conformal"]["reason"]


def test_labels_without_a_positive_case_have_no_threshold_and_say_so() -> None:
    table = label_table(skill=0.6)
    found = run(replace(table, targets=np.zeros_like(table.targets)), "multilabel")["tuned"]
    assert "no positive or no negative" in found["reason"] and found["global"] is None


# cut points


def test_cut_points_are_worth_what_sklearn_says_beside_the_decision_that_is_used() -> None:
    table = graded(skill=1.0, patients=300)
    found = run(table, "ordinal")
    rows = calibrated(table).rows
    assert rows is not None
    expected = softmax(rows.logits) @ np.arange(5)
    grades = np.zeros(len(rows), int)
    for item in found["cut_points"]["parameters"]:
        member = rows.fold == item["fold"]
        grades[member] = np.searchsorted(item["cuts"], expected[member], side="right")
    kappa = reference.cohen_kappa_score(rows.y_true, grades, labels=range(5), weights="quadratic")
    points = found["cut_points"]
    assert points["metrics"]["qwk"]["value"] == pytest.approx(kappa, abs=1e-12)
    assert points["gain"]["value"] == pytest.approx(kappa - found["metrics"]["qwk"]["value"], abs=1e-12)
    assert points["gain"]["low"] <= points["gain"]["value"] <= points["gain"]["high"]
    assert [(entry["below"], entry["rounding"]) for entry in points["spread"]][:2] == [("none", 0.5), ("mild", 1.5)]
    assert points["used"] == "expected_grade"


def test_only_ordered_classes_have_cut_points_and_only_labels_thresholds() -> None:
    assert {"cut_points", "tuned"} & set(run(planted(), "multiclass")) == set()
    assert "tuned" not in run(graded(), "ordinal") and "cut_points" not in run(label_table(), "multilabel")


# net benefit


def test_net_benefit_is_that_of_calibrated_probabilities() -> None:
    table = label_table(skill=0.5, seeds=(1, 2))
    curve = run(table, "multilabel")["decision_curve"]
    rows = calibrated(table).rows
    assert rows is not None and curve["probabilities"] == "calibrated"
    chance, truth = 1 / (1 + np.exp(-rows.logits[:, 0].astype(np.float64))), rows.targets[:, 0]
    at = curve["thresholds"].index(0.3)
    called = chance >= 0.3
    by_hand = ((called & (truth == 1)).sum() - (called & (truth == 0)).sum() * 0.3 / 0.7) / len(rows)
    question = curve["questions"]["Edema"]
    assert question["model"][at] == pytest.approx(by_hand, abs=1e-12)
    assert question["low"][at] <= by_hand <= question["high"][at]
    assert question["all"][at] == pytest.approx(truth.mean() - (1 - truth.mean()) * 0.3 / 0.7, abs=1e-12)
    assert set(question["none"]) == {0.0}
    assert question["n_cases"] == 400 and question["n_patients"] == 200


def test_every_kind_of_table_asks_its_questions() -> None:
    assert list(run(graded(), "ordinal")["decision_curve"]["questions"]) == [*GRADES, "moderate or worse"]
    assert list(run(planted(), "multiclass")["decision_curve"]["questions"]) == list(GRADES)
    zones = run(zone_table(n=240, with_class=True), "zones")["decision_curve"]["questions"]
    assert len(zones) == 12 and "upper: Normal" in zones and not any("Ungradable" in name for name in zones)


# conformal sets


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_sets_of_new_patients_hold_the_truth_as_often_as_asked(coverage: float) -> None:
    tables = (graded(skill=1.0, patients=500), label_table(skill=0.5, n=1200), zone_table(n=900, skill=1.0))
    for table, task in zip(tables, ("ordinal", "multilabel", "zones"), strict=True):
        found = run(table, task, conformal_coverage=coverage)["conformal"]
        assert found["target"] == coverage
        assert found["coverage"]["value"] > coverage - 0.02
        assert found["coverage"]["value"] < coverage + (0.12 if task == "ordinal" else 0.03)
        assert found["empty"] + found["single"] <= 1 + 1e-12


def test_set_sizes_grow_with_coverage_and_null_makes_no_sets() -> None:
    table = label_table(skill=0.5, n=600)
    sizes = [
        run(table, "multilabel", conformal_coverage=value)["conformal"]["mean_size"]["value"] for value in (0.7, 0.9)
    ]
    assert sizes[0] < sizes[1]
    assert "conformal" not in run(table, "multilabel", conformal_coverage=None)


def test_a_class_of_few_patients_is_always_inside() -> None:
    table = graded(patients=100)
    rare = table.targets.copy()
    rare[rare == 4] = 3
    rare[:2] = 4
    found = run(replace(table, targets=rare), "ordinal")["conformal"]["by"]["proliferative"]
    assert found["always_inside"] and found["n_patients_fitted"] == 0 and found["coverage"]["value"] == 1.0


def test_unknown_labels_count_for_nothing() -> None:
    table = masked(planted_labels(patients=200, unknown=0.3))
    loud = replace(table, logits=np.where(np.isnan(table.targets), 40.0, table.logits).astype(np.float32))
    first, second = run(table, "multilabel"), run(loud, "multilabel")
    assert first["conformal"] == second["conformal"]
    assert first["decision_curve"]["questions"] == second["decision_curve"]["questions"]
    assert first["tuned"]["label"]["per_label"] == second["tuned"]["label"]["per_label"]


# calibration by question


def test_the_table_of_a_calibrated_model_improves_and_agrees_with_sklearn() -> None:
    table = label_table(skill=0.5, n=1200)
    loud = replace(table, logits=table.logits * 4)
    found = calibrate(loud, **SETTINGS)
    json.dumps(found, allow_nan=False)
    chance = 1 / (1 + np.exp(-loud.logits.astype(np.float64)))
    for k, name in enumerate(LABELS):
        raw, after = found["table"]["questions"][name]["raw"], found["table"]["questions"][name]["calibrated"]
        assert raw["brier"]["value"] == pytest.approx(reference.brier_score_loss(table.targets[:, k], chance[:, k]))
        assert raw["log_loss"]["value"] == pytest.approx(reference.log_loss(table.targets[:, k], chance[:, k]))
        assert raw["slope"]["value"] < 0.5 < after["slope"]["value"] < 1.5
        assert after["slope"]["low"] < 1 < after["slope"]["high"] and after["slope"]["method"] == "normal"
        assert after["intercept"]["low"] < 0 < after["intercept"]["high"]
        assert after["ece"]["value"] < raw["ece"]["value"] and after["null_floor"] > 0
        assert sum(item["n_cases"] for item in raw["bins"]) == 1200
        banded = [item for item in raw["bins"] if item["low"] is not None]
        assert banded and all(item["low"] <= item["observed"] <= item["high"] for item in banded)
    assert found["table"]["macro"]["raw"]["ece"]["value"] == pytest.approx(
        np.mean([entry["raw"]["ece"]["value"] for entry in found["table"]["questions"].values()])
    )


def test_slopes_of_seeds_are_averaged() -> None:
    one, two = (
        calibrate(label_table(skill=0.5), **SETTINGS),
        calibrate(label_table(skill=0.5, seeds=(1, 2)), **SETTINGS),
    )
    alone = calibrate(label_table(skill=0.5, seeds=(2,)), **SETTINGS)
    slopes = [found["table"]["questions"]["Edema"]["raw"]["slope"]["value"] for found in (one, alone, two)]
    assert slopes[2] == pytest.approx((slopes[0] + slopes[1]) / 2)


def test_tables_of_classes_zones_and_of_one_split() -> None:
    classes = calibrate(holdout(), **SETTINGS)["table"]
    assert list(classes["questions"]) == list(GRADES)
    assert classes["questions"]["mild"]["calibrated"]["ece"]["value"] is not None
    zones = calibrate(zone_table(n=240), **SETTINGS)["table"]["questions"]
    assert len(zones) == 12
    unfitted = calibrate(planted(split="val", folds=1), **SETTINGS)["table"]
    assert unfitted["macro"]["calibrated"] is None and unfitted["questions"]["mild"]["calibrated"] is None


def test_isotonic_steps_are_taken_where_allowed_and_where_patients_suffice() -> None:
    table = label_table(skill=0.5, n=1200, prevalence=(0.4, 0.25, 0.05))
    bent = replace(table, logits=np.sign(table.logits) * table.logits**2)
    plain, stepped = calibrate(bent, **SETTINGS), calibrate(bent, isotonic_patients=60, **SETTINGS)
    assert (plain["method"], stepped["method"]) == ("platt", "isotonic")
    assert "steps" not in plain["parameters"][0]
    assert [entry["steps"] is not None for entry in stepped["parameters"][:3]] == [True, True, False]
    assert "isotonic needs 60" in stepped["parameters"][2]["reason"]
    assert (
        stepped["table"]["questions"]["Edema"]["calibrated"]["log_loss"]["value"]
        != plain["table"]["questions"]["Edema"]["calibrated"]["log_loss"]["value"]
    )
    levels, odds = stepped["parameters"][0]["steps"]
    assert (np.diff(levels) > 0).all() and (np.diff(odds) >= 0).all()

"""Calibration, thresholds, ensembles, comparison, explanations and case tables of labels and zones."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from label_tables import LABELS, label_table, zone_table

from archbench.artifacts import read_predictions, write_predictions
from archbench.calibrated import calibrated
from archbench.calibration import calibrate
from archbench.case_table import case_table, file_id
from archbench.comparison import compare
from archbench.ensemble import build_ensemble
from archbench.explained import choose_questions
from archbench.members import member_logits, member_view, stack_members

SETTINGS = {"resamples": 200, "confidence": 0.95, "seed": 0}


def test_platt_never_sees_the_patients_it_scales() -> None:
    table = label_table(skill=0.5)
    targets = table.targets.copy()
    inside = table.fold == 0
    targets[inside] = 1 - targets[inside]
    before, after = (calibrated(rows).parameters for rows in (table, replace(table, targets=targets)))
    assert [item["slope"] for item in before if item["fold"] == 0] == [
        item["slope"] for item in after if item["fold"] == 0
    ]
    assert [item["slope"] for item in before if item["fold"] == 1] != [
        item["slope"] for item in after if item["fold"] == 1
    ]


def test_calibration_of_labels_helps_where_it_was_off() -> None:
    table = label_table(n=1200, skill=0.5)
    found = calibrate(replace(table, logits=table.logits * 4), **SETTINGS)
    assert found["method"] == "platt"
    assert len(found["parameters"]) == 4 * 3
    assert found["ece"]["calibrated"]["value"] < 0.5 * found["ece"]["raw"]["value"]
    assert found["log_loss"]["calibrated"]["value"] < found["log_loss"]["raw"]["value"]
    assert set(found["per_label"]) == set(LABELS)
    scaled = calibrated(table).rows
    assert scaled is not None
    order = [np.argsort(rows.logits[rows.fold == 1, 0]) for rows in (table, scaled)]
    np.testing.assert_array_equal(*order)  # within a fold the ranking stays


def test_calibration_of_zones_is_one_temperature_each() -> None:
    table = zone_table(n=400, skill=1.0, with_class=True)
    found = calibrate(replace(table, logits=table.logits * 3), **SETTINGS)
    assert {item["label"] for item in found["parameters"]} == set(table.labels)
    assert found["ece"]["calibrated"]["value"] < found["ece"]["raw"]["value"]


def test_a_regression_has_nothing_to_calibrate() -> None:
    table = label_table()
    number = replace(table, logits=table.logits[:, :1], targets=table.targets[:, :1], classes=("s",), labels=("s",))
    found = calibrate(replace(number, metadata={"outputs": "value"}), **SETTINGS)
    assert found["ece"]["raw"]["value"] is None
    assert "no probabilities" in found["ece"]["raw"]["reason"]


def test_members_are_seen_label_by_label() -> None:
    a, b = label_table(rng=1).sorted(), label_table(rng=2).sorted()
    view = member_view(stack_members({"a": a, "b": b}), 1, 2)
    each = member_logits(view, 2)
    np.testing.assert_array_equal(each[:, 0, 1], a.logits[:, 1])
    np.testing.assert_array_equal(each[:, 1, 1], b.logits[:, 1])
    assert (each[:, :, 0] == 0).all()


@pytest.mark.parametrize(
    ("make", "task_metric"), [(label_table, "auroc_macro"), (zone_table, "macro_f1")], ids=["labels", "zones"]
)
def test_ensembles_and_comparisons_of_labels_and_zones(make, task_metric) -> None:
    members = {"a": make(skill=0.6, rng=1), "b": make(skill=0.6, rng=2)}
    table, decision = build_ensemble(members, candidates=("mean", "logistic"), primary=task_metric, **SETTINGS)
    assert table.classes == members["a"].classes
    assert table.outputs == members["a"].outputs
    assert np.isfinite(table.logits).all()
    assert decision["choice"] in ("mean", "logistic") and "adopted" in decision["reason"]
    result = compare({**members, "ensemble": table}, primary=task_metric, **SETTINGS)
    assert result["best"] == "ensemble"
    assert {pair["verdict"] for pair in result["pairs"]} <= {"better", "inconclusive", "equivalent"}


def test_the_mean_of_labels_is_the_mean_of_probabilities() -> None:
    members = {"a": label_table(skill=0.6, rng=1), "b": label_table(skill=0.6, rng=2)}
    table, decision = build_ensemble(members, candidates=("mean",), primary="auroc_macro", **SETTINGS)
    assert decision["choice"] == "mean"
    probability = [1 / (1 + np.exp(-m.sorted().logits.astype(float))) for m in members.values()]
    np.testing.assert_allclose(1 / (1 + np.exp(-table.logits)), np.mean(probability, axis=0), atol=1e-6)


def test_one_member_reproduces_itself() -> None:
    table = label_table(skill=0.6)
    alone, _ = build_ensemble({"a": table}, candidates=("mean",), primary="auroc_macro", **SETTINGS)
    np.testing.assert_allclose(alone.logits, table.sorted().logits, atol=1e-6)


def test_permuted_labels_of_a_member_are_flagged() -> None:
    good = label_table(skill=1.5, rng=1)
    swapped = replace(label_table(skill=1.5, rng=2), logits=label_table(skill=1.5, rng=2).logits[:, [1, 0, 2]])
    _, decision = build_ensemble({"a": good, "b": swapped}, candidates=("mean",), primary="auroc_macro", **SETTINGS)
    assert any("b fits the truth much better" in text for text in decision["diagnostics"])


def test_tables_of_labels_survive_their_file(tmp_path) -> None:
    table = zone_table(with_class=True)
    write_predictions(tmp_path / "p.parquet", table)
    again = read_predictions(tmp_path / "p.parquet", classes=table.classes)
    assert again.outputs == "zones"
    np.testing.assert_array_equal(again.targets, table.sorted().targets)


def test_explained_labels_show_every_outcome() -> None:
    rows, questions = choose_questions(label_table(skill=0.5), 12, seed=1)
    assert len(rows) == len(questions) == 12
    assert {(q.label, q.outcome) for q in questions} == {
        (name, outcome) for name in LABELS for outcome in ("TP", "TN", "FP", "FN")
    }
    for k, question in enumerate(questions):
        column = LABELS.index(str(question.label))
        assert question.output == column
        assert (question.true == "present") == (rows.targets[k, column] == 1)
        assert (question.predicted == "present") == (rows.logits[k, column] > 0)


def test_explained_zones_take_turns_and_are_gradable() -> None:
    table = zone_table(with_class=True)
    rows, questions = choose_questions(table, 9, seed=1)
    assert [q.label for q in questions] == list(table.labels) * 3
    assert len(set(rows.case_id.tolist())) > 6  # not the same few cases for every zone
    for k, question in enumerate(questions):
        zone = table.labels.index(str(question.label))
        assert rows.targets[k, zone] < 4
        assert question.output // 5 == zone
        assert question.output % 5 < 4


def test_case_table_names_files_and_leaves_the_undefined_empty() -> None:
    assert file_id("images/123.nii.gz") == "123"
    assert file_id("a/b.c.png") == "b.c"
    table = zone_table(with_class=True)
    found = list(csv.DictReader(io.StringIO(case_table(table))))
    first = next(row for row in found if row["case_id"] == "c0000")
    assert first["true_risk"] == first["predicted_risk"] == first["true_score"] == ""
    other = next(row for row in found if row["case_id"] == "c0001")
    assert other["predicted_risk"] in ("low", "intermediate", "high")
    labels = list(csv.DictReader(io.StringIO(case_table(label_table()))))
    assert {"true_Edema", "predicted_Edema", "p_Edema"} <= set(labels[0])

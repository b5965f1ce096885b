"""Members from other studies: labels by name, same cases and folds, or an error that says what differs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import fold_file
from planted_labels import LABELS, planted_labels

from archbench.artifacts import read_predictions, write_predictions
from archbench.ensemble_members import MemberError, aligned, part_to_combine
from archbench.members import stack_members
from archbench.out_of_fold import LeakError
from scripts import ensemble as script

STUDY = {
    "study": "mine",
    "datasets": {
        "chest": {"format": "phantom_chest", "task": "multilabel", "phantom": {"patients": 40, "image_size": 64}}
    },
    "models": {name: {"architecture": "custom1", "image_size": 64} for name in ("small", "large", "third")},
    "evaluation": {"resamples": 200},
}
CHEST = ("Cardiomegaly", "Effusion", "Opacity", "Nodule", "Device")


def table(**settings):
    rows = planted_labels(**{"patients": 60, "labels": CHEST, **settings})
    return replace(rows, metadata={"outputs": "labels", "decision": "argmax", "class_names": []})


def permuted(rows, order):
    names = tuple(rows.classes[k] for k in order)
    return replace(rows, logits=rows.logits[:, order], targets=rows.targets[:, order], classes=names, labels=names)


def test_labels_are_matched_by_name_and_folds_and_seeds_by_what_they_hold():
    ours, theirs = table(rng=1), table(rng=2)
    expected = theirs.sorted()
    shown = permuted(theirs, [4, 2, 0, 1, 3])
    shown = replace(shown, fold=(shown.fold + 2) % 5 + 10, seed=np.full(len(shown), 7))
    found, notes = aligned("older", shown.select(np.random.default_rng(0).permutation(len(shown))), ours)
    found = found.sorted()
    assert found.classes == found.labels == CHEST
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.fold, expected.fold)
    np.testing.assert_array_equal(found.seed, expected.seed)
    assert notes == ["older: folds renumbered as in this study", "older: its seeds [7] are paired with [1]"]
    stack_members({"ours": ours, "older": found})


def test_a_member_of_the_same_study_needs_no_note():
    assert aligned("other", table(rng=2), table(rng=1))[1] == []


def spoiled(rows, way):
    if way == "labels":
        return planted_labels(patients=60, labels=("Edema", *CHEST[1:]))
    if way == "fewer cases":
        return rows.select(rows.case_id != "case00007")
    if way == "more cases":
        return table(patients=61)
    if way == "patient":
        return replace(rows, patient_id=np.where(rows.case_id == "case00007", "somebody", rows.patient_id))
    if way == "targets":
        targets = rows.targets.copy()
        targets[rows.case_id == "case00007"] = 1 - targets[rows.case_id == "case00007"]
        return replace(rows, targets=targets)
    if way == "folds":
        return table(folds=4)
    if way == "fewer folds":
        return replace(rows, fold=rows.fold % 4)
    return table(seeds=(1, 2))


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("labels", r"classes lacks \['Cardiomegaly'\] and has \['Edema'\] beside them"),
        ("fewer cases", r"lacks 1 cases, e\.g\. \['case00007'\]"),
        ("more cases", "has beside this study's 2 cases"),
        ("patient", r"another patient for 1 cases, e\.g\. \['case00007'\]"),
        ("targets", "another target for 1 cases"),
        ("folds", "parts the patients into other folds: case .* use the same protocol.folds, split_seed"),
        ("fewer folds", "parts the patients into other folds"),
        ("seeds", r"has seeds \[1, 2\], this study \[1\]: members need as many"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(way, message):
    found = spoiled(table(rng=2), way)
    found = replace(found, metadata={"outputs": "labels"})
    with pytest.raises(MemberError, match=f"member 'older'.*{message}"):
        aligned("older", found, table(rng=1))


def test_another_task_is_refused():
    with pytest.raises(MemberError, match="predicts classes, this study labels"):
        aligned("older", replace(table(rng=2), metadata={"outputs": "classes"}), table(rng=1))


def test_only_test_rows_are_combined_in_a_cross_validation():
    rows = table(rng=1)
    validation = replace(rows, split=np.full(len(rows), "val"), fold=(rows.fold + 1) % 5)
    both = replace(
        rows,
        **{
            name: np.concatenate([getattr(rows, name), getattr(validation, name)])
            for name in ("case_id", "patient_id", "split", "fold", "seed", "logits", "targets")
        },
    )
    assert set(part_to_combine(both).split) == {"test"} and len(part_to_combine(both)) == len(rows)
    single = replace(both, fold=np.zeros(len(both), int))
    assert len(part_to_combine(single)) == len(both)


def write_members(folder: Path, **tables) -> list[str]:
    paths = []
    for name, rows in tables.items():
        paths.append(str(folder / f"{name}.parquet"))
        write_predictions(paths[-1], rows)
    return paths


def run_script(tmp_path: Path, *arguments: str, ensemble=None, smuggled=None) -> tuple[dict, object]:
    study = tmp_path / "study.json"
    study.write_text(json.dumps({**STUDY, "ensemble": ensemble or {}}), encoding="utf-8")
    output, decision = tmp_path / "ensemble.parquet", tmp_path / "decision.json"
    fixed = ["--study", str(study), "--dataset", "chest", "--output", str(output), "--decision", str(decision)]
    fixed += ["--folds", str(fold_file(tmp_path, table(), smuggled=smuggled))]
    assert script.main([*fixed, *arguments]) == 0
    return json.loads(decision.read_text()), read_predictions(output)


def test_the_script_combines_studies_and_names_who_is_left_out(tmp_path, capsys):
    small, large = write_members(tmp_path, small=table(rng=1), large=table(rng=2))
    (older,) = write_members(tmp_path, older=permuted(table(rng=3), [4, 3, 2, 1, 0]))
    members = ["--members", "small", "large", "--predictions", small, large, "--external", f"older={older}"]
    decision, found = run_script(tmp_path, *members, "--missing", "third")
    assert decision["members"] == ["small", "large", "older"] == found.metadata["members"]
    assert decision["member_notes"] == [f"older: from {older}"]
    (left_out,) = decision["left_out"]
    assert left_out["name"] == "third" and "ensemble.members" in left_out["reason"]
    assert "third was left out" in capsys.readouterr().err
    assert decision["diagnostics"] == []
    decision, _ = run_script(tmp_path, *members, "--left-out", "third")
    assert decision["left_out"] == [{"name": "third", "reason": "not among ensemble.members"}]


def test_a_member_that_predicts_its_own_training_patients_is_refused_by_name(tmp_path):
    paths = write_members(tmp_path, small=table(rng=1), large=table(rng=2))
    with pytest.raises(LeakError, match=r"member 'small': fold \d predicts 1 patients .*patient00007"):
        run_script(tmp_path, "--members", "small", "large", "--predictions", *paths, smuggled="patient00007")


def test_every_key_of_the_network_has_an_effect(tmp_path):
    paths = write_members(tmp_path, small=table(rng=1, noise=0.3), large=table(rng=2, noise=0.3))
    fixed = ["--members", "small", "large", "--predictions", *paths]
    mlp = {"hidden": [16, 8], "epochs": 12, "lr": 0.02, "patience": 3, "plateau": 1, "dropout": 0.1}

    def score_of(**changed) -> list[float]:
        settings = {"candidates": ["mlp"], "mlp": {**mlp, **changed}}
        decision, _ = run_script(tmp_path, *fixed, ensemble=settings)
        gains = decision["improvement"]["candidates"][0]["gains"]
        return [gain["value"] for gain in gains]

    reference = score_of()
    changes = {"hidden": [64, 8], "epochs": 2, "lr": 1e-4, "dropout": 0.5, "batch_size": 8}
    for key, value in changes.items():
        assert score_of(**{key: value}) != reference, key
    restless = {"epochs": 40, "lr": 0.1, "batch_size": 8}
    assert score_of(**restless, patience=1) != score_of(**restless, patience=30)
    assert score_of(**restless, patience=30, plateau=1) != score_of(**restless, patience=30, plateau=12)


@pytest.mark.parametrize(
    "candidates", [["calibrated_mean"], ["weighted"], ["greedy"], ["attention"], ["mlp"], ["mean", "logistic"]]
)
def test_the_candidates_of_the_study_are_tried(tmp_path, candidates):
    paths = write_members(tmp_path, small=table(rng=1), large=table(rng=2))
    decision, _ = run_script(
        tmp_path, "--members", "small", "large", "--predictions", *paths, ensemble={"candidates": candidates}
    )
    assert [item["name"] for item in decision["candidates"]][1:] == candidates
    assert len(LABELS) == 4 and len(decision["improvement"]["labels"]) >= 4

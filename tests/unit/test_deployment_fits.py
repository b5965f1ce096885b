"""What is fitted for deployment: on all out-of-fold rows, and applied by the runner as the study applies it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archbench.adoption import LabelChoice
from archbench.artifacts import Predictions
from archbench.bundle import check_combination
from archbench.bundle_files import write_content
from archbench.bundle_network import BundleFailure
from archbench.calibrated_mean import fit_calibrated_greedy, fit_calibrated_mean, fit_calibrated_weights
from archbench.combining import member_scores
from archbench.deployed_ensemble import Recipe, combined_rows, recipe_of, rows_of_seed
from archbench.deployment_fits import deployed_fits
from archbench.ensemble import build_ensemble
from archbench.ensemble_candidates import Stack
from archbench.ensemble_choice import Choice, Setting, apply_choice
from archbench.members import mean_log_probabilities, member_logits, stack_members
from archbench.metrics.views import whole_view
from archbench.neural_stacking import NetworkSettings
from archbench.recalibration import fit_isotonic
from archbench.stacking import fit_stacker
from archbench.thresholds import Rule, expected_grade, fit_cut_points
from archbench_predict.bundle import read_fits
from archbench_predict.outputs import Task, calibrated, combine, grades_at_cuts, log_softmax, present, sigmoid

PATIENTS, FOLDS, SEED = 120, 3, 7
SMALL = NetworkSettings(hidden=(12, 6), epochs=6, lr=1e-2)
CLASSES = ("no", "mild", "severe")
ZONES = ("left", "right")
TASKS = {
    "classes": Task("classes", CLASSES, ("grade",), "argmax"),
    "labels": Task("labels", (), ("edema", "fracture", "rare"), "argmax"),
    "zones": Task("zones", (*CLASSES, "Ungradable"), ZONES, "argmax"),
    "value": Task("value", (), ("score",), "argmax"),
}


def table(outputs: str, *, noise: float, rng: int, sharpness: float = 1.0, splits: str = "test") -> Predictions:
    """Two images a patient, truth planted in the logits; seed 7 as is, seed 8 worthless."""
    truth, generator = np.random.default_rng(5), np.random.default_rng(rng)
    task, n = TASKS[outputs], 2 * PATIENTS
    if outputs == "classes":
        targets = truth.integers(0, 3, size=(n, 1)).astype(float)
        signal = 2 * np.eye(3)[targets[:, 0].astype(int)]
    elif outputs == "labels":
        targets = (truth.random((n, 3)) < (0.4, 0.3, 0.02)).astype(float)
        signal = 3 * targets - 1.5
        targets[:5, 0] = np.nan
    elif outputs == "zones":
        targets = truth.integers(0, 4, size=(n, 2)).astype(float)
        signal = 2 * np.eye(4)[targets.astype(int)].reshape(n, 8)
        targets[targets == 3] = np.nan
    else:
        targets = truth.normal(size=(n, 1))
        signal = targets.copy()
    names = {
        "classes": CLASSES,
        "labels": task.labels,
        "zones": tuple(f"{zone}:{name}" for zone in ZONES for name in task.classes),
        "value": ("score",),
    }[outputs]
    logits = sharpness * (signal + noise * generator.normal(size=signal.shape))
    metadata: dict[str, Any] = {} if outputs == "classes" else {"outputs": outputs}
    if outputs == "zones":
        metadata["class_names"] = list(task.classes)
    tables = [
        Predictions(
            case_id=np.array([f"c{k:03d}" for k in range(n)]),
            patient_id=np.array([f"p{k // 2:03d}" for k in range(n)]),
            split=np.full(n, splits),
            fold=np.arange(n) // 2 % FOLDS,
            seed=np.full(n, seed),
            logits=(logits if seed == SEED else generator.normal(size=logits.shape)).astype(np.float32),
            targets=targets,
            classes=names,
            labels=task.labels,
            metadata=metadata,
        )
        for seed in (SEED, SEED + 1)
    ]
    both = {
        name: np.concatenate([getattr(one, name) for one in tables])
        for name in ("case_id", "patient_id", "split", "fold", "seed", "logits", "targets")
    }
    return Predictions(**both, classes=names, labels=task.labels, metadata=metadata)


def fits(tables: dict[str, Predictions], outputs: str, choice: str | None = None, **settings: Any) -> dict[str, Any]:
    settings = {"recipe": None if choice is None else recipe(choice, tables), **settings}
    given = {"seed": SEED, "task": TASKS[outputs], "rule": Rule("f1"), "few": 25, **settings}
    found = deployed_fits(tables, **given)
    return as_bundled(found)


def recipe(choice: str, tables: dict[str, Predictions], **more: Any) -> Recipe:
    return Recipe(choice, tuple(tables), network=SMALL, **more)


def as_bundled(content: dict[str, Any]) -> dict[str, Any]:
    """What the runner reads of what was fitted."""
    with tempfile.TemporaryDirectory() as name:
        write_content(Path(name), content)
        read = json.loads((Path(name) / "bundle.json").read_text())
        if "arrays" in read["combination"]:
            read["combination"]["fits"] = read_fits(Path(name) / read["combination"]["arrays"])
    return read


def log_loss(probabilities: np.ndarray, y_true: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(y_true)), y_true.astype(int)]).mean())


@pytest.mark.parametrize("sharpness", [0.3, 4.0])
def test_a_temperature_takes_back_what_made_the_logits_too_sharp(sharpness: float) -> None:
    plain = fits({"m": table("classes", noise=1, rng=1)}, "classes")["calibration"]
    found = fits({"m": table("classes", noise=1, rng=1, sharpness=sharpness)}, "classes")["calibration"]
    assert found["temperature"] == pytest.approx(sharpness * plain["temperature"], rel=1e-3)
    assert (found["n_cases"], found["n_patients"]) == (240, 120), "all folds, one seed"
    assert found["fitted_on"] == "all out-of-fold test rows of seed 7"


def test_calibrated_probabilities_are_the_best_of_their_kind() -> None:
    rows = table("classes", noise=1, rng=1, sharpness=4.0)
    of_seed = rows.select(rows.seed == SEED)
    fitted = fits({"m": rows}, "classes")["calibration"]
    said = {
        t: calibrated(of_seed.logits, {**fitted, "temperature": t}, TASKS["classes"])
        for t in (1.0, fitted["temperature"])
    }
    loss = {t: log_loss(p, of_seed.targets[:, 0]) for t, p in said.items()}
    assert loss[fitted["temperature"]] < loss[1.0] - 0.1


def test_zones_are_calibrated_each_by_itself_and_never_ungradable() -> None:
    rows = table("zones", noise=1, rng=1)
    sharper = rows.logits.copy()
    sharper[:, 4:] *= 3
    both = fits({"m": Predictions(**{**vars(rows), "logits": sharper})}, "zones")["calibration"]["temperature"]
    assert both[1] / both[0] == pytest.approx(3, rel=0.35)
    task = TASKS["zones"]
    said = task.probabilities(sharper)
    for zone in range(2):
        view = whole_view(Predictions(**{**vars(rows), "logits": sharper}), zone)
        np.testing.assert_allclose(said[:, zone], np.exp(log_softmax(view.logits)), atol=1e-6)
    by_hand = np.exp(log_softmax(sharper[:, 4:7] / both[1]))
    found = calibrated(sharper, {"method": "temperature", "temperature": both}, task)
    np.testing.assert_allclose(found[:, 1], by_hand, atol=1e-6)


def test_labels_get_a_line_and_thresholds_of_all_rows() -> None:
    rows = table("labels", noise=1, rng=1, sharpness=3.0)
    found = fits({"m": rows}, "labels")
    assert found["calibration"]["method"] == "platt"
    of_seed = rows.select(rows.seed == SEED)
    said = calibrated(of_seed.logits, found["calibration"], TASKS["labels"])
    known = ~np.isnan(of_seed.targets[:, 1])
    assert said[known, 1].mean() == pytest.approx(of_seed.targets[known, 1].mean(), abs=0.03)
    slope = np.array(found["calibration"]["slope"])
    intercept = np.array(found["calibration"]["intercept"])
    np.testing.assert_allclose(said, sigmoid(slope * of_seed.logits + intercept))
    thresholds = found["thresholds"]
    assert thresholds["reasons"][0] is None
    assert "positive patients, below 25: the global threshold" in thresholds["reasons"][2]
    called = present(of_seed.logits, thresholds)
    truth = of_seed.targets[:, 1] == 1
    f1 = {cut: 2 * ((of_seed.logits[:, 1] >= cut) & truth).sum() / ((of_seed.logits[:, 1] >= cut).sum() + truth.sum())
          for cut in of_seed.logits[:, 1]}  # fmt: skip
    own = 2 * (called[:, 1] & truth).sum() / (called[:, 1].sum() + truth.sum())
    assert own == pytest.approx(max(f1.values())), "no other cut has a higher F1"


def test_without_rows_of_other_patients_nothing_is_fitted_and_the_reason_is_kept() -> None:
    found = fits({"m": table("labels", noise=1, rng=1, splits="val")}, "labels")
    assert found["calibration"]["method"] == "none"
    assert "no test part" in found["calibration"]["reason"]
    assert found["thresholds"]["log_odds"] == [0.0] * 3
    assert all("no test part" in reason for reason in found["thresholds"]["reasons"])
    assert calibrated(np.zeros((2, 3)), found["calibration"], TASKS["labels"]) is None
    assert fits({"m": table("value", noise=1, rng=1)}, "value")["calibration"]["reason"].startswith("a regression")


def test_only_rows_of_the_deployed_seed_count() -> None:
    source = rows_of_seed(table("classes", noise=1, rng=1), seed=SEED)
    assert set(source.rows.seed.tolist()) == {SEED}
    assert source.groups == [0, 1, 2]


# Combinations


def members(outputs: str) -> dict[str, Predictions]:
    return {"a": table(outputs, noise=1, rng=1), "b": table(outputs, noise=2, rng=2, sharpness=2.0)}


@pytest.mark.parametrize("outputs", TASKS)
def test_the_runners_mean_is_the_studys(outputs: str) -> None:
    stacked = stack_members(members(outputs))
    found = combine(member_logits(stacked, 2), {"kind": "mean"}, TASKS[outputs])
    if outputs in ("classes", "value"):
        np.testing.assert_allclose(found, mean_log_probabilities(stacked, 2), atol=1e-6)
        return
    parts = member_logits(stacked, 2).astype(np.float64)
    if outputs == "labels":
        np.testing.assert_allclose(sigmoid(found), sigmoid(parts).mean(axis=1), atol=1e-9)
        return
    for zone in range(2):
        each = np.exp(log_softmax(parts[:, :, 4 * zone : 4 * zone + 3]))
        np.testing.assert_allclose(np.exp(found[:, 4 * zone : 4 * zone + 3]), each.mean(axis=1), atol=1e-9)
        assert (found[:, 4 * zone + 3] == -30).all()


def test_the_runners_stacking_is_the_studys() -> None:
    source = rows_of_seed(stack_members(members("classes")), seed=SEED)
    found = fits(members("classes"), "classes", "logistic")["combination"]
    nobody = source.rows.select(np.zeros(len(source.rows), bool))
    stacker = fit_stacker(source, applied=nobody, n_members=2, seed=SEED)
    new = np.random.default_rng(9).normal(size=(50, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(combine(new, found, TASKS["classes"]), stacker.log_probabilities(new), atol=1e-9)


@pytest.mark.parametrize("outputs", ["labels", "zones"])
def test_stacking_by_label_or_zone_helps_the_one_it_is_of(outputs: str) -> None:
    tables, task = members(outputs), TASKS[outputs]
    found = fits(tables, outputs, "logistic")["combination"]
    shape = np.shape(found["fits"][0]["weights"]) if outputs == "labels" else (2, len(found["fits"]))
    assert shape == (2, len(task.labels))
    stacked = stack_members(tables)
    stacked = stacked.select(stacked.seed == SEED)
    logits = member_logits(stacked, 2)
    combined = combine(logits, found, task)
    assert combined.shape == (240, len(tables["a"].classes))
    for k, (whole, of_a, of_b) in enumerate(
        zip(task.groups(combined), task.groups(logits[:, 0]), task.groups(logits[:, 1]), strict=True)
    ):
        known = ~np.isnan(stacked.targets[:, k])
        truth = stacked.targets[known, k]
        losses = [log_loss(np.exp(log_softmax(part[known])), truth) for part in (whole, of_a, of_b)]
        assert losses[0] < min(losses[1:])


@pytest.mark.parametrize(
    ("choice", "fit"),
    [
        ("weighted", fit_calibrated_weights),
        ("greedy", fit_calibrated_greedy),
        ("calibrated_mean", fit_calibrated_mean),
    ],
)
@pytest.mark.parametrize("outputs", ["classes", "labels"])
def test_the_runners_weights_are_the_studys(outputs: str, choice: str, fit: Any) -> None:
    source = rows_of_seed(stack_members(members(outputs)), seed=SEED)
    found = fits(members(outputs), outputs, choice)["combination"]
    blend = fit(source, applied=source.rows.select(np.zeros(len(source.rows), bool)), n_members=2, seed=SEED)
    assert np.ptp(blend.weights) > 0.05, "not the plain mean"
    expected = blend.scores(member_scores(source.rows, 2))
    expected = expected if outputs == "labels" else log_softmax(expected)
    logits = combine(member_logits(source.rows, 2), found, TASKS[outputs])
    np.testing.assert_allclose(logits, expected, atol=1e-6)


@pytest.mark.parametrize("outputs", ["classes", "labels"])
def test_what_is_deployed_is_what_the_ensemble_stage_scored(outputs: str) -> None:
    """Of the folds for which the stage chose stacking too, its predictions are those of the deployed combination."""
    tables = {name: one.select(one.seed == SEED) for name, one in members(outputs).items()}
    predictions, decision = build_ensemble(
        tables, candidates=["logistic"], primary="log_loss", resamples=200, confidence=0.95, seed=0
    )
    chosen = recipe_of(decision)
    assert chosen.choice == "logistic" and chosen.folds, decision["reason"]
    study = fits(tables, outputs, recipe=chosen, delivered=predictions)["study"]
    assert study["n_predictions"] > 50 and study["max_probability_difference"] < 1e-5
    swapped = {"a": tables["b"], "b": tables["a"]}
    study = fits(swapped, outputs, recipe=chosen, delivered=replace(predictions, logits=-predictions.logits))["study"]
    with pytest.raises(BundleFailure, match="differ from the study's ensemble by up to"):
        check_combination(study)


def delivered(tables: dict[str, Predictions], choice: str, back: tuple[str, ...]) -> Predictions:
    """What the ensemble stage hands on where every fold makes this choice, labels `back` going to member a."""
    source = rows_of_seed(stack_members(tables), seed=SEED)
    nothing: Any = None
    setting = Setting(Stack(tuple(tables), SMALL), (), tables["a"].classes, nothing, nothing, nothing, 0.9)
    labels = tuple(LabelChoice(label, "a", nothing, "") for label in back)
    chosen = Choice(choice, "a", nothing, "", labels)
    parts = [
        setting.table(part, apply_choice(chosen, source.without(fold), part, setting))
        for fold in source.groups
        for part in [source.of(fold)]
    ]
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("case_id", "patient_id", "split", "fold", "seed", "logits", "targets")
    }
    return replace(parts[0], **joined)


@pytest.mark.parametrize("choice", ["mean", "calibrated_mean", "weighted", "greedy", "logistic", "attention", "mlp"])
@pytest.mark.parametrize(
    ("outputs", "back"), [("classes", ()), ("labels", ()), ("labels", ("edema", "rare")), ("zones", ("right",))]
)
def test_every_choice_is_combined_by_the_runner_as_by_the_study(
    outputs: str, back: tuple[str, ...], choice: str
) -> None:
    tables = members(outputs)
    chosen = recipe(choice, tables, fallback="a" if back else "", fallen_back=back, folds=(0, 1, 2))
    found = fits(tables, outputs, recipe=chosen, delivered=delivered(tables, choice, back))
    assert found["study"]["n_predictions"] > 200
    assert found["study"]["max_probability_difference"] < 1e-6
    check_combination(found["study"])
    new = np.random.default_rng(9).normal(size=(20, 2, len(tables["a"].classes))).astype(np.float32)
    said = combine(new, found["combination"], TASKS[outputs])
    assert said.shape == (20, len(tables["a"].classes)) and np.isfinite(said).all()
    for label in back:
        k = TASKS[outputs].labels.index(label)
        whole, alone = (TASKS[outputs].probabilities(values)[:, k] for values in (said, new[:, 0]))
        np.testing.assert_allclose(whole, alone, atol=1e-7)
    if choice in ("attention", "mlp"):
        assert np.abs(said - combine(new, {"kind": "mean"}, TASKS[outputs])).max() > 0.05, "something was fitted"


def test_with_a_single_split_both_parts_are_held_against_the_study() -> None:
    tables = {}
    for name, one in members("classes").items():
        part = np.where(np.char.replace(one.patient_id, "p", "").astype(int) < 60, "val", "test")
        tables[name] = replace(one, split=part, fold=np.zeros(len(one), int)).select(one.seed == SEED)
    predictions, decision = build_ensemble(
        tables, candidates=["logistic"], primary="log_loss", resamples=200, confidence=0.95, seed=0
    )
    chosen = recipe_of(decision)
    found = fits(tables, "classes", recipe=chosen, delivered=predictions)
    assert found["study"]["n_predictions"] == 2 * PATIENTS and found["study"]["max_probability_difference"] < 1e-5


def test_labels_with_enough_patients_are_bundled_with_isotonic_steps() -> None:
    rows = table("labels", noise=1, rng=1, sharpness=3.0)
    found = fits({"m": rows}, "labels", isotonic_patients=20)
    fitted = found["calibration"]
    assert fitted["method"] == "isotonic" and fitted["steps"][0] is not None and fitted["steps"][2] is None
    assert "isotonic needs 20" in fitted["reasons"][2]
    source = rows_of_seed(rows, seed=SEED)
    study = fit_isotonic(source, applied=source.rows.select(source.rows.seed < 0), seed=SEED, min_patients=20)
    new = np.random.default_rng(3).normal(scale=4, size=(60, 3)).astype(np.float32)
    np.testing.assert_allclose(
        calibrated(new, fitted, TASKS["labels"]), sigmoid(study.log_odds(new)), rtol=0, atol=1e-9
    )
    cut = np.array(found["thresholds"]["log_odds"])
    called = present(source.rows.logits, found["thresholds"])[:, 0]
    lowest = source.rows.logits[called, 0].min()
    assert lowest >= cut[0] and 0.2 < called.mean() < 0.6


def test_grades_come_with_cut_points_of_their_calibrated_mean() -> None:
    rows = table("classes", noise=2, rng=1, sharpness=4.0)
    grades = replace(TASKS["classes"], decision="expected_grade")
    found = fits({"m": rows}, "classes", task=grades)
    source = rows_of_seed(rows, seed=SEED)
    scaled = source.rescored(source.rows.logits / found["calibration"]["temperature"])
    study = fit_cut_points(scaled, applied=source.rows.select(source.rows.seed < 0), seed=SEED)
    np.testing.assert_allclose(found["cut_points"]["cuts"], study.cuts)
    said = grades_at_cuts(calibrated(source.rows.logits, found["calibration"], grades), found["cut_points"]["cuts"])
    np.testing.assert_array_equal(said, study.decide(expected_grade(scaled.rows.logits)))
    assert fits({"m": rows}, "classes")["cut_points"] is None, "no grades"


def test_ensembles_are_calibrated_as_deployed_and_cross_fitted() -> None:
    """Calibration sees rows combined by weights of other folds, not of the rows themselves."""
    tables = members("classes")
    rated, combination = combined_rows(tables, recipe("logistic", tables), seed=SEED, task=TASKS["classes"])
    source = rows_of_seed(stack_members(members("classes")), seed=SEED)
    for fold in range(FOLDS):
        inside = source.group == fold
        stacker = fit_stacker(source.without(fold), applied=source.of(fold), n_members=2, seed=SEED)
        expected = stacker.log_probabilities(member_logits(source.of(fold), 2))
        np.testing.assert_allclose(rated.rows.logits[inside], expected, atol=1e-5)
    in_sample = combine(member_logits(source.rows, 2), combination, TASKS["classes"])
    assert np.abs(rated.rows.logits - in_sample).max() > 1e-3


def test_choices_and_the_members_they_need() -> None:
    decision: dict[str, Any] = {"members": ["a", "b", "c"], "choice": "best base (b)", "best_base": "b"}
    assert recipe_of(decision).members == ("b",)
    for choice in ("mean", "logistic", "attention", "mlp"):
        assert recipe_of({**decision, "choice": choice}).members == ("a", "b", "c")
    labels = [{"label": "edema", "choice": "b"}, {"label": "other", "choice": "mean"}]
    folds = [{"fold": 0, "choice": "mean", "fell_back": ["edema"]}, {"fold": 1, "choice": "mean", "fell_back": []}]
    found = recipe_of({**decision, "choice": "mean", "labels": labels, "per_fold_choice": folds})
    assert (found.fallback, found.fallen_back, found.folds) == ("b", ("edema",), (0,))
    with pytest.raises(ValueError, match="choice is 'boosting', which a bundle can't hold"):
        recipe_of({**decision, "choice": "boosting"})
    with pytest.raises(ValueError, match="combines its members by 'boosting'"):
        combine(np.zeros((1, 2, 3)), {"kind": "boosting"}, TASKS["classes"])

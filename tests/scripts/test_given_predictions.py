"""The front ends without training: a CSV of predictions becomes a report, two studies a table of changed cases."""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CLASSES = ("none", "mild", "severe")
FEW = ("--resamples", "200", "--comparison-resamples", "200")


def write_csv(path, models, *, change=None):
    """60 patients of two images in three folds; `models` maps a name to its skill."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, size=120)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "patient", "model", "fold", *[f"logit_{name}" for name in CLASSES], "target"])
        for name, skill in models.items():
            noise = np.random.default_rng(len(name)).normal(size=(120, 3))
            for i, row in enumerate(skill * np.eye(3)[truth] + noise):
                cells = [f"c{i:03d}", f"p{i // 2:02d}", name, i // 2 % 3, *row.round(6), CLASSES[truth[i]]]
                writer.writerow(change(i, cells) if change else cells)
    return path


def run(script, *words, cwd):
    command = [sys.executable, str(CHECKOUT / "scripts" / script), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Two reports on the same cases: a weak and a strong model of one name."""
    folder = tmp_path_factory.mktemp("given")
    for name, skill in (("baseline", 0.8), ("improved", 2.5)):
        file = write_csv(folder / f"{name}.csv", {"net": skill, "other": 1.0})
        done = run("evaluate.py", "--predictions", file, "--task", "multiclass", *FEW, cwd=folder)
        assert done.returncode == 0, done.stderr
        # one dataset name, so that the two can be compared
        (folder / "results" / name / name).rename(folder / "results" / name / "data1")
    return folder


def test_a_csv_becomes_a_report_with_the_statistics_of_a_study(studies):
    from archbench.artifacts import read_json, read_predictions
    from archbench.evaluation import evaluate
    from archbench.tasks import get_task

    results = studies / "results" / "improved"
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "trained elsewhere" in page and "improved.csv" in page and "scripts/evaluate.py --predictions" in page
    written = read_json(results / "data1" / "net" / "metrics.json")
    task = get_task("multiclass")
    again = evaluate(
        read_predictions(results / "data1" / "net" / "predictions.parquet"),
        metrics=task.metrics,
        primary=task.primary,
        resamples=200,
        confidence=0.95,
        seed=0,
    )
    assert written["metrics"] == again["metrics"] and written["n_patients"] == 60
    rows = list(csv.DictReader((results / "results_table.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == ["net", "other"]


def test_nothing_is_said_of_a_training_that_was_not_seen(studies):
    """Models of other tools: no claim about their patients, weights or epochs, and nothing that they lack."""
    results = studies / "results" / "improved"
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "something is missing" not in page and "training did not finish" not in page
    rows = csv.DictReader((results / "results_table.csv").read_text().splitlines())
    assert {row["status"] for row in rows} == {"complete"}
    texts = [(results / name).read_text(encoding="utf-8") for name in ("methods.md", "checklist.md")]
    for text in texts:
        for claim in ("No patient is in two parts", "no patient is in two parts", "random weights", "epoch was chosen"):
            assert claim not in text
    assert "it is for the authors to say" in texts[0] and "3 folds by patient" in texts[0]
    for item in ("20", "21", "24", "26"):
        assert re.search(rf"^\| {item} \| [^|]+ \| author must fill \|$", texts[1], re.M), item


def test_the_command_on_the_page_repeats_the_flags(tmp_path):
    from scripts.evaluate_predictions import command_of, parse

    words = ["--predictions", str(tmp_path / "my file.csv"), "--task", "multilabel"]
    flags = ["--clinical-cut", "1", "--isotonic", "--threshold-rule", "sensitivity", "--threshold-value", "0.9"]
    command = shlex.split(command_of(parse([*words, *flags, "--output", "elsewhere"])))
    assert command[:2] == ["python", "scripts/evaluate.py"] and "--output" not in command and "--seed" not in command
    again = parse(command[2:])
    assert vars(again) == {**vars(parse([*words, *flags])), "predictions": Path("my file.csv")}


def test_one_part_without_folds_claims_no_fit(tmp_path):
    file = write_csv(tmp_path / "one.csv", {"ensemble": 1.5, "net": 1.0}, change=lambda i, c: [*c[:3], 0, *c[4:]])
    done = run("evaluate.py", "--predictions", file, "--task", "multiclass", *FEW, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    methods = (tmp_path / "results" / "one" / "methods.md").read_text(encoding="utf-8")
    assert "fitted" not in methods and "one test part" in methods
    assert "Net benefit of uncalibrated probabilities" in methods
    rows = list(csv.DictReader((tmp_path / "results" / "one" / "results_table.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == ["ensemble", "net"], "a model of this name is a model like the others"


def write_labels(path, skill=1.0):
    """100 patients of two images in four folds, two labels with unknown cells."""
    generator = np.random.default_rng(3)
    truth = (generator.random((200, 2)) < (0.5, 0.3)).astype(int)
    logits = skill * (2 * truth - 1) + generator.normal(size=(200, 2))
    lines = ["case,patient,model,fold,logit_a,logit_b,target_a,target_b"]
    for i, (odds, said) in enumerate(zip(logits.round(5), truth, strict=True)):
        known = "" if i % 9 == 0 else str(said[1])
        lines.append(f"c{i},p{i // 2},net,{i // 2 % 4},{odds[0]},{odds[1]},{said[0]},{known}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_flag_of_what_is_fitted_on_other_patients_arrives(tmp_path):
    from archbench.artifacts import read_json

    file = write_labels(tmp_path / "labels.csv")
    flags = ["--threshold-rule", "sensitivity", "--threshold-value", "0.9", "--few-positive-patients", "3"]
    flags += ["--isotonic", "--isotonic-patients", "20", "--conformal-coverage", "0.8"]
    done = run("evaluate.py", "--predictions", file, "--task", "multilabel", *FEW, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "labels" / "labels" / "net"
    found, calibration = read_json(folder / "metrics.json"), read_json(folder / "calibration.json")
    assert found["tuned"]["rule"] == {"kind": "sensitivity", "value": 0.9, "few_positive_patients": 3}
    assert found["tuned"]["calibration"] == calibration["method"] == "isotonic"
    assert all(entry["steps"] for entry in calibration["parameters"])
    assert found["conformal"]["target"] == 0.8
    wrong = ["--threshold-rule", "f1", "--threshold-value", "0.9"]
    done = run("evaluate.py", "--predictions", file, "--task", "multilabel", *wrong, cwd=tmp_path)
    assert done.returncode == 2 and "--threshold-value: the rule f1 takes no value" in done.stderr


def test_bad_files_are_named_by_row(tmp_path):
    file = write_csv(
        tmp_path / "bad.csv", {"net": 1.0}, change=lambda i, cells: [*cells[:-1], "what" if i == 5 else "none"]
    )
    done = run("evaluate.py", "--predictions", file, "--task", "multiclass", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "row 7, column target: 'what' is no class" in done.stderr
    missing = run("evaluate.py", "--predictions", tmp_path / "absent.csv", "--task", "multiclass", cwd=tmp_path)
    assert missing.returncode == 1 and "absent.csv" in missing.stderr and "Traceback" not in missing.stderr


def test_two_studies_are_compared_case_by_case(studies):
    from archbench.artifacts import read_json

    done = run("compare.py", "baseline", "improved", "--resamples", "300", cwd=studies)
    assert done.returncode == 0, done.stderr
    folder = studies / "results" / "improved-against-baseline"
    net, other = read_json(folder / "study_comparison.json")["pairs"]
    assert net["before"] == "net" and net["verdict"] == "better" and net["difference"] > 0.1 and net["low"] > 0
    assert other["difference"] == 0 and other["verdict"] == "equivalent" and other["p_holm"] == 1.0
    cases = list(csv.DictReader((folder / "changed_cases.csv").read_text().splitlines()))
    assert {row["before_model"] for row in cases} == {"net"}
    fixed = [row for row in cases if row["outcome"] == "fixed"]
    assert len(fixed) == net["outcomes"]["fixed"] > net["outcomes"]["broken"]
    assert all(row["after"] == row["truth"] != row["before"] for row in fixed)
    assert "cases fixed" in done.stdout


def test_studies_of_several_labels_are_compared_label_by_label(tmp_path):
    from archbench.artifacts import read_json

    for name in ("before", "after"):
        file = write_labels(tmp_path / f"{name}.csv", skill=1.0 if name == "before" else 2.0)
        done = run("evaluate.py", "--predictions", file, "--task", "multilabel", *FEW, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (tmp_path / "results" / name / name).rename(tmp_path / "results" / name / "data1")
    done = run("compare.py", "before", "after", "--resamples", "300", cwd=tmp_path)
    assert done.returncode == 0 and "cells fixed" in done.stdout, done.stderr
    folder = tmp_path / "results" / "after-against-before"
    outcomes = read_json(folder / "study_comparison.json")["pairs"][0]["outcomes"]
    cells = list(csv.DictReader((folder / "changed_cases.csv").read_text().splitlines()))
    assert {cell["label"] for cell in cells} == {"a", "b"}
    assert sum(cell["outcome"] == "fixed" for cell in cells) == outcomes["fixed"] > outcomes["broken"]


def test_the_difference_turns_with_the_order(studies):
    from archbench.artifacts import read_json

    done = run("compare.py", "improved", "baseline", "--resamples", "300", "--output", "turned", cwd=studies)
    assert done.returncode == 0, done.stderr
    there = read_json(studies / "results" / "improved-against-baseline" / "study_comparison.json")["pairs"][0]
    back = read_json(studies / "turned" / "study_comparison.json")["pairs"][0]
    assert back["verdict"] == "worse"
    for name, other in (("difference", "difference"), ("low", "high"), ("high", "low")):
        assert back[name] == pytest.approx(-there[other], abs=1e-12)


def test_models_of_other_names_are_paired_on_request_and_absent_studies_named(studies):
    done = run(
        "compare.py",
        "baseline",
        "improved",
        "--models",
        "other=net",
        "--resamples",
        "300",
        "--output",
        "x",
        cwd=studies,
    )
    assert done.returncode == 0 and "other -> net" in done.stdout
    absent = run("compare.py", "baseline", "nowhere", cwd=studies)
    assert absent.returncode == 1 and "nowhere" in absent.stderr and "Traceback" not in absent.stderr


@pytest.mark.parametrize("script", ["evaluate.py", "compare.py"])
def test_the_rules_command_line_is_unchanged(script, tmp_path):
    done = run(script, "--study", "s.json", "--dataset", "d", cwd=tmp_path)
    assert done.returncode == 2 and "required" in done.stderr and "--output" in done.stderr

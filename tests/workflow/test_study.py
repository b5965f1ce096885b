"""A whole tiny study with the real Snakemake: outputs, second run, and what an edit reruns."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.workflow

CHECKOUT = Path(__file__).resolve().parents[2]
GRADES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative")
EVALUATED_AGAIN = {"all", "assemble_report", "add_to_leaderboard"}


def test_all_outputs_are_there(finished):
    study = finished.folder / "results" / "tiny"
    for name in ("results_table.csv", "results_table.txt", "results.json", "confusion_matrices.png", "report.html"):
        assert (study / name).stat().st_size > 0, name
    for name in (
        "methods.md",
        "checklist.md",
        "figures/forest.svg",
        "tables/results-phantom.csv",
        "tables/checklist.tex",
    ):
        assert (study / name).stat().st_size > 0, name
    with open(study / "results_table.csv", encoding="utf-8") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["custom1", "resnet18", "ensemble"]
    for model in ("custom1", "resnet18"):
        folder = study / "phantom" / model
        for name in ("predictions.parquet", "calibration.json", "metrics.json", "model.onnx", "export.json"):
            assert (folder / name).is_file(), name
        assert len(list((folder / "gradcam").glob("*_overlay.png"))) == 4
        for name in ("best.safetensors", "history.csv", "settings.json", "predictions.parquet"):
            assert (folder / "fold1-seed3" / name).is_file(), name
    assert {p.name for p in (study / "phantom" / "ensemble").iterdir()} >= {"decision.json", "metrics.json"}
    assert (study / "phantom" / "timing.parquet").is_file()
    assert json.loads((study / "leaderboard.json").read_text())["new"] == 3, "the study is remembered"
    assert (finished.folder / "results" / "archbench.sqlite").is_file()
    assert (study / "phantom" / "comparison.json").is_file()


def test_progress_is_on_the_screen_and_in_the_log(finished):
    line = "train phantom/resnet18 fold 1 seed 3 | epoch 2/2"
    assert line in finished.log
    assert line in (finished.folder / "logs/tiny/train/phantom/resnet18/fold1-seed3.log").read_text()


def test_a_second_run_has_nothing_to_do(finished):
    assert "Nothing to be done" in finished.snakemake("--cores", "2").stdout


def test_every_patient_has_one_out_of_fold_prediction(finished):
    from archbench.artifacts import read_predictions

    table = read_predictions(finished.folder / "results/tiny/phantom/custom1/predictions.parquet").test
    assert len(table) == 80
    assert len(set(table.case_id.tolist())) == 80


def test_a_comment_reruns_nothing(edited):
    edited.edit("archbench/training.py", '"""Train one network on one fold', '"""Train a network on one fold')
    edited.edit("archbench/losses/focal.py", "    def values(", "    # the published formula\n    def values(")
    assert edited.planned() == {}


def test_an_edited_loss_retrains_what_uses_it(edited):
    edited.edit(
        "archbench/losses/focal.py", "** numbers.focal_gamma * entropy", "** (numbers.focal_gamma + 0.5) * entropy"
    )
    planned = edited.planned()
    assert planned["train"] == 2  # both folds of custom1; resnet18 uses another loss
    assert planned["predict"] == 1


def test_a_final_model_or_an_edited_template_remakes_the_report_alone(edited):
    final = edited.folder / "results/tiny/phantom/custom1/final/settings.json"
    final.parent.mkdir()
    final.write_text('{"evaluated": false, "epochs": 2}')
    assert set(edited.planned()) == EVALUATED_AGAIN
    final.unlink()
    assert edited.planned() == {}
    edited.edit("archbench/report/templates/report.css", ".note {", ".note { color: red;")
    assert set(edited.planned()) == EVALUATED_AGAIN


def test_a_new_architecture_retrains_nothing(edited):
    family = edited.folder / "archbench/models/resnet.py"
    text = family.read_text()
    entry = next(line for line in text.splitlines() if line.startswith('ARCHITECTURES.register("resnet18"'))
    family.write_text(text + "\n" + entry.replace('"resnet18"', '"resnet18b"', 1) + "\n")
    (edited.folder / "archbench/models/new_family.py").write_text(text.replace('register("resnet', 'register("resnetc'))
    assert edited.planned() == {}


def test_another_setting_reruns_what_depends_on_it(edited):
    edited.edit("config/config.yaml", "explain: {cases: 4}", "explain: {cases: 5}")
    assert set(edited.planned()) == EVALUATED_AGAIN | {"explain"}


def test_a_new_model_leaves_the_others_alone(edited):
    entry = "  custom2: {architecture: custom1, image_size: 32, training: {lr: 2.0e-3}}\nexplain:"
    edited.edit("config/config.yaml", "explain:", entry)
    planned = edited.planned()
    assert planned["train"] == 2
    assert "cache_images" not in planned


def test_more_seeds_keep_the_first(edited):
    edited.edit("config/config.yaml", "seeds: [3]", "seeds: [3, 4]")
    assert edited.planned()["train"] == 4


def test_the_leaderboard_of_the_study(finished):
    said = finished.snakemake("--cores", "1", "leaderboard").stdout
    assert "Leaderboard of finished studies" in said
    page = (finished.folder / "results/leaderboard/runs.html").read_text()
    assert all(name in page for name in ("custom1", "resnet18", "ensemble"))


def test_a_study_may_stay_out_of_the_database(edited):
    edited.edit("config/config.yaml", "explain: {cases: 4}", "explain: {cases: 4}\nleaderboard: {database: off}")
    assert "add_to_leaderboard" not in edited.planned("--forcerun", "assemble_report")
    assert "leaderboard.database: off" in edited.snakemake("--cores", "1", "leaderboard", check=False).stdout


def test_the_snakemake_report(finished):
    finished.snakemake("--cores", "2", "report")
    with zipfile.ZipFile(finished.folder / "results/tiny/snakemake_report.zip") as archive:
        pages = [name for name in archive.namelist() if name.endswith("report.html")]
        page = archive.read(min(pages, key=lambda name: name.count("/"))).decode()  # ours lies deeper
    assert "results table" in page
    assert "confusion matrices" in page
    assert "Nothing to be done" in finished.snakemake("--cores", "2", "report").stdout


def test_results_json_is_valid_and_names_the_data(finished):
    content = json.loads((finished.folder / "results/tiny/results.json").read_text())
    assert "phantom" in json.dumps(content).lower()


def test_make_bundle_writes_what_repeats_the_study_alone(edited, tmp_path):
    shutil.copy(CHECKOUT / "Makefile", edited.folder)
    for model in ("resnet18", "ensemble"):
        edited.make("-o", "setup", "bundle", f"MODEL={model}", "CORES=2")
    chosen = {"ARCHBENCH_BUNDLE__MODELS": '["resnet18", "ensemble"]'}
    assert "Nothing to be done" in edited.snakemake("--cores", "2", "--", "bundle", **chosen).stdout
    assert edited.planned() == {}, "the study itself is as it was"
    results = edited.folder / "results/tiny/phantom"
    expected, cases, n = predicted(results, "resnet18"), case_of_image(results), 0
    for source in ("bundle-fp32", "bundle-fp32.zip"):
        for row in run_bundle(edited, results / "resnet18" / source, tmp_path / "out.csv"):
            case = cases[Path(row["image"]).name]
            if case in expected:
                said = [float(row[f"probability_{name}"]) for name in GRADES]
                assert max(abs(a - b) for a, b in zip(said, expected[case], strict=True)) < 1e-4
                n += 1
    assert n == 2 * len(expected) > 60
    study = json.loads((results / "ensemble/bundle-fp32/bundle.json").read_text())["study"]
    assert (study["max_probability_difference"] or 0) < 1e-4 and bool(study["n_predictions"]) == bool(study["folds"])
    assert len(run_bundle(edited, results / "ensemble/bundle-fp32.zip", tmp_path / "out.csv")) == 80
    network = next((results / "ensemble/bundle-fp32").rglob("model.onnx"))
    network.write_bytes(network.read_bytes()[:-1] + b"x")
    assert "was modified" in run_bundle(edited, results / "ensemble/bundle-fp32", tmp_path / "out.csv", code=1)
    refused = edited.snakemake("-n", "--", "bundle", check=False, ARCHBENCH_BUNDLE__MODELS='["resnet19"]')
    assert "bundle.models: no model 'resnet19'; did you mean 'resnet18'?" in refused.stdout


def run_bundle(study, bundle, out, *, code=0):
    """Predict the study's images; return the rows, or the error where another exit code is expected."""
    images = bundle.parents[1] / "data/phantom"
    command = [sys.executable, "-m", "archbench_predict", str(bundle), str(images), "--out", str(out)]
    done = subprocess.run(command, cwd=study.folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    if code:
        return done.stderr
    with open(out, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def case_of_image(results):
    """The study's cases by the name of the image's file."""
    from archbench.artifacts import read_table

    manifest, _ = read_table(results / "data/manifest.parquet")
    names = [Path(name).name for name in manifest["image"].to_pylist()]
    return dict(zip(names, manifest["case_id"].to_pylist(), strict=True))


def predicted(results, model):
    """The study's probabilities of the network that was exported, by case."""
    from archbench.artifacts import read_predictions, softmax

    account = json.loads((results / model / "export.json").read_text())
    table = read_predictions(results / model / "predictions.parquet")
    table = table.select((table.fold == account["fold"]) & (table.seed == account["seed"]))
    return dict(zip(table.case_id.tolist(), softmax(table.logits), strict=True))

"""Every configuration plans, bad ones are refused before anything runs, a failing model loses no other."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from format_trees import write_source

from archbench.config import read_yaml

CHECKOUT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.name for path in (CHECKOUT / "config").glob("*.yaml"))

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_plans(workflow, name):
    study = read_yaml(CHECKOUT / "config" / name)
    environment = {}
    for dataset, entry in study["datasets"].items():
        if not entry["format"].startswith("phantom"):
            root = workflow.folder / "data" / dataset
            write_source(root, entry)
            environment[f"ARCHBENCH_DATASETS__{dataset.upper()}__ROOT"] = str(root)
    output = workflow.snakemake("--dry-run", "--configfile", f"config/{name}", **environment).stdout
    assert "assemble_report" in output


def test_make_bundle_of_a_shipped_study_of_masks_plans(workflow):
    """The command of docs/deployment.md, with nothing but a plan: make hands CORES on as it stands."""
    shutil.copy(CHECKOUT / "Makefile", workflow.folder)
    workflow.edit(
        "config/phantom_segmentation.yaml", "study: phantom_segmentation", 'study: "phantom_segmentation" # ours'
    )
    given = ("MODEL=unet", "STUDY=config/phantom_segmentation.yaml", "CORES=1 --dry-run")
    planned = workflow.make("-o", "setup", "bundle", *given, check=False).stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", planned, re.MULTILINE))
    assert counts["write_mask_bundle"] == counts["bundle"] == "1" and counts["score_masks"] == "1", planned[-3000:]
    assert "results/phantom_segmentation/chest/unet/bundle-fp32.zip" in planned
    assert not {"write_bundle", "assemble_report"} & set(counts)
    assert "'results/phantom_segmentation/*/unet/bundle-fp32*'" in planned, "the place that make shows, not there yet"


def test_all_errors_of_a_study_at_once_before_anything_runs(workflow):
    bad = workflow.folder / "bad.yaml"
    bad.write_text(
        "study: bad\n"
        "datasets: {d: {format: table, root: nowhere, csv: a.csv, classes: [a, b], taks: ordinal}}\n"
        "training: {epochs: many}\n"
        "models:\n"
        "  vit: {architecture: vit_tiny_patch16_224, image_size: 100}\n"
        "  unknown: {architecture: resnet19}\n"
    )
    completed = workflow.snakemake("--cores", "1", "--configfile", "bad.yaml", check=False)
    assert completed.returncode != 0
    for text in (
        "datasets.d.taks: unknown key; did you mean 'task'?",
        "training.epochs",
        "models.vit.image_size: 100 px is no multiple of the patch size 16; use 96 or 112",
        "models.unknown.architecture: unknown architecture 'resnet19'; did you mean 'resnet18'?",
    ):
        assert text in completed.stdout
    assert not (workflow.folder / "results" / "bad").exists()


def test_a_study_replaces_the_default_one(workflow):
    study = (workflow.folder / "config" / "config.yaml").read_text()
    own = study.replace("phantom_fundus", "own").replace("  custom1: {", "  mine: {")
    (workflow.folder / "own.yaml").write_text(own)
    output = workflow.snakemake("--dry-run", "--configfile", "own.yaml").stdout
    assert "train mine" in output
    assert "train custom1" not in output


def test_labels_that_are_not_in_the_list_stop_the_study_before_training(workflow):
    root = workflow.folder / "data"
    write_source(root, {"format": "table", "csv": "labels.csv"})
    (workflow.folder / "own.yaml").write_text(
        "study: own\n"
        f"datasets: {{d: {{format: table, root: {root}, csv: labels.csv, classes: [a, b, c],\n"
        "  columns: {image: image_path, patient: patient_id, label: label}}}\n"
        "protocol: {folds: 30}\n"
        "models: {m: {architecture: custom1, image_size: 32}}\n"
    )
    completed = workflow.snakemake("--cores", "2", "--configfile", "own.yaml", check=False)
    assert completed.returncode != 0
    assert "label" in completed.stdout
    assert not list((workflow.folder / "results").glob("own/*/m/fold*/best.safetensors"))


def test_a_model_that_fails_does_not_lose_the_others(edited):
    """A checkpoint that does not fit fails in its own job; the partial report names it with the end of its log."""
    weights = edited.folder / "results/tiny/phantom/custom1/fold0-seed3/best.safetensors"
    shutil.copy(weights, edited.folder / "custom.safetensors")
    model = "  broken: {architecture: resnet18, image_size: 32, checkpoint: custom.safetensors}\n"
    entry = f"{model}compute: {{log_dir: my logs}}\nexplain:"
    edited.edit("config/config.yaml", "explain:", entry)
    completed = edited.snakemake("--cores", "2", check=False)
    assert completed.returncode != 0
    assert "doesn't fit" in completed.stdout
    page = (edited.folder / "results/tiny/report.html").read_text()
    assert "broken" in page
    assert "doesn&#39;t fit" in page or "doesn't fit" in page
    with open(edited.folder / "results/tiny/results_table.csv", encoding="utf-8") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert rows["custom1"]["qwk"]
    assert rows["broken"]["status"] == "failed"
    decision = json.loads((edited.folder / "results/tiny/phantom/ensemble/decision.json").read_text())
    assert decision["members"] == ["custom1", "resnet18"]
    assert [item["name"] for item in decision["left_out"]] == ["broken"]
    assert "broken was left out" in completed.stdout and "left out" in page
    assert rows["ensemble"]["qwk"]
    compared = json.loads((edited.folder / "results/tiny/phantom/comparison.json").read_text())
    assert {row["model"] for row in compared["models"]} == {"custom1", "resnet18", "ensemble"}
    assert compared["pairs"] and rows["custom1"]["verdict"]
    planned = edited.planned()
    assert planned["predict"] == 1, "a partial report is not taken for the whole one"
    assert planned["ensemble"] == planned["compare"] == 1, "nor is an ensemble of what was there"
    edited.edit("config/config.yaml", entry, "explain:")
    assert edited.planned()["assemble_report"] == 1


def test_a_model_that_fails_when_it_is_trained_again_shows_no_earlier_result(edited):
    """Its old metrics and the old comparison lie there still: they are of other settings than the report's."""
    recipe = "training: {loss: weighted_cross_entropy}"
    edited.edit("config/config.yaml", recipe, "training: {loss: weighted_cross_entropy, lr: 1.0e+30, grad_clip: null}")
    assert edited.snakemake("--cores", "2", check=False).returncode != 0
    with open(edited.folder / "results/tiny/results_table.csv", encoding="utf-8") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert rows["resnet18"]["status"] == "failed" and not rows["resnet18"]["qwk"]
    assert rows["custom1"]["qwk"] and not rows["ensemble"]["qwk"], "of one model there is no ensemble"
    page = (edited.folder / "results/tiny/report.html").read_text()
    assert "lower training.lr" in page, "the end of its log"
    compared = json.loads((edited.folder / "results/tiny/phantom/comparison.json").read_text())
    assert [row["model"] for row in compared["models"]] == ["custom1"]


def test_after_ctrl_c_what_was_not_finished_is_not_called_failed(edited):
    training = "{epochs: 5000, early_stopping: {patience: 5000}}"
    entry = f"  stopped: {{architecture: custom1, image_size: 32, training: {training}}}\nexplain:"
    edited.edit("config/config.yaml", "explain:", entry)
    logs = edited.folder / "logs/tiny/train/phantom/stopped"
    process = edited.start("--cores", "1", own_group=True)
    deadline = time.monotonic() + 120
    while "epoch 2/" not in "".join(log.read_text() for log in logs.glob("*.log")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: Snakemake and its jobs
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and "stopped on request, nothing failed" in said
    with open(edited.folder / "results/tiny/results_table.csv", encoding="utf-8") as file:
        assert {row["model"]: row["status"] for row in csv.DictReader(file)}["stopped"] == "not finished"
    page = (edited.folder / "results/tiny/report.html").read_text()
    assert "stopped: not finished" in page and "Failed models" not in page


def test_given_weights_are_evaluated_or_trained_on(edited):
    """Users' paths have spaces: of the checkout, of weights, of the logs."""
    folder = edited.folder / "my weights"
    folder.mkdir()
    shutil.copy(edited.folder / "results/tiny/phantom/custom1/fold0-seed3/best.safetensors", folder / "a b.safetensors")
    edited.edit(
        "config/config.yaml",
        "explain:",
        "  given: {architecture: custom1, image_size: 32, checkpoint: my weights/a b.safetensors}\n"
        "  started: {architecture: custom1, image_size: 32, weights: 'file:my weights/a b.safetensors'}\n"
        "compute: {log_dir: my logs}\nexplain:",
    )
    out = edited.folder / "results/tiny/phantom"
    scored, trained = "results/tiny/phantom/given/metrics.json", "results/tiny/phantom/started/fold0-seed3/history.csv"
    assert edited.planned("--", scored) == {"predict": 1, "evaluate": 1}
    edited.snakemake("--cores", "2", "--", scored, trained)
    assert (out / "given/metrics.json").is_file() and (out / "started/fold0-seed3/history.csv").is_file()
    assert list((edited.folder / "my logs/tiny/train/phantom/started").glob("*.log"))


@pytest.mark.parametrize(("sent", "code"), [("SIGKILL", -9), ("SIGTERM", 75), ("SIGUSR1", 75)])
def test_a_training_that_was_ended_goes_on_to_the_same_weights(finished, tmp_path, sent, code):
    """A signal in the middle of a training; started again it ends with the weights of the undisturbed run."""
    folder = finished.folder
    study_file = next((folder / "results/cache/studies").glob("tiny-*.json"))
    data = folder / "results/tiny/phantom/data"
    cache = next(data.glob("images-32-*.json"))
    command = [sys.executable, str(folder / "scripts/train.py"), "--study", str(study_file), "--dataset", "phantom"]
    command += ["--model", "custom1", "--fold", "0", "--seed", "3", "--manifest", str(data / "manifest.parquet")]
    command += ["--folds", str(data / "folds.parquet"), "--cache", str(cache), "--state", str(tmp_path / "state.pt")]
    command += ["--best", str(tmp_path / "best.safetensors"), "--history", str(tmp_path / "history.csv")]
    command += ["--settings", str(tmp_path / "settings.json")]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, env=_environment(folder))
    deadline = time.monotonic() + 120
    while not (tmp_path / "state.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(getattr(signal, sent))
    assert process.wait(timeout=20) == code
    assert (tmp_path / "state.pt").exists()
    assert not (tmp_path / "best.safetensors").exists()
    again = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=_environment(folder), check=True)
    assert "continuing after epoch 1" in again.stderr
    undisturbed = folder / "results/tiny/phantom/custom1/fold0-seed3/best.safetensors"
    assert (tmp_path / "best.safetensors").read_bytes() == undisturbed.read_bytes()


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_the_same_seed_gives_bitwise_equal_predictions(finished, edited):
    edited.snakemake("--cores", "2", "--forcerun", "train", "--", "results/tiny/phantom/custom1/predictions.parquet")
    name = "results/tiny/phantom/custom1/predictions.parquet"
    assert (edited.folder / name).read_bytes() == (finished.folder / name).read_bytes()

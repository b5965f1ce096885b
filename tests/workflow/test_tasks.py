"""Ready studies, and a regression, through the whole workflow on phantoms of their own format."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from format_trees import write_heart_table, write_source
from tiny_sam import write_tiny_sam

from archbench.config import read_yaml

CHECKOUT = Path(__file__).resolve().parents[2]
# The default study runs whole in CI.
OF_MASKS = ("phantom_segmentation.yaml", "ct_structures.yaml")
OTHERS = ("config.yaml", *OF_MASKS)
READY = sorted(path.name for path in (CHECKOUT / "config").glob("*.yaml") if path.name not in OTHERS)
# Processes of torch start slowly; other tests time them.
QUICK_TIMING = {
    "batch_sizes": [1],
    "runtimes": ["onnxruntime"],
    "regimes": ["prepared"],
    "rounds": 7,
    "calls": 3,
    "repeats": 0,
}
PRETRAINED_KEYS = ("freeze", "freeze_epochs", "unfreeze", "unfreeze_every")

pytestmark = pytest.mark.workflow


def small(content: dict, folder: Path) -> dict:
    """A ready study on phantom data: its datasets and recipes, two epochs of two tiny networks."""
    for name, entry in content["datasets"].items():
        if entry["format"].startswith("phantom"):
            entry["phantom"] |= {"patients": 40, "image_size": 64}
        else:
            entry["root"] = str(folder / name)
            write_source(folder / name, entry)
    content["training"] |= {"epochs": 2, "warmup_epochs": 0, "lr": 1.0e-3}
    recipes = [dict(model.get("training") or {}) for model in content["models"].values()][-2:]
    content["models"] = {
        f"tiny{k}": {
            "architecture": "custom1",
            "image_size": 32,
            "training": {key: value for key, value in recipe.items() if key not in PRETRAINED_KEYS} | {"epochs": 2},
        }
        for k, recipe in enumerate(recipes)
    }
    if "members" in content.get("ensemble", {}):
        content["ensemble"]["members"] = list(content["models"])
    content |= {"protocol": {"kind": "holdout", "seeds": [3]}, "explain": {"cases": 8}}
    content |= {"inference": QUICK_TIMING, "compute": {"device": "cpu"}}
    return content | {
        "evaluation": {"resamples": 200, "comparison_resamples": 200},
        "audit": {"near_duplicates": "off"},
    }


@pytest.mark.parametrize("name", READY)
def test_a_ready_study_runs_on_a_phantom_of_its_format(workflow, name):
    content = small(read_yaml(CHECKOUT / "config" / name), workflow.folder / "data")
    (workflow.folder / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    workflow.snakemake("--cores", "2", "--configfile", "small.yaml")
    study = workflow.folder / "results" / content["study"]
    (dataset,) = content["datasets"]
    page = (study / "report.html").read_text()
    with open(study / "results_table.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["status"] for row in rows} == {"complete"}
    metrics = json.loads((study / dataset / "tiny0" / "metrics.json").read_text())
    explained = json.loads((study / dataset / "tiny0" / "gradcam" / "gradcam.json").read_text())["cases"]
    if metrics.get("outputs", "classes") == "classes":
        assert len(metrics["confusion_matrix"]) == len(content["datasets"][dataset]["classes"])
        assert len(explained) == 8
    elif metrics["outputs"] == "labels":
        assert "What goes together" in page
        assert "one per label" in page
        assert len({case["outcome"] for case in explained}) > 1
        if content["datasets"][dataset].get("volumes"):
            check_volumes(study / dataset, explained, page)
    else:
        assert "Without a risk class" in page
        assert len({case["label"] for case in explained}) == 6
        assert metrics["risk"]["n_undefined"] + metrics["risk"]["n_cases"] == metrics["n_cases"]
    with open(study / dataset / "tiny0" / "predictions.csv", encoding="utf-8") as file:
        assert "FileID" in next(csv.reader(file))


def check_volumes(folder: Path, explained: list[dict], page: str) -> None:
    """The slices of each explained volume with their weights; the seconds of a whole volume."""
    for case in explained:
        assert (folder / "tiny0" / "gradcam" / case["sheet"]).is_file()
        assert len(case["slice_weights"]) == case["n_slices"] >= case["slice"] >= 1
        assert abs(sum(case["slice_weights"]) - 1) < 1e-3
    assert "then all of them; each bar is the slice" in page
    exported = json.loads((folder / "tiny0" / "export.json").read_text())
    assert exported["passed"] and exported["variants"][0]["inputs"]["shape"][0] == explained[0]["n_slices"]
    timing = json.loads((folder / "timing.json").read_text())
    assert timing["models"]["tiny0"]["slices"] == explained[0]["n_slices"]


def test_a_study_of_masks_runs(workflow):
    content = read_yaml(CHECKOUT / "config" / "ct_structures.yaml")
    ((dataset, entry),) = content["datasets"].items()
    entry["root"] = str(workflow.folder / "data")
    write_source(workflow.folder / "data", entry)
    content["training"] |= {"epochs": 2}
    sam = {"architecture": write_tiny_sam(workflow.folder / "sam", weights=True), "image_size": 32}
    content["models"] = {
        "tiny0": {"architecture": "unet", "image_size": 32},
        "tuned": {**sam, "weights": "hub", "training": {"freeze": "backbone", "epochs": 1}},
        "published": {**sam, "checkpoint": "hub", "prompt": {"kind": "point"}},
    }
    content |= {"protocol": {"kind": "holdout"}, "inference": QUICK_TIMING, "compute": {"device": "cpu"}}
    content |= {"evaluation": {"resamples": 200, "comparison_resamples": 200}, "audit": {"near_duplicates": "off"}}
    (workflow.folder / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    workflow.snakemake("--cores", "2", "--configfile", "small.yaml")
    study = workflow.folder / "results" / content["study"]
    results = json.loads((study / "results.json").read_text())
    summary = results["datasets"][dataset]["masks"]
    assert results["status"] == "complete"
    assert summary["order"][0] == "tiny0" and set(summary["models"]) == {"tiny0", "tuned", "published"}
    assert summary["apart"] == ["published", "tuned"] and not summary["comparison"]["dice"]["pairs"]
    assert summary["models"]["tiny0"]["prompt"] is None
    told = {name: summary["models"][name]["prompt"] for name in summary["apart"]}
    assert [told[name]["kind"] for name in ("tuned", "published")] == ["box", "point"]
    refused = json.loads((study / dataset / "tuned" / "export.json").read_text())
    assert not refused["passed"] and refused["variants"][0]["status"] == "unsupported"
    dice = summary["models"]["tiny0"]["structures"][summary["structures"][0]]["dice"]
    assert 0 <= dice["low"] <= dice["value"] <= dice["high"] <= 1
    with open(study / dataset / "masks" / "per_case.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    n_structures = len(summary["structures"]) - (len(summary["structures"]) > 1)
    assert summary["size_unit"] == "mm3" and summary["n_cases"] == 2  # a fifth of 8 blocks
    assert len(rows) == 3 * n_structures * summary["n_cases"] and float(rows[0]["inference_seconds"]) > 0
    check_slices(study / dataset / "masks", summary)
    export = json.loads((study / dataset / "tiny0" / "export.json").read_text())
    quality = export["variants"][0]["quality"]
    assert export["passed"] and quality["metric"] == "dice" and quality["non_inferior"] is not False
    page = (study / "report.html").read_text()
    for words in ("Training, export and speed", "Empty masks", "Best, median and worst", "Calibration, decision"):
        assert words in page
    assert "tuned was prompted with the truth&#39;s box of each structure" in page
    assert "published (told the true point)" in page and "an upper bound that is not ranked" in page
    assert workflow.planned("--configfile", "small.yaml") == {}
    told = json.loads((study / "leaderboard.json").read_text())
    assert told["problem"] is None and told["new"] == 1, "models that were told the truth are not ranked"
    assert [text.partition(": ")[0].split("/")[-1] for text in told["left_out"]] == ["tuned", "published"]
    bundle_masks_and_draw(workflow, study / dataset, summary["structures"][1:])
    fail_beside_masks(workflow, content, study)


def check_slices(folder: Path, summary: dict) -> None:
    """Slices are told apart from volumes, and their mean over patients is that of their table."""
    with open(folder / "per_slice.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "tiny0"]
    assert summary["slices"]["n_slices"] == len(rows) > summary["n_cases"]
    name = summary["structures"][1]
    of_patients: dict[str, list[float]] = {}
    for row in rows:
        if row[f"dice_{name}"]:
            of_patients.setdefault(row["patient"], []).append(float(row[f"dice_{name}"]))
    means = [sum(values) / len(values) for values in of_patients.values()]
    assert summary["slices"]["models"]["tiny0"][name]["value"] == pytest.approx(sum(means) / len(means), abs=1e-5)


def fail_beside_masks(workflow, content: dict, study: Path) -> None:
    """Weights that don't fit fail in their own job; the report shows the other models and the end of that log."""
    weights = next((study / next(iter(content["datasets"])) / "tiny0").rglob("best.safetensors"))
    broken = {"architecture": "decoder:resnet18", "image_size": 32, "checkpoint": str(weights)}
    content["models"]["broken"] = broken
    (workflow.folder / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    completed = workflow.snakemake("--cores", "2", "--configfile", "small.yaml", check=False)
    assert completed.returncode != 0 and "doesn't fit" in completed.stdout
    results = json.loads((study / "results.json").read_text())
    (found,) = results["datasets"].values()
    assert results["status"] == "partial" and found["models"]["broken"]["status"] == "failed"
    assert set(found["masks"]["models"]) == {"tiny0", "tuned", "published"}
    page = (study / "report.html").read_text()
    assert "broken: failed, no masks to compare" in page and "fit" in page
    planned = workflow.planned("--configfile", "small.yaml")
    assert planned["segment"] == planned["score_masks"] == planned["assemble_report"] == 1


def bundle_masks_and_draw(workflow, folder: Path, structures: list[str]) -> None:
    """The bundle of one network by make; the runner's masks of the volume are the study's, slice by slice."""
    import nibabel
    import numpy as np

    from archbench.mask_files import read_mask
    from archbench_predict.scans import axial

    shutil.copy(CHECKOUT / "Makefile", workflow.folder)
    given = ("STUDY=small.yaml", "CORES=2")
    said = workflow.make("-o", "setup", "bundle", "MODEL=tiny0", *given).stdout
    made = folder.relative_to(workflow.folder) / "tiny0/bundle-fp32"
    assert said.splitlines()[-2:] == [f"{made}", f"{made}.zip"]
    refused = workflow.snakemake(
        "-n", "--configfile", "small.yaml", check=False, ARCHBENCH_BUNDLE__MODELS='["ensemble"]'
    )
    assert "masks are not combined into an ensemble" in refused.stdout
    scan, out = workflow.folder / "data/cxr.nii.gz", workflow.folder / "drawn"
    command = [sys.executable, "-m", "archbench_predict", str(folder / "tiny0/bundle-fp32.zip"), str(scan)]
    done = subprocess.run([*command, "--out", str(out)], cwd=workflow.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mask = nibabel.load(out / "cxr.nii.gz")
    assert mask.shape == nibabel.load(scan).shape
    drawn, index = (
        axial(np.asarray(mask.dataobj), mask.affine),
        json.loads((folder / "tiny0/masks/index.json").read_text()),
    )
    assert index["masks"]
    for entry in index["masks"]:
        meant = read_mask(folder / "tiny0/masks" / entry["file"]).labels
        assert (drawn[:, :, int(Path(entry["case"]).stem)] != meant).mean() < 1e-3
    with open(out / "masks.csv", encoding="utf-8") as file:
        assert [row["structure"] for row in csv.DictReader(file)] == structures


def test_a_regression_runs(workflow):
    root = workflow.folder / "data"
    root.mkdir()
    write_heart_table(root)
    (workflow.folder / "own.yaml").write_text(
        f"study: heart\ndatasets: {{d: {{format: table, root: {root}, csv: scores.csv, task: regression,\n"
        "  columns: {image: image, patient: patient, label: score}}}\n"
        "protocol: {folds: 2}\ntraining: {epochs: 2, lr: 1.0e-3}\naudit: {near_duplicates: 'off'}\n"
        "models: {a: {architecture: custom1, image_size: 32}, b: {architecture: custom1, image_size: 48}}\n"
        "evaluation: {resamples: 200, comparison_resamples: 200}\n"
        f"inference: {QUICK_TIMING}\n"
    )
    workflow.snakemake("--cores", "2", "--configfile", "own.yaml")
    metrics = json.loads((workflow.folder / "results/heart/d/a/metrics.json").read_text())
    assert metrics["primary"] == "mae"
    assert metrics["metrics"]["rmse"]["value"] >= metrics["metrics"]["mae"]["value"] > 0
    decision = json.loads((workflow.folder / "results/heart/d/ensemble/decision.json").read_text())
    assert [c["name"].removeprefix("best base ") for c in decision["candidates"]][1:] == ["mean"]


def test_a_search_and_a_final_model_by_their_rules(workflow):
    (workflow.folder / "own.yaml").write_text(
        "study: searched\ndatasets: {d: {format: phantom, classes: [a, b, c, d, e], phantom: {patients: 40, "
        "image_size: 64}}}\nprotocol: {kind: holdout}\ntraining: {epochs: 2, lr: 1.0e-3}\n"
        "models: {a: {architecture: custom1, image_size: 32}}\n"
        "tuning: {trials: 2, workers: 2, space: {lr: {low: 1.0e-4, high: 1.0e-2, log: true}, loss: {choices: "
        "[weighted_cross_entropy, focal]}}}\n"
    )
    targets = ("tune", "final_model", "--cores", "2", "--configfile", "own.yaml")
    workflow.snakemake(*targets)
    model = workflow.folder / "results/searched/d/a"
    found = json.loads((model / "tuning/fold0.json").read_text())
    assert found["trials_run"] == 2 and (model / "tuning/fold0.png").is_file()
    fold = json.loads((model / "fold0-seed42/settings.json").read_text())
    final = json.loads((model / "final/settings.json").read_text())
    for settings in (fold, final):
        assert settings["training"]["lr"] == found["training"]["lr"]
        assert settings["training"]["loss"] == found["training"]["loss"]
    assert fold["tuned"] is True and final["evaluated"] is False and final["epochs"] == fold["best_epoch"]
    assert workflow.planned("tune", "final_model", "--configfile", "own.yaml") == {}

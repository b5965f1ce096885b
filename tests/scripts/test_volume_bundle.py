"""CT volumes by the real scripts, from files with stored values to a bundle that repeats the study's predictions."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from volume_trees import save_nifti, small_chest, write_ct_rate

from archbench.artifacts import read_json, read_predictions, write_json
from archbench.config import parse_study
from archbench.models.building import build_network
from archbench.models.weights import save_weights
from archbench_predict.command_line import main as predict_volumes
from archbench_predict.outputs import sigmoid
from scripts import bundle, cache_images, calibrate, evaluate, export_onnx, predict, prepare_dataset

LABELS = ["Emphysema", "Lung nodule"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one random network on volumes whose slope and intercept stand in the metadata alone."""
    folder = tmp_path_factory.mktemp("volumes")
    for place in [folder / "data" / "volumes" / name for name in write_ct_rate(folder / "data")]:
        (found,) = (folder / "data" / "volumes").rglob(place.name)
        patient, _, reconstruction = place.name.split(".")[0].split("_")[1:]
        units = small_chest(seed=10 * int(patient) + int(reconstruction))
        denser = np.where((units > -950) & (units < -600), units + 20 * int(patient), units)
        save_nifti(found, (denser + 1024).astype(np.int16))
    study = parse_study(
        {
            "study": "s",
            "datasets": {
                "ct": {
                    "format": "ct_rate", "root": str(folder / "data"), "csv": "labels.csv", "images": "volumes",
                    "metadata": "metadata.csv", "task": "multilabel", "labels": LABELS,
                    "volumes": {"hu_window": [-900, 300], "spacing": [10, 2.5, 2.5], "slices": {"count": 4}},
                }
            },
            "models": {"small": {"architecture": "custom1", "image_size": 32}},
            "protocol": {"kind": "holdout", "seeds": [3]},
            "evaluation": {"resamples": 200},
        }
    )  # fmt: skip
    write_json(folder / "study.json", study.model_dump())

    def call(script: Any, *arguments: Any, model: bool = True) -> None:
        common = ["--study", folder / "study.json", "--dataset", "ct", "--code", "c"]
        common += ["--model", "small"] if model else []
        assert script.main([str(part) for part in (*common, *arguments)]) == 0

    tables = [
        part for name in ("manifest", "folds") for part in (f"--{name}", folder / f"{name}.parquet")
    ]  # as every stage takes them
    call(prepare_dataset, *tables, "--audit", folder / "audit.json", model=False)
    cache = ["--size", 32, "--cache-dir", folder / "cache", "--output", folder / "images.json"]
    call(cache_images, "--manifest", folder / "manifest.parquet", *cache, model=False)
    torch.manual_seed(0)
    network = build_network(**study.network_of("small", "ct"), num_classes=len(LABELS))
    torch.nn.init.normal_(network.network.head.weight, std=50)  # so that small differences count
    save_weights(network.network, folder / "best.safetensors", {})
    data = [*tables, "--cache", folder / "images.json", "--checkpoint", f"0:3:{folder / 'best.safetensors'}"]
    table = folder / "predictions.parquet"
    with contextlib.redirect_stderr(io.StringIO()) as said:
        call(predict, *data, "--fold-outputs", folder / "fold.parquet", "--output", table)
        call(export_onnx, *data, "--output", folder / "model.onnx", "--account", folder / "export.json")
    (folder / "said.txt").write_text(said.getvalue())
    given = ["--predictions", table, "--folds", folder / "folds.parquet"]
    call(calibrate, *given, "--output", folder / "calibration.json")
    call(evaluate, *given, "--output", folder / "metrics.json")
    member = ":".join(str(folder / name) for name in ("export.json", "images.json", "predictions.parquet"))
    files = {name: folder / f"{name}.json" for name in ("metrics", "calibration", "audit")}
    files |= {"predictions": table, "manifest": folder / "manifest.parquet"}
    files |= {"output": folder / "bundle", "zip": folder / "bundle.zip"}
    call(bundle, "--member", f"small:{member}", *(part for name, path in files.items() for part in (f"--{name}", path)))
    return folder


def test_a_bundle_repeats_the_studys_predictions_of_volumes(finished: Path, tmp_path: Path) -> None:
    table = read_predictions(finished / "predictions.parquet")
    expected = dict(zip(table.case_id.tolist(), sigmoid(table.logits), strict=True))
    assert np.ptp(table.logits, axis=0).min() > 0.5, "volumes differ in the network's eyes"
    out, metadata = tmp_path / "out.jsonl", finished / "data" / "metadata.csv"
    scans = str(finished / "data")
    assert predict_volumes([str(finished / "bundle.zip"), scans, "--out", str(out), "--metadata", str(metadata)]) == 0
    said = {f"{row['case_id']}.nii.gz": row["probabilities"] for row in map(json.loads, out.read_text().splitlines())}
    assert set(expected) <= set(said)
    for case, probabilities in expected.items():
        np.testing.assert_allclose([said[case][name] for name in LABELS], probabilities, rtol=1e-3)


def test_progress_is_said_of_volumes(finished: Path) -> None:
    said = (finished / "said.txt").read_text()
    assert "fold 0 seed 3: " in said and "parity at batch 1: " in said and "images" not in said
    assert all(line.endswith(" volumes") for line in said.splitlines() if "fold 0" in line or "parity" in line)


def test_without_their_metadata_the_volumes_are_refused(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert predict_volumes([str(finished / "bundle"), str(finished / "data"), "--out", str(out), "--quiet"]) == 3
    assert all("look like stored ones" in json.loads(line)["error"] for line in out.read_text().splitlines())


def test_the_example_is_drawn_and_the_card_describes_volumes(finished: Path) -> None:
    content = read_json(finished / "bundle" / "bundle.json")
    assert content["example"]["image"] == "example/image.nii.gz", "no patient's volume leaves the study"
    assert content["members"][0]["preprocessing"]["slices"]["count"] == 4
    card = (finished / "bundle" / "MODEL_CARD.md").read_text()
    assert "resample to 10 x 2.5 x 2.5 mm" in card and "4 slices, strategy multi" in card
    n = read_json(finished / "audit.json")["n_cases"]
    for words in (
        f"{n} volumes of",
        "labels a CT volume shows",
        "hold for volumes like",
        "archbench-predict BUNDLE volumes/",
    ):
        assert words in card
    assert "image" not in card.replace("example/image.nii.gz", "").replace("image cache", ""), "all of it is of volumes"

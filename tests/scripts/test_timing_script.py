"""The timing as the rule calls it: real export, real processes, real image files; its settings arrive."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from archbench.artifacts import read_json, read_table, write_json, write_table
from archbench.cases import read_cases
from archbench.config import parse_study
from archbench.inference_timing import machine_lock
from archbench.models.building import build_network
from archbench.models.weights import save_weights
from archbench.onnx_export import export_onnx
from scripts import time_inference

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))
from tiny_cases import CLASSES, SIDE, write_cases

SETTINGS: dict[str, Any] = {
    "batch_sizes": [1, 2],
    "rounds": 7,
    "calls": 3,
    "repeats": 0,
    "threads": 1,
    "cold_starts": 2,
}


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One model with a variant that failed its gate, and one that no exporter takes, timed by the script."""
    folder = tmp_path_factory.mktemp("timing")
    files = write_cases(folder)
    _write_images(folder, files["manifest"])
    models = {name: {"architecture": "custom1", "image_size": SIDE} for name in ("small", "odd")}
    content = {
        "study": "desk",
        "datasets": {"eyes": {"format": "table", "root": str(folder), "csv": "t.csv", "classes": list(CLASSES)}},
        "models": models,
        "inference": SETTINGS,
    }
    write_json(folder / "study.json", parse_study(content, check_files=False).model_dump())
    for name in models:
        _export(folder / name)
    unsupported = {"precision": "fp32", "file": None, "status": "unsupported", "reason": "no rung exports it"}
    account = read_json(folder / "odd" / "export.json")
    write_json(folder / "odd" / "export.json", {**account, "variants": [unsupported]})
    entries = [f"{m}:{folder}/{m}/model.onnx:{folder}/{m}/export.json:{files['cache']}" for m in models]
    arguments = ["--study", f"{folder}/study.json", "--dataset", "eyes", "--entry", *entries]
    arguments += ["--manifest", str(files["manifest"]), "--folds", str(files["folds"])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_lock, "lock_path", lambda: folder / "lock")
        assert time_inference.main([*arguments, "--calls", f"{folder}/t.parquet", "--output", f"{folder}/t.json"]) == 0
    return read_json(folder / "t.json"), folder


def _write_images(folder: Path, manifest: Path) -> None:
    table, metadata = read_table(manifest)
    draws = np.random.default_rng(0)
    names = [f"{case}.png" for case in table["case_id"].to_pylist()]
    for name in names:
        Image.fromarray(draws.integers(0, 255, size=(40, 50, 3), dtype=np.uint8)).save(folder / name)
    write_table(manifest, table.append_column("image", [names]), {**metadata, "root": str(folder)})


def _export(folder: Path) -> None:
    folder.mkdir()
    torch.manual_seed(1)
    network = build_network("custom1", num_classes=len(CLASSES), image_size=SIDE)
    save_weights(network.network, folder / "best.safetensors", {})
    export_onnx(network, folder / "model.onnx", classes=CLASSES)
    passed = {"precision": "fp32", "file": "model.onnx", "status": "passed", "batch": "dynamic"}
    failed = {"precision": "int8", "file": "onnx/int8.onnx", "status": "failed", "reason": "QWK falls by .2"}
    account = {"fold": 0, "checkpoint": f"{folder}/best.safetensors", "variants": [passed, failed]}
    write_json(folder / "export.json", account)


def test_what_passed_is_timed_and_the_rest_is_named(timed: tuple[dict[str, Any], Path]) -> None:
    found, _ = timed
    status = {(c["model"], c["runtime"]): c["status"] for c in found["contenders"]}
    assert status == {
        ("small", "onnxruntime"): "timed",
        ("small", "onnxruntime_int8"): "failed",
        ("small", "torch"): "timed",
        ("odd", "onnxruntime"): "unsupported",
        ("odd", "torch"): "timed",
    }
    assert {(r["model"], r["runtime"], r["batch_size"]) for r in found["results"]} == {
        (*key, size) for key, value in status.items() if value == "timed" for size in (1, 2)
    }


def test_every_setting_arrives(timed: tuple[dict[str, Any], Path]) -> None:
    found, _ = timed
    assert len(found["isolation"]["rounds"]) == 7
    assert {row["n"] for row in found["results"] if row["batch_size"] == 1} == {7 * 3}
    for account in (c for c in found["contenders"] if c["status"] == "timed"):
        assert len(account["starts_ms"]) == 2
        assert account["threads"] == 1
    assert found["headline"] == "onnxruntime" and found["hardware"]["threads"] == 1


def test_real_files_are_decoded(timed: tuple[dict[str, Any], Path]) -> None:
    found, folder = timed
    assert {row["model"] for row in found["stages"]} == {"small", "odd"}
    for row in found["stages"]:
        assert 0 < row["decode_ms"] < row["total_ms"] and row["preprocess_ms"] > 0
    cases = read_cases(folder / "manifest.parquet", folder / "folds.parquet", folder / "images.json")
    validation = cases.part(0, "val").case_ids.tolist()
    files = time_inference._files(str(folder / "manifest.parquet"), validation, volumes=False)
    assert [Path(image).stem for image, _ in files] == validation and all(Path(image).is_file() for image, _ in files)


def test_every_call_is_in_the_table(timed: tuple[dict[str, Any], Path]) -> None:
    found, folder = timed
    table, metadata = read_table(folder / "t.parquet")
    assert metadata["hardware"] == found["hardware"]
    rows = table.to_pylist()
    one = [
        row["latency_ms"]
        for row in rows
        if (row["model"], row["runtime"], row["batch_size"], row["regime"], row["twin"])
        == ("small", "torch", 1, "prepared", False)
    ]
    summary = next(r for r in found["results"] if (r["model"], r["runtime"], r["batch_size"]) == ("small", "torch", 1))
    assert summary["median_ms"] == pytest.approx(np.median(one))
    assert {row["twin"] for row in rows} == {True, False} and all(row["kept"] for row in rows)

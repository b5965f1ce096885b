"""The ladder in real processes: a wrong export is caught and the next rung serves; what none serves is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tiny_cases import CLASSES, SIDE, make_cases

from archbench.artifacts import Predictions
from archbench.batches import predict_logits
from archbench.checksums import file_sha256
from archbench.export_ladder import ExportJob, Reference, climb, rungs_of
from archbench.models.building import build_network
from archbench.models.weights import load_checkpoint, save_weights
from archbench.onnx_files import ExportError, external_files
from archbench.onnx_variants import Export, ExportCases
from archbench.parity import Comparison
from archbench.quantization import Quantizer
from archbench.registry import METRICS

NETWORK = {"architecture": "custom1", "num_classes": 3, "image_size": SIDE, "in_channels": 3}


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """An export of an untrained network on drawn cases; nothing has been run yet."""
    cases = make_cases(tmp_path)
    torch.manual_seed(0)
    save_weights(build_network(**NETWORK).network, tmp_path / "w.safetensors")
    validation, training = cases.part(0, "val"), cases.part(0, "train")
    n = len(validation)
    table = Predictions(
        case_id=validation.case_ids,
        patient_id=validation.patient_ids,
        split=np.full(n, "val"),
        fold=np.zeros(n, np.int64),
        seed=np.full(n, 42),
        logits=np.zeros((n, 3), np.float32),
        targets=validation.targets,
        classes=CLASSES,
        labels=cases.labels,
    )
    job = ExportJob(
        network=NETWORK,
        checkpoint=str(tmp_path / "w.safetensors"),
        cache=str(tmp_path / "images.json"),
        rows=validation.rows,
        batch_sizes=(1, 4),
        fold_normalization=False,
        threads=1,
    )
    return Export(
        job,
        ExportCases(cases.cache.images, validation.rows, table, training.rows, training.patient_ids),
        Comparison(METRICS.get("accuracy"), 0.02, resamples=200, seed=0),
        folder=tmp_path / "it",
        classes=CLASSES,
        calibration_images=8,
        timeout_s=120,
    )


def test_an_export_made_wrong_on_purpose_is_caught_and_the_next_rung_serves(
    export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = export._gate

    def spoil_the_first(raw: Mapping[int | None, Path], reference: Reference) -> tuple[dict[str, Any], str | None]:
        if None in raw:  # TorchScript's
            model = onnx.load(raw[None])
            bias = next(t for t in model.graph.initializer if list(t.dims) == [3])
            values = onnx.numpy_helper.to_array(bias) + np.array([0, 0.01, 0], np.float32)
            bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
            onnx.save_model(model, raw[None])
        return gate(raw, reference)

    monkeypatch.setattr(export, "_gate", spoil_the_first)
    account = export.run(["fp32"], ["torchscript", "static"])
    assert [(step["rung"], step["status"]) for step in account["ladder"]] == [
        ("torchscript", "failed"),
        ("static", "passed"),
    ]
    assert "differ from torch's by up to 1.0e-02" in account["ladder"][0]["reason"]
    (variant,) = account["variants"]
    assert account["passed"] and variant["rung"] == "static" and variant["batch"] == [1, 4]
    assert [file["file"] for file in variant["files"]] == ["model.onnx", "onnx/model-batch4.onnx"]
    made = {str(path.relative_to(export.folder)) for path in export.folder.rglob("*") if path.is_file()}
    assert made == {"model.onnx", "onnx/model-batch4.onnx"}


def test_what_no_rung_exports_is_unsupported_with_the_reason(export: Export) -> None:
    export.timeout_s = 0.0
    account = export.run(["fp32", "int8"], ["torchscript"])
    first, second = account["variants"]
    assert not account["passed"] and account["exporter"] is None and account["onnx_bytes"] is None
    assert (first["status"], first["file"]) == ("unsupported", None)
    assert "TorchScript, dynamic batch: no result within 0 minutes" in first["reason"]
    assert (second["status"], second["reason"]) == ("unsupported", "there is no fp32 file to start from")
    assert (export.folder / "model.onnx").stat().st_size == 0, "the file of the rule, empty"


def test_int8_goes_through_the_gate_with_its_figures(export: Export) -> None:
    export.comparison = replace(export.comparison, margin=1.0)  # an untrained network: any answer is as good
    account = export.run(["fp32", "int8", "fp16"], ["torchscript"])
    fp32, int8, fp16 = account["variants"]
    assert [v["status"] for v in account["variants"]] == ["passed"] * 3
    assert int8["quantization"]["n_calibration_images"] == 8 and int8["quantization"]["method"] == "static"
    assert int8["parity"]["tolerance"] is None and int8["quality"]["non_inferior"] and int8["bytes"] < fp32["bytes"]
    assert (export.folder / int8["file"]).stat().st_size == int8["bytes"] and int8["file"] == "onnx/model-int8.onnx"
    assert (fp16["file"], fp16["device"]) == ("onnx/model-fp16.onnx", "cpu")
    classes = {e.key: e.value for e in onnx.load(export.folder / int8["file"]).metadata_props}["classes"]
    assert classes == "\n".join(CLASSES)


def test_a_quantised_network_that_loses_too_much_is_given_up_with_its_figures(
    export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Quantizer._write

    def spoil(self: Quantizer, path: Path, nodes: list[str]) -> None:
        write(self, path, nodes)
        model = onnx.load(path)
        (returned,) = (node for node in model.graph.node if "logits" in node.output)
        returned.output[0] = "turned"
        model.graph.node.append(onnx.helper.make_node("Neg", ["turned"], ["logits"]))
        onnx.save_model(model, path)

    monkeypatch.setattr(Quantizer, "_write", spoil)
    network = load_checkpoint(build_network(**NETWORK), Path(export.job.checkpoint), torch.device("cpu"))
    rows, images = export.cases.rows, export.cases.images
    logits = predict_logits(network, images, rows, batch_size=8, device=torch.device("cpu"))
    truth = replace(export.cases.validation, targets=logits.argmax(axis=1)[:, None].astype(float))
    export.cases = replace(export.cases, validation=truth)  # so that torch is always right
    fp32, int8 = export.run(["fp32", "int8"], ["torchscript"])["variants"]
    assert (fp32["status"], fp32["quality"]["value"]) == ("passed", 1.0)
    assert int8["status"] == "failed" and int8["quality"]["value"] == 0.0 and "margin 0.02" in int8["reason"]
    excluded = [step["n_excluded"] for step in int8["quantization"]["steps"]]
    assert excluded == [0, 1, 2], "it was tried with sensitive nodes left out"
    assert int8["file"] is None and not (export.folder / "onnx" / "model-int8.onnx").exists()


def test_weights_too_large_for_one_file_lie_beside_it_in_every_precision(export: Export) -> None:
    export.external_above = 1000
    found = export.run(["fp32", "fp16", "int8"], ["dynamo"])
    for variant in found["variants"]:
        assert variant["status"] == "passed", variant["reason"]
        names = [file["file"] for file in variant["files"]]
        assert names == [variant["file"], f"onnx/{Path(variant['file']).name}.data"]
        file, data = (export.folder / name for name in names)
        assert data.stat().st_size > 10 * file.stat().st_size or variant["precision"] == "int8"
        for entry in variant["files"]:
            assert entry["sha256"] == file_sha256(export.folder / entry["file"])
        location = data.relative_to(file.parent).as_posix()
        assert external_files(file) == [location]
    assert not [path for path in export.folder.rglob("*") if path.is_dir() and path.name.startswith(".candidate")]


def test_a_network_that_can_not_be_run_is_an_error_not_a_rung(export: Export) -> None:
    job = replace(export.job, checkpoint="missing.safetensors")
    with pytest.raises(ExportError, match=r"missing\.safetensors"):
        climb(job, lambda raw, reference: ({}, None), timeout_s=60, rungs=["torchscript"])


def test_transformers_exporter_serves_its_own_networks_alone() -> None:
    assert "transformers" in rungs_of("raddino") and "transformers" not in rungs_of("resnet18")
    assert rungs_of("resnet18") == ["dynamo", "dynamo_unoptimized", "static", "torchscript"]

"""Which exported file of a network goes into a bundle, and the licence of its start weights."""

from __future__ import annotations

import json

import pytest

from archbench.bundle_network import BundleFailure, licence_of, passed_variant
from archbench.config import parse_study

VARIANTS = {
    "model": "m",
    "variants": [
        {"precision": "fp32", "file": "model.onnx", "status": "passed", "reason": None, "batch": "dynamic"},
        {"precision": "int8", "file": "model-int8.onnx", "status": "failed", "reason": "qwk falls by .04"},
    ],
}


def test_only_a_variant_that_passed_its_gate_is_taken() -> None:
    assert passed_variant(VARIANTS, "fp32")["file"] == "model.onnx"
    with pytest.raises(BundleFailure, match=r"m in int8 is not fit to be deployed.*qwk falls by \.04"):
        passed_variant(VARIANTS, "int8")
    with pytest.raises(BundleFailure, match=r"not exported in fp16 \(there is fp32 \(passed\), int8 \(failed\)\)"):
        passed_variant(VARIANTS, "fp16")
    assert passed_variant({"model": "m", "passed": True}, "fp32")["status"] == "passed"
    with pytest.raises(BundleFailure, match="not fit"):
        passed_variant({"model": "m", "passed": False}, "fp32")


@pytest.mark.parametrize(("sizes", "taken"), [([1, 8, 32], 8), ([1, 2], 2), ([16, 32], 16)])
def test_of_one_file_per_batch_size_one_is_taken(sizes: list[int], taken: int) -> None:
    files = [{"file": f"onnx/model-batch{size}.onnx", "batch": size, "sha256": str(size)} for size in sizes]
    files.append({"file": "onnx/model.onnx.data", "batch": None, "sha256": "d"})
    variant = {"precision": "fp32", "file": files[0]["file"], "status": "passed", "batch": sizes, "files": files}
    found = passed_variant({"model": "m", "variants": [variant]}, "fp32")
    assert (found["file"], found["batch"], found["sha256"]) == (f"onnx/model-batch{taken}.onnx", taken, str(taken))


def test_licences_of_start_weights() -> None:
    model = {"architecture": "resnet18"}
    content = {
        "study": "s",
        "datasets": {"d": {"format": "phantom", "classes": list("abcde")}},
        "models": {
            "new": model,
            "known": {**model, "weights": "imagenet"},
            "file": {**model, "weights": "file:/x/w.safetensors"},
            "given": {**model, "checkpoint": "/x/c.pth"},
        },
    }
    study = parse_study(json.loads(json.dumps(content)), check_files=False)
    said = {
        name: licence_of(entry.architecture, weights=entry.weights, checkpoint=entry.checkpoint)
        for name, entry in study.models.items()
    }
    assert said["known"] == "imagenet: Apache-2.0"
    assert "ask its source" in said["file"] and "/x/" not in said["file"]
    assert "ask their source" in said["given"]

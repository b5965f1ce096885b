"""Small bundles for tests of the runner: a real network of ours, exported, with any preprocessing."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archbench.bundle_files import library_versions, write_sums
from archbench.models.building import NormalizedNetwork, build_network
from archbench_predict.description import describe_steps
from archbench_predict.images import Preprocessing

SIDE, CLASSES = 32, ("none", "mild", "severe")
LIMIT = 10_000_000


PEAK = """
import sys
from archbench.memory import peak_rss_mib
from archbench_predict.command_line import main
code = main(sys.argv[1:])
print(code, peak_rss_mib())
"""


def peak_mib(*arguments: Any) -> float:
    """Peak memory of a process that predicts all images with one lane and two decoders, MiB."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, arguments), "--threads", "1", "--workers", "2", "--quiet"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    code, mib = done.stdout.split()
    assert code == "0", done.stderr
    return float(mib)


def trained_network(*, channels: int = 3, normalization: str = "auto", outputs: int = 3) -> NormalizedNetwork:
    """A network whose statistics are not those of a fresh one; equal for equal arguments but the normalisation."""
    torch.manual_seed(0)
    built = build_network(
        "custom1", num_classes=outputs, image_size=SIDE, in_channels=channels, normalization=normalization
    )
    with torch.no_grad():
        for module in built.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
        head = built.eval().network.head
        head.weight.normal_(std=8)  # so that small differences between images count
        ramp = torch.linspace(-2, 2, 8).view(8, 1, 1, 1).expand(8, channels, SIDE, SIDE)
        head.bias -= built.network(ramp).mean(dim=0)
    return built


def export(network: NormalizedNetwork, path: Path, *, batch: int | None = None) -> None:
    """Write the bare network as ONNX; `batch` fixes the batch size."""
    sample = torch.zeros(batch or 2, network.in_channels, SIDE, SIDE)
    shapes = None if batch else ({0: torch.export.Dim("batch", min=1, max=512)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.network,
            (sample,),
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=18,
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None
        program.save(path, external_data=False)


def normalization_of(network: NormalizedNetwork) -> dict[str, list[float]]:
    return {"mean": network.mean.flatten().tolist(), "std": network.std.flatten().tolist()}


def make_bundle(
    folder: Path,
    onnx: Path,
    *,
    settings: Preprocessing | None = None,
    network: NormalizedNetwork | None = None,
    expected: list[float] | None = None,
    **content: Any,
) -> Path:
    """Write a bundle around an ONNX file; its expected output comes from the runner unless given."""
    from archbench.bundle_files import Images, add_example, write_expected

    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(onnx.read_bytes())
    example = add_example(folder, None, Images(folder, {}, {}), size=SIDE, masked=False)
    member = {
        "name": "small",
        "file": "model.onnx",
        "precision": "fp32",
        "input": {"normalized": True, "batch": "dynamic"},
        "preprocessing": describe_steps(settings or Preprocessing(size=SIDE), max_pixels=LIMIT),
        "normalization": normalization_of(network or trained_network()),
    }
    write_content(
        folder,
        {
            "format": 1,
            "name": "test-bundle",
            "outputs": "classes",
            "logits": list(CLASSES),
            "classes": list(CLASSES),
            "labels": ["grade"],
            "decision": "expected_grade",
            "members": [member],
            "combination": {"kind": "single"},
            "calibration": {"method": "temperature", "temperature": 2.0},
            "thresholds": None,
            "example": example,
            "versions": library_versions(),
            **content,
        },
    )
    if expected is None:
        write_expected(folder)
    else:
        (folder / "example/expected.json").write_text(json.dumps({"probabilities": expected}))
    write_sums(folder)
    return folder


def write_content(folder: Path, content: dict[str, Any]) -> None:
    """(Over)write bundle.json, checksums fitting."""
    (folder / "bundle.json").write_text(json.dumps(content))
    write_sums(folder)


def probabilities(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))

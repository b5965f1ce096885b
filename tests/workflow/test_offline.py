"""Weights are fetched up front; a training then needs no network, and a changed or missing file is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.workflow

STUDY = """
study: offline
datasets:
  phantom:
    format: phantom
    classes: [No DR, Mild, Moderate, Severe, Proliferative]
    phantom: {patients: 20, image_size: 64, seed: 1}
protocol: {kind: holdout}
training: {epochs: 1, batch_size: 16}
models:
  lite0: {architecture: tf_efficientnet_lite0, weights: package, image_size: 32}
"""
WEIGHTS = "results/cache/weights/tf_efficientnet_lite0-package.safetensors"
BEST = "results/offline/phantom/{}/fold0-seed42/best.safetensors"


def without_network(workflow, *arguments):
    """Snakemake in a network namespace of its own, which has no way out."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"]).returncode != 0:
        pytest.skip("no network namespaces here: unshare -rn is refused")
    return subprocess.run(
        [unshare, "-rn", sys.executable, "-m", "snakemake", *arguments],
        cwd=workflow.folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(workflow.folder),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )


def test_fetched_weights_are_trained_without_a_network(workflow):
    (workflow.folder / "study.yaml").write_text(STUDY)
    study = ("--cores", "1", "--configfile", "study.yaml", "--")
    assert "all pretrained weights of the study are in place" in workflow.snakemake(*study, "fetch_weights").stdout
    assert (workflow.folder / f"{WEIGHTS}.sha256").is_file()
    trained = without_network(workflow, *study, BEST.format("lite0"))
    assert trained.returncode == 0, trained.stdout[-3000:]
    assert "245 tensors loaded" in trained.stdout
    assert "fetch tf_efficientnet_lite0" not in trained.stdout

    weights = workflow.folder / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused = workflow.snakemake(*study, BEST.format("lite0"), check=False)
    assert refused.returncode != 0
    assert f"{WEIGHTS} is not the file that {Path(WEIGHTS).name}.sha256 describes" in refused.stdout


def test_missing_weights_are_named_before_any_training_of_that_model(workflow):
    (workflow.folder / "study.yaml").write_text(STUDY.replace("weights: package", "weights: imagenet"))
    study = ("--cores", "1", "--configfile", "study.yaml", "--")
    missing = without_network(workflow, *study, BEST.format("lite0"))
    assert missing.returncode != 0
    assert "timm/tf_efficientnet_lite0.in1k can't be fetched" in missing.stdout
    assert "put such a file at results/cache/weights/tf_efficientnet_lite0-imagenet.safetensors" in missing.stdout
    assert "train lite0" not in missing.stdout

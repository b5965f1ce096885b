"""ONNX: a free batch dimension, class names inside, and no file passes that answers otherwise than torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from archbench import onnx_export
from archbench.models.building import NormalizedNetwork, build_network
from archbench.onnx_export import ExportError, check_parity, export_onnx
from archbench.onnx_session import make_session

SIDE, CLASSES = 32, ("No DR", "Mild", "Größer")


@pytest.fixture(scope="module")
def network() -> NormalizedNetwork:
    torch.manual_seed(0)
    built = build_network("custom1", num_classes=3, image_size=SIDE, dropout=0.5)
    with torch.no_grad():  # statistics as after a training, so that batch norm in training mode would show
        for module in built.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
    return built


@pytest.fixture(scope="module")
def exported(network: NormalizedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    network.train()  # the exporter must not take this over
    export_onnx(network, path, classes=CLASSES)
    return path


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(20, SIDE, SIDE, 3), dtype=np.uint8)


def parity(network: NormalizedNetwork, path: Path, images: np.ndarray, n: int = 20) -> list[dict[str, object]]:
    return check_parity(network, path, images=images, rows=np.arange(n), threads=1)


def test_the_file_has_a_free_batch_named_ends_and_its_classes(exported: Path) -> None:
    model = onnx.load(exported)
    (given,), (returned,) = model.graph.input, model.graph.output
    assert (given.name, returned.name) == ("images", "logits")
    dims = given.type.tensor_type.shape.dim
    assert dims[0].dim_param and [d.dim_value for d in dims[1:]] == [3, SIDE, SIDE]
    assert {entry.key: entry.value for entry in model.metadata_props}["classes"] == "\n".join(CLASSES)
    assert list(exported.parent.iterdir()) == [exported], "weights lie inside the file"


def test_parity_at_one_three_and_eight(network: NormalizedNetwork, exported: Path, images: np.ndarray) -> None:
    found = parity(network, exported, images)
    assert [item["batch_size"] for item in found] == [1, 3, 8]
    assert all(item["passed"] for item in found)
    assert max(float(item["max_abs_difference"]) for item in found) < 1e-4


def test_any_batch_size_runs(exported: Path) -> None:
    session = make_session(exported, threads=1)
    for n in (1, 2, 5, 33):
        assert session.run(None, {"images": np.zeros((n, 3, SIDE, SIDE), np.float32)})[0].shape == (n, 3)


def test_a_network_that_answers_otherwise_is_refused(
    network: NormalizedNetwork, exported: Path, images: np.ndarray
) -> None:
    head, before = network.network.head, network.network.head.bias.detach().clone()
    try:
        with torch.no_grad():
            head.bias[1] += 0.01
        with pytest.raises(ExportError, match=r"custom1: ONNX Runtime disagrees with torch.*'batch_size': 1"):
            parity(network, exported, images)
    finally:
        with torch.no_grad():
            head.bias.copy_(before)


def test_one_wrong_image_among_many_is_enough(
    network: NormalizedNetwork, exported: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = make_session(exported, threads=1)

    class Faulty:
        calls = 0

        def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            logits = real.run(outputs, feed)[0].copy()
            self.calls += 1
            logits[-1, 0] += 0.1 * (self.calls == 4)
            return [logits]

    monkeypatch.setattr(onnx_export, "make_session", lambda path, threads: Faulty())
    with pytest.raises(ExportError, match="disagrees"):
        parity(network, exported, images)


def test_answers_that_are_not_finite_dont_pass(
    network: NormalizedNetwork, exported: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Undefined:
        def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.full((len(feed["images"]), 3), np.nan, np.float32)]

    monkeypatch.setattr(onnx_export, "make_session", lambda path, threads: Undefined())
    with pytest.raises(ExportError, match="disagrees"):
        parity(network, exported, images)


def test_fewer_images_than_a_batch_are_taken_twice(
    network: NormalizedNetwork, exported: Path, images: np.ndarray
) -> None:
    found = check_parity(network, exported, images=images, rows=np.arange(5), threads=1)
    assert [item["batch_size"] for item in found] == [1, 3, 8]
    assert all(item["passed"] for item in found)


def test_a_network_that_cant_be_exported_names_the_reason(network: NormalizedNetwork, tmp_path: Path) -> None:
    class Unexportable(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError("no such operator")

    wrapped = NormalizedNetwork(Unexportable(), normalization="half", architecture="custom1", image_size=SIDE)
    with pytest.raises(ExportError, match=r"custom1 can't be exported: .*"):
        export_onnx(wrapped, tmp_path / "model.onnx", classes=CLASSES)
    assert not list(tmp_path.iterdir())


def test_sessions_use_the_cpu_and_the_threads_asked_for(exported: Path) -> None:
    session = make_session(exported, threads=1)
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_session_options().intra_op_num_threads == 1


def test_onnx_runtime_reports_nothing_to_its_maker(exported: Path, tmp_path: Path) -> None:
    places = {name: str(tmp_path) for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME")}
    kept_quiet_by = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
    environment = {name: value for name, value in os.environ.items() if name not in kept_quiet_by}
    code = f"from archbench.onnx_session import make_session; make_session({str(exported)!r}, threads=1)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**environment, **places})
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file()] == []  # it keeps a device id and a queue there

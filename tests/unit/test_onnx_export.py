"""ONNX: a free batch dimension, class names inside, and no file passes that answers otherwise than torch."""

from __future__ import annotations

import _ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from archbench.batches import predict_logits
from archbench.models.building import NormalizedNetwork, build_network, count_parameters
from archbench.onnx_export import EXPORTERS, export_onnx, export_raw
from archbench.onnx_files import ExportError, describe_files, finish
from archbench.onnx_runner import ExportedNetwork, InputForm
from archbench.onnx_session import PROVIDERS, ProviderError, has_cuda_driver, make_session
from archbench.parity import compare_logits, gate_batches, parity_problem

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


def form_of(network: NormalizedNetwork, *, normalized: bool = True) -> InputForm:
    mean, std = (tuple(values.flatten().tolist()) for values in (network.mean, network.std))
    return InputForm(mean, std, normalized=normalized)


def torch_logits(network: NormalizedNetwork, images: np.ndarray) -> np.ndarray:
    return predict_logits(network, images, np.arange(len(images)), batch_size=7, device=torch.device("cpu"))


def parity(network: NormalizedNetwork, exported: ExportedNetwork, images: np.ndarray) -> dict[str, Any]:
    expected = torch_logits(network, images)
    sizes = gate_batches(exported, [1, 8])
    return compare_logits(exported, images, np.arange(len(images)), expected, batch_sizes=sizes)


def opened(network: NormalizedNetwork, path: Path) -> ExportedNetwork:
    return ExportedNetwork({None: path}, form_of(network), threads=1)


def test_the_file_has_a_free_batch_named_ends_and_its_classes(exported: Path) -> None:
    model = onnx.load(exported)
    (given,), (returned,) = model.graph.input, model.graph.output
    assert (given.name, returned.name) == ("images", "logits")
    dims = given.type.tensor_type.shape.dim
    assert dims[0].dim_param and [d.dim_value for d in dims[1:]] == [3, SIDE, SIDE]
    assert {entry.key: entry.value for entry in model.metadata_props}["classes"] == "\n".join(CLASSES)
    assert list(exported.parent.iterdir()) == [exported], "weights lie inside the file"


def test_parity_at_one_two_three_and_the_largest_batch(
    network: NormalizedNetwork, exported: Path, images: np.ndarray
) -> None:
    found = parity(network, opened(network, exported), images)
    assert [item["batch_size"] for item in found["batches"]] == [1, 2, 3, 8] and found["passed"]
    assert max(item["max_abs_difference"] for item in found["batches"]) < 1e-4
    assert all(item["n_images"] == 20 for item in found["batches"]), "of fewer than 64 images all are compared"
    assert parity_problem(found) is None


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
        found = parity(network, opened(network, exported), images)
    finally:
        with torch.no_grad():
            head.bias.copy_(before)
    assert not found["passed"] and "differ from torch's by up to 1.0e-02 at batch 1" in str(parity_problem(found))


class Altered:
    """A session whose answers are changed in one call."""

    def __init__(self, real: Any, call: int, change: float) -> None:
        self.real, self.left, self.change = real, call, change

    def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        logits = self.real.run(outputs, feed)[0].copy()
        self.left -= 1
        logits[0, 0] += self.change if self.left == 0 else 0.0
        return [logits]


@pytest.mark.parametrize(("change", "words"), [(0.1, "differ from torch's by up to 1.0e-01"), (np.nan, "not finite")])
def test_one_wrong_image_among_many_is_enough(
    change: float, words: str, network: NormalizedNetwork, exported: Path, images: np.ndarray
) -> None:
    wrong = opened(network, exported)
    wrong._sessions[None] = Altered(wrong._sessions[None], 4, change)
    found = parity(network, wrong, images)
    assert not found["passed"] and words in str(parity_problem(found))
    assert [item["passed"] for item in found["batches"]] == [False, True, True, True]


def test_a_call_that_is_not_full_repeats_images(network: NormalizedNetwork, exported: Path, images: np.ndarray) -> None:
    expected = torch_logits(network, images)
    for batch_size in (3, 8, 64):
        got = opened(network, exported).logits(images, np.arange(5), batch_size=batch_size)
        np.testing.assert_allclose(got, expected[:5], rtol=1e-3, atol=1e-4)


RUNGS = [rung for rung in EXPORTERS if rung != "transformers"]


@pytest.mark.parametrize("rung", [*RUNGS, "static"])
def test_every_rung_gives_the_same_logits(
    rung: str, network: NormalizedNetwork, images: np.ndarray, tmp_path: Path
) -> None:
    raw = export_raw(network, rung, tmp_path, batch_sizes=(1, 4))
    files = {b: finish(path, tmp_path, f"onnx/model-{b}.onnx", classes=CLASSES, batch=b) for b, path in raw.items()}
    made = ExportedNetwork(files, form_of(network), threads=1)
    assert made.fixed_batches == ([1, 4] if rung == "static" else [])
    assert gate_batches(made, [1, 4]) == ([1, 4] if rung == "static" else [1, 2, 3, 4])
    assert parity(network, made, images)["passed"]


def test_the_normalisation_can_lie_in_the_graph(network: NormalizedNetwork, images: np.ndarray, tmp_path: Path) -> None:
    raw = export_raw(network, "dynamo", tmp_path, batch_sizes=(), fold_normalization=True)[None]
    path = finish(raw, tmp_path, "model.onnx", classes=CLASSES, batch=None)
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    made = ExportedNetwork({None: path}, form_of(network, normalized=False), threads=1)
    assert parity(network, made, images)["passed"]


def test_the_exporter_of_transformers_serves_its_own_networks(tmp_path: Path) -> None:
    config = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {"mlp_ratio": 2, "image_size": 28, "patch_size": 14, "num_channels": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    network = build_network(f"hf:{tmp_path}", num_classes=3, image_size=28)
    raw = export_raw(network, "transformers", tmp_path, batch_sizes=())[None]
    made = opened(network, finish(raw, tmp_path, "model.onnx", classes=CLASSES, batch=None))
    images = np.random.default_rng(0).integers(0, 256, size=(9, 28, 28, 3), dtype=np.uint8)
    assert parity(network, made, images)["passed"]


def raw_folder(folder: Path) -> Path:
    (folder / "raw").mkdir()
    return folder / "raw"


def test_large_weights_lie_beside_the_file(network: NormalizedNetwork, images: np.ndarray, tmp_path: Path) -> None:
    raw = export_raw(network, "dynamo", raw_folder(tmp_path), batch_sizes=())[None]
    path = finish(raw, tmp_path, "model.onnx", classes=CLASSES, batch=None, external_above=1000)
    files = describe_files(tmp_path, {None: "model.onnx"})
    assert [file["file"] for file in files["files"]] == ["model.onnx", "onnx/model.onnx.data"]
    assert files["bytes"] == sum(file["bytes"] for file in files["files"]) and files["batch"] == "dynamic"
    assert files["files"][1]["bytes"] > 3 * count_parameters(network) > path.stat().st_size
    assert parity(network, opened(network, path), images)["passed"]


def test_a_fixed_batch_is_not_taken_for_a_free_one(network: NormalizedNetwork, tmp_path: Path) -> None:
    raw = export_raw(network, "static", tmp_path, batch_sizes=(2,))[2]
    with pytest.raises(ExportError, match="batch dimension came out fixed at 2"):
        finish(raw, tmp_path, "model.onnx", classes=CLASSES, batch=None)
    with pytest.raises(ExportError, match="came out as 2, not 4"):
        finish(raw, tmp_path, "model.onnx", classes=CLASSES, batch=4)
    assert not (tmp_path / "model.onnx").exists()


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


def test_a_gpu_that_is_not_there_is_an_error_not_a_fallback(exported: Path) -> None:
    if has_cuda_driver():
        pytest.skip("this machine has a CUDA driver")
    with pytest.raises(ProviderError, match="no CUDA driver"):
        make_session(exported, threads=1, device="cuda")


@pytest.mark.skipif(sys.platform != "linux", reason="LD_LIBRARY_PATH is Linux's")
def test_a_driver_that_a_container_brings_is_found(tmp_path: Path) -> None:
    """Apptainer's --nv puts the driver into a folder that only LD_LIBRARY_PATH names."""
    (tmp_path / "libcuda.so.1").symlink_to(_ctypes.__file__)  # any library that loads
    code = "from archbench.onnx_session import has_cuda_driver; print(has_cuda_driver())"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "True"


def test_what_tensorrt_cant_do_goes_to_cuda_not_to_the_cpu() -> None:
    assert PROVIDERS["tensorrt"] == ("TensorrtExecutionProvider", "CUDAExecutionProvider")


def test_onnx_runtime_reports_nothing_to_its_maker(exported: Path, tmp_path: Path) -> None:
    places = {name: str(tmp_path) for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME")}
    kept_quiet_by = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
    environment = {name: value for name, value in os.environ.items() if name not in kept_quiet_by}
    code = f"from archbench.onnx_session import make_session; make_session({str(exported)!r}, threads=1)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**environment, **places})
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file()] == []  # it keeps a device id and a queue there

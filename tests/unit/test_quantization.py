"""int8 and fp16: what they are calibrated on, what they change, and which nodes are left out first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from archbench.onnx_runner import InputForm
from archbench.onnx_session import make_session
from archbench.quantization import Quantizer, activation_type, calibration_rows, is_transformer, to_fp16

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")

SIDE = 16
FORM = InputForm((127.5,) * 3, (127.5,) * 3, normalized=True)


class Network(nn.Module):
    """Three convolutions; between the first two a channel is blown up that the second ignores.

    Its range leaves few of the 256 steps to the others, so that the second is the one to leave out.
    """

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 3)
        with torch.no_grad():
            self.second.weight[:, 0] = 0
        self.register_buffer("scale", torch.tensor([1000.0, *[1.0] * 7]).view(1, -1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.scale * torch.relu(self.first(images))
        maps = torch.relu(self.third(torch.relu(self.second(maps))))
        logits: torch.Tensor = self.head(maps.mean((2, 3)))
        return logits


def export(network: nn.Module, path: Path, sample: torch.Tensor) -> Path:
    """By TorchScript, the fastest of the exporters."""
    torch.onnx.export(
        network.eval(),
        (sample,),
        str(path),
        dynamo=False,
        opset_version=18,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "batch"}},
    )
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(Network(), tmp_path_factory.mktemp("network") / "model.onnx", torch.zeros(2, 3, SIDE, SIDE))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(40, SIDE, SIDE, 3), dtype=np.uint8)


def logits_of(path: Path, images: np.ndarray) -> np.ndarray:
    inputs = FORM.prepare(images, np.arange(len(images)))
    found: np.ndarray = make_session(path, threads=1).run(None, {"images": inputs})[0]
    return found


def test_calibration_takes_many_patients_before_many_images_of_one() -> None:
    patients = np.array(["many"] * 50 + [f"p{i}" for i in range(10)])
    rows = np.arange(100, 160)
    chosen = calibration_rows(rows, patients, n=20)
    assert len(set(chosen.tolist())) == 20 and set(chosen) <= set(rows)
    assert set(range(150, 160)) <= set(chosen.tolist()), "every patient is there"
    assert calibration_rows(rows, patients, n=11).size == 11
    assert set(patients[calibration_rows(rows, patients, n=11) - 100]) == set(patients)
    assert (calibration_rows(rows, patients, n=1000) == rows).all()
    assert (calibration_rows(rows, patients, n=20) == chosen).all()


def test_convolutions_are_quantised_statically_and_per_channel(
    exported: Path, images: np.ndarray, tmp_path: Path
) -> None:
    quantizer = Quantizer(exported, FORM, images, np.arange(40), tmp_path, threads=1)
    first = next(iter(quantizer.attempts()))
    assert quantizer.method == "static" and first.n_quantized == 4 and first.excluded == ()
    model = onnx.load(first.path)
    sizes = {t.name: int(np.prod(t.dims)) for t in model.graph.initializer if "scale" in t.name}
    assert sorted(sizes.values())[-1] == 8, "a scale per channel"
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert len(weights) == 3
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    points = {kinds[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert points == {onnx.TensorProto.UINT8 if activation_type() == "QUInt8" else onnx.TensorProto.INT8}
    gap = np.abs(logits_of(first.path, images) - logits_of(exported, images)).max()
    assert 0 < gap < np.abs(logits_of(exported, images)).max()


@pytest.mark.parametrize(
    ("machine", "expected"), [("x86_64", "QUInt8"), ("AMD64", "QUInt8"), ("aarch64", "QInt8"), ("arm64", "QInt8")]
)
def test_activations_are_what_the_processor_multiplies(
    machine: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert activation_type() == expected


def test_the_node_that_suffers_most_is_left_out_first(exported: Path, images: np.ndarray, tmp_path: Path) -> None:
    quantizer = Quantizer(exported, FORM, images, np.arange(40), tmp_path, threads=1)
    expected = logits_of(exported, images)
    attempts = list(quantizer.attempts())
    assert [len(attempt.excluded) for attempt in attempts] == [0, 1, 2]
    assert attempts[1].excluded == (quantizer.node_names[1],), "the second convolution"
    gaps = [np.linalg.norm(logits_of(attempt.path, images) - expected) for attempt in attempts]
    assert gaps[1] < gaps[0] / 3
    kept = [node.name for node in onnx.load(attempts[1].path).graph.node if node.op_type == "Conv"]
    assert len(kept) == 3


def test_matrix_products_of_a_transformer_are_quantised_dynamically(images: np.ndarray, tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patches, self.block, self.head = nn.Conv2d(3, 16, 8, 8), layer, nn.Linear(16, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.patches(images).flatten(2).transpose(1, 2)
            logits: torch.Tensor = self.head(self.block(tokens).mean(1))
            return logits

    path = export(Tokens().train(False), tmp_path / "model.onnx", torch.zeros(2, 3, SIDE, SIDE))
    assert is_transformer(path)
    quantizer = Quantizer(path, FORM, images, np.arange(40), tmp_path, threads=1)
    attempt = next(iter(quantizer.attempts()))
    ops = [node.op_type for node in onnx.load(attempt.path).graph.node]
    assert quantizer.method == "dynamic" and ops.count("MatMulInteger") == attempt.n_quantized > 0
    assert "Conv" in ops and "ConvInteger" not in ops
    np.testing.assert_allclose(logits_of(attempt.path, images), logits_of(path, images), atol=0.1)


def test_fp16_halves_the_weights_and_keeps_the_ends(exported: Path, images: np.ndarray, tmp_path: Path) -> None:
    to_fp16(exported, tmp_path / "fp16.onnx")
    model = onnx.load(tmp_path / "fp16.onnx")
    onnx.checker.check_model(str(tmp_path / "fp16.onnx"))
    kinds = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}
    assert {t.data_type for t in model.graph.initializer if len(t.dims) == 4} == {onnx.TensorProto.FLOAT16}
    np.testing.assert_allclose(
        logits_of(tmp_path / "fp16.onnx", images), logits_of(exported, images), atol=0.02, rtol=0.02
    )

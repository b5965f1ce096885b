"""Networks of volumes: window, triplets, pooling over slices, freezing, features, weights, export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from archbench.batches import predict_logits, to_batch
from archbench.features import FeatureHead, extract_features
from archbench.freezing import set_trainable
from archbench.models import volumes as volumes_module
from archbench.models.building import VolumeNetwork, build_network, is_new, parameter_stages
from archbench.models.volumes import SlicePooling
from archbench.models.weights import load_checkpoint, load_weights, save_weights

CPU = torch.device("cpu")
SIDE, SLICES = 32, 5
VOLUME = {"hu_window": [-1000.0, 400.0], "slices": SLICES, "pooling": "attention", "slice_input": "triplet"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    yield
    torch.set_num_threads(threads)


def build(architecture: str = "custom1", *, seed: int = 0, side: int = SIDE, **changes: Any) -> VolumeNetwork:
    torch.manual_seed(seed)
    volume = VOLUME | {key: changes.pop(key) for key in list(changes) if key in VOLUME}
    network = build_network(architecture, num_classes=3, image_size=side, volume=volume, **changes)
    assert isinstance(network, VolumeNetwork)
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.normal_(std=0.3)
        for parameter in network.parameters():
            if not parameter.any():  # as the first step of training would
                parameter.normal_(std=0.02)
    return network.eval()


def hounsfield(n: int = 4, *, slices: int = SLICES, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """Coarse random structure, wider than the window."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(-1300, 900, size=(n, slices, 4, 4))
    return np.kron(coarse, np.ones((side // 4, side // 4))).astype(np.int16)


def batch(volumes: np.ndarray) -> torch.Tensor:
    return to_batch(volumes, np.arange(len(volumes)), CPU)


def test_the_cache_of_volumes_goes_to_the_network_as_it_is() -> None:
    volumes = hounsfield()
    given = batch(volumes)
    assert given.dtype == torch.int16 and torch.equal(given, torch.from_numpy(volumes))
    features = np.ones((4, SLICES, 7), np.float32)
    assert batch(features).shape == (4, SLICES, 7)


def test_the_window_is_pixels_0_to_255_and_triplets_are_neighbours() -> None:
    network = build(slice_input="triplet")
    volumes = torch.linspace(-1400, 800, SLICES).view(1, SLICES, 1, 1).expand(1, SLICES, SIDE, SIDE)
    pixels = network.network.windowed(volumes)[0, :, 0, 0]
    by_hand = [255 * min(max((hu + 1000) / 1400, 0), 1) for hu in np.linspace(-1400, 800, SLICES)]
    np.testing.assert_allclose(pixels, by_hand, rtol=1e-5)
    inputs = network.network.channels(volumes)
    assert inputs.shape == (SLICES, 3, SIDE, SIDE)
    seen = (inputs * network.network.std + network.network.mean)[:, :, 0, 0]  # what normalisation did is taken back
    expected = [[pixels[max(k - 1, 0)], pixels[k], pixels[min(k + 1, SLICES - 1)]] for k in range(SLICES)]
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-3)
    alone = build(slice_input="single").network.channels(volumes)
    assert torch.equal(alone[:, 0], alone[:, 1]) and torch.equal(alone[:, 1], inputs[:, 1])


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_one_logit_vector_for_a_volume_by_its_pooling(pooling: str) -> None:
    """Against the backbone run slice by slice, and pooled by hand."""
    network = build(pooling=pooling)
    volumes = batch(hounsfield(2))
    with torch.no_grad():
        logits = network(volumes)
        inputs = network.network.channels(volumes.float()).unflatten(0, (2, SLICES))
        one_by_one = [torch.stack([network.backbone(piece[None])[0] for piece in volume]) for volume in inputs]
        features = torch.stack(one_by_one)
        if pooling == "mean":
            pooled = torch.stack([sum(volume) / SLICES for volume in features])  # type: ignore[arg-type]
        elif pooling == "max":
            pooled = features.max(dim=1).values
        else:
            shares = network.network.pooling.weights(features)  # type: ignore[operator]
            pooled = torch.stack([share @ volume for share, volume in zip(shares, features, strict=True)])
        torch.testing.assert_close(logits, network.head(pooled), atol=1e-4, rtol=1e-4)
    assert logits.shape == (2, 3) and torch.isfinite(logits).all()


def test_gated_attention_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    pooling, features = SlicePooling("attention", 6), torch.randn(2, SLICES, 6)
    with torch.no_grad():
        weights, pooled = pooling.weights(features), pooling(features)
        for k in range(2):
            scores = []
            for h in features[k]:
                gate = 1 / (1 + torch.exp(-(pooling.gate.weight @ h + pooling.gate.bias)))
                content = torch.tanh(pooling.content.weight @ h + pooling.content.bias)
                scores.append(float(pooling.score.weight[0] @ (content * gate)))
            by_hand = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(weights[k], by_hand, rtol=1e-5)
            np.testing.assert_allclose(pooled[k], by_hand @ features[k].numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_weights_of_slices_sum_to_one_and_find_the_slice_that_counts(pooling: str) -> None:
    torch.manual_seed(0)
    module, features = SlicePooling(pooling, 6), torch.zeros(1, SLICES, 6)
    features[0, 3] = 2.0
    with torch.no_grad():
        weights = module.weights(features)
    assert weights.shape == (1, SLICES) and float(weights.sum()) == pytest.approx(1, abs=1e-6)
    if pooling == "max":
        assert weights[0].tolist() == [0, 0, 0, 1, 0]
    if pooling == "mean":
        assert weights[0].tolist() == pytest.approx([0.2] * SLICES)


def test_the_order_of_slices_counts_with_triplets_alone() -> None:
    volumes = hounsfield(2)
    shuffled = volumes[:, [2, 0, 4, 1, 3]]
    for slice_input, same in (("single", True), ("triplet", False)):
        network = build(slice_input=slice_input, pooling="mean")
        with torch.no_grad():
            assert torch.allclose(network(batch(volumes)), network(batch(shuffled)), atol=1e-4) is same


def test_chunks_where_no_gradient_is_needed_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network, volumes = build(), hounsfield(4)
    sizes: list[int] = []
    network.backbone.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    whole = predict_logits(network, volumes, np.arange(4), batch_size=4, device=CPU)
    assert sizes == [4 * SLICES]
    monkeypatch.setattr(volumes_module, "SLICES_PER_PASS", 6)
    sizes.clear()
    parts = predict_logits(network, volumes, np.arange(4), batch_size=4, device=CPU)
    assert sizes == [6, 6, 6, 2]
    np.testing.assert_allclose(parts, whole, atol=1e-4)
    sizes.clear()
    network.train()(batch(volumes)).sum().backward()
    assert sizes == [4 * SLICES], "batch statistics and gradients are those of the whole batch"
    set_trainable(network, parameter_stages(network), n_open=1)
    network.zero_grad(set_to_none=True)
    sizes.clear()
    network(batch(volumes)).sum().backward()
    assert sizes == [6, 6, 6, 2], "a frozen backbone keeps no activations"
    assert all((p.grad is not None) == is_new(network, name) for name, p in network.network.named_parameters())


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("custom1", {"attention": "se"}),
        ("resnet18", {"attention": "cbam", "head": "mlp", "head_hidden": 16, "dropout": 0.2}),
        ("vit_tiny_patch16_224", {}),
        ("r3d_10", {"head": "mlp"}),
    ],
)
def test_stages_freezing_and_gradients(architecture: str, settings: dict[str, Any]) -> None:
    network = build(architecture, **settings)
    stages = parameter_stages(network)
    placed = [id(p) for _, parameters in stages for p in parameters]
    assert sorted(placed) == sorted(id(p) for p in network.parameters())
    new = {name.split(".")[0] for name, _ in network.network.named_parameters() if is_new(network, name)}
    expected = {"head"} | ({"pooling"} if architecture != "r3d_10" else set())
    assert new == expected | ({"backbone"} if "attention" in settings else set())
    set_trainable(network, stages, n_open=len(stages))
    torch.manual_seed(0)
    loss = nn.functional.binary_cross_entropy_with_logits(network(batch(hounsfield(4))), torch.eye(4, 3))
    loss.backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not without
    silent = [name for name, p in network.named_parameters() if p.ndim > 1 and not p.grad.any()]  # type: ignore[union-attr]
    assert not silent


def test_features_of_slices_train_the_pooling_and_the_head() -> None:
    network, volumes = build(), hounsfield(6)
    features = np.concatenate(list(extract_features(network, volumes, batch_size=4, device=CPU)))
    assert features.shape == (6, SLICES, 320)
    head = FeatureHead(network)
    with torch.no_grad():
        np.testing.assert_allclose(head(batch(features)), network(batch(volumes)), atol=1e-4)
    assert {id(p) for p in head.parameters()} == {
        id(p) for name, p in network.network.named_parameters() if is_new(network, name)
    }
    whole = np.concatenate(list(extract_features(build("r3d_10"), volumes, batch_size=4, device=CPU)))
    assert whole.shape == (6, 512)


def test_weights_of_images_start_a_network_of_volumes(tmp_path: Path) -> None:
    """A file of a two-dimensional network fills the backbone; pooling and head stay new."""
    torch.manual_seed(7)
    flat = build_network("resnet18", num_classes=9, image_size=SIDE)
    save_weights(flat.network, tmp_path / "flat.safetensors")
    network = build("resnet18")
    report = load_weights(network, tmp_path / "flat.safetensors", same_head=False)
    assert torch.equal(network.backbone.conv1.weight, flat.network.conv1.weight)  # type: ignore[union-attr]
    assert sorted(report.unexpected) == ["backbone.fc.bias", "backbone.fc.weight"]
    assert {name.split(".")[0] for name in report.missing} == {"head", "pooling"}
    save_weights(network.network, tmp_path / "whole.safetensors")
    again = load_checkpoint(build("resnet18", seed=3), tmp_path / "whole.safetensors", CPU)
    with torch.no_grad():
        assert torch.equal(again(batch(hounsfield())), network(batch(hounsfield())))


def test_another_number_of_slices_or_an_image_is_refused() -> None:
    network = build()
    with pytest.raises(ValueError, match=r"built for volumes of 5 slices, got shape \(2, 3, 32, 32\)"):
        network(torch.zeros(2, 3, SIDE, SIDE))
    with pytest.raises(ValueError, match="r3d_18: reads volumes alone"):
        build_network("r3d_18", num_classes=2, image_size=64)


@pytest.mark.parametrize(
    ("architecture", "changes", "normalized"),
    [
        ("resnet18", {"attention": "se", "head": "mlp"}, True),
        ("custom1", {"pooling": "max", "slice_input": "single"}, False),
        ("r3d_10", {}, True),
    ],
)
def test_onnx_takes_hounsfield_units_and_gives_the_same_logits(
    architecture: str, changes: dict[str, Any], normalized: bool, tmp_path: Path
) -> None:
    from archbench.onnx_export import export_raw
    from archbench.onnx_files import finish
    from archbench.onnx_runner import ExportedNetwork, InputForm
    from archbench.parity import compare_logits, parity_problem

    network, volumes = build(architecture, **changes), hounsfield(8)
    raw = export_raw(network, "dynamo", tmp_path, batch_sizes=(), fold_normalization=not normalized)[None]
    path = finish(raw, tmp_path, "model.onnx", classes=list("abc"), batch=None)
    form = InputForm((0.0,), (1.0,), normalized=normalized)
    exported = ExportedNetwork({None: path}, form, threads=1)
    expected = predict_logits(network, volumes, np.arange(8), batch_size=8, device=CPU)
    found = compare_logits(exported, volumes, np.arange(8), expected, batch_sizes=[1, 2, 3, 8])
    assert found["passed"], parity_problem(found)
    assert expected.std() > 0.01
    import onnx

    kind = onnx.load(path).graph.input[0].type.tensor_type.elem_type
    assert kind == (onnx.TensorProto.FLOAT if normalized else onnx.TensorProto.INT16)

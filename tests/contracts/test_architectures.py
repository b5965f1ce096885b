"""What every registered architecture must do; a new one joins these tests by itself.

All run with random weights at their smallest legal size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from archbench.explain import _tokens_to_grid
from archbench.models.building import (
    NormalizedNetwork,
    build_network,
    cam_layer,
    count_parameters,
    head_name,
    head_parameters,
    parameter_stages,
    set_training_mode,
)
from archbench.models.weights import load_checkpoint, save_weights
from archbench.registry import ARCHITECTURES

NUM_CLASSES = 5
CPU = torch.device("cpu")
NAMES = ARCHITECTURES.names()
LARGE_PARAMETERS = 15_000_000  # larger ones skip what their smaller relatives show as well
EXPORTED = ("custom1", "resnet18", "vit_tiny_patch16_224")  # one of each kind; an export takes seconds


def smallest_size(name: str) -> int:
    entry = ARCHITECTURES.get(name)
    patch = entry.patch or 1
    return -(-entry.min_size // patch) * patch


@pytest.fixture(scope="module", params=NAMES)
def network(request: pytest.FixtureRequest) -> NormalizedNetwork:
    torch.manual_seed(0)
    name = request.param
    return build_network(name, num_classes=NUM_CLASSES, image_size=smallest_size(name), dropout=0.1)


@pytest.fixture
def light(network: NormalizedNetwork) -> NormalizedNetwork:
    if count_parameters(network) > LARGE_PARAMETERS:
        pytest.skip("large")
    return network


def pixels(network: NormalizedNetwork, n: int = 2) -> torch.Tensor:
    side = network.image_size
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_logits_have_the_shape_and_are_finite(network: NormalizedNetwork) -> None:
    with torch.no_grad():
        logits = network.eval()(pixels(network))
    assert logits.shape == (2, NUM_CLASSES) and logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_every_trainable_parameter_gets_a_gradient(network: NormalizedNetwork) -> None:
    set_training_mode(network, backbone=True)
    torch.manual_seed(0)
    torch.nn.functional.cross_entropy(network(pixels(network)), torch.tensor([0, 1])).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    silent = all(not p.grad.any() for p in network.parameters() if p.grad is not None)
    network.zero_grad(set_to_none=True)
    assert not without and not silent


def test_stages_hold_every_parameter_once_from_input_to_head(network: NormalizedNetwork) -> None:
    stages = parameter_stages(network)
    placed = [id(p) for _, parameters in stages for p in parameters]
    assert sorted(placed) == sorted(id(p) for p in network.parameters())
    assert len({name for name, _ in stages}) == len(stages) >= 4
    assert stages[-1][0] == "head" and list(map(id, stages[-1][1])) == list(map(id, head_parameters(network)))
    names = {id(p): name for name, p in network.network.named_parameters()}
    order = list(names)  # modules are defined in the order in which they run
    assert order.index(placed[0]) == 0 and [n for n, p in stages if not p] == []


def test_frozen_is_all_but_the_head(network: NormalizedNetwork) -> None:
    set_training_mode(network, backbone=False)
    free = {name for name, p in network.network.named_parameters() if p.requires_grad}
    prefix = head_name(network) + "."
    assert free == {name for name, _ in network.network.named_parameters() if name.startswith(prefix)} != set()
    assert not any(module.training for module in network.modules())
    set_training_mode(network, backbone=True)
    assert all(p.requires_grad for p in network.parameters()) and network.training


def test_the_head_ends_in_the_classes(network: NormalizedNetwork) -> None:
    shapes = {p.shape[0] for name, p in network.network.named_parameters() if name.startswith(head_name(network) + ".")}
    assert shapes == {NUM_CLASSES}


def test_cam_layer_gives_maps_or_tokens_of_a_grid(network: NormalizedNetwork) -> None:
    kept: list[torch.Tensor] = []
    handle = cam_layer(network).register_forward_hook(lambda module, args, out: kept.append(out))
    with torch.no_grad():
        network.eval()(pixels(network))
    handle.remove()
    maps = _tokens_to_grid(network)(kept[0]) if ARCHITECTURES.get(network.architecture).tokens else kept[0]
    assert maps.ndim == 4 and len(maps) == 2
    assert maps.shape[1] >= 16, "channels come second"
    assert 1 <= maps.shape[2] == maps.shape[3] <= network.image_size // 2


def test_only_its_own_size_is_taken(network: NormalizedNetwork) -> None:
    side = network.image_size + 32
    with pytest.raises(ValueError, match=f"built for {network.image_size} px, got images of shape"):
        network(torch.zeros(1, 3, side, side))


def test_normalisation_is_inside(network: NormalizedNetwork) -> None:
    entry, side = ARCHITECTURES.get(network.architecture), network.image_size
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in entry.mean_std)
    with torch.no_grad():
        whole = network.eval()(pixels(network))
        by_hand = network.network((pixels(network).float() / 255 - mean) / std)
    torch.testing.assert_close(whole, by_hand, atol=1e-4, rtol=1e-3)
    assert network.normalize(torch.zeros(1, 3, side, side)).shape == (1, 3, side, side)


def test_a_file_brings_the_same_network_back(light: NormalizedNetwork, tmp_path: Path) -> None:
    save_weights(light.network, tmp_path / "w.safetensors")
    torch.manual_seed(1)
    other = build_network(light.architecture, num_classes=NUM_CLASSES, image_size=light.image_size)
    with torch.no_grad():
        expected = light.eval()(pixels(light))
        assert not torch.equal(other.eval()(pixels(light)), expected)
        assert torch.equal(load_checkpoint(other, tmp_path / "w.safetensors", CPU)(pixels(light)), expected)


@pytest.mark.parametrize("name", EXPORTED)
def test_onnx_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    from archbench.onnx_export import check_parity, export_onnx

    torch.manual_seed(0)
    side = smallest_size(name)
    network = build_network(name, num_classes=NUM_CLASSES, image_size=side)
    export_onnx(network, tmp_path / "model.onnx", classes=list("abcde"))
    images = np.random.default_rng(0).integers(0, 256, size=(8, side, side, 3), dtype=np.uint8)
    found = check_parity(network, tmp_path / "model.onnx", images=images, rows=np.arange(8), threads=1)
    assert [item["batch_size"] for item in found] == [1, 3, 8]


@pytest.mark.parametrize("name", NAMES)
def test_impossible_sizes_are_told_before_anything_is_built(name: str) -> None:
    entry, legal = ARCHITECTURES.get(name), smallest_size(name)
    assert entry.size_problems(legal) == [] and entry.size_problems(entry.image_size) == []
    assert entry.size_problems(entry.min_size - 1) == [
        f"{entry.min_size - 1} px is too small; at least {entry.min_size}"
    ]
    with pytest.raises(ValueError, match=f"{name}: 8 px is too small"):
        build_network(name, num_classes=2, image_size=8)
    if entry.patch:
        (problem,) = entry.size_problems(legal + 1)
        assert f"no multiple of the patch size {entry.patch}" in problem
        assert f"use {legal} or {legal + entry.patch}" in problem


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_complete(name: str) -> None:
    entry = ARCHITECTURES.get(name)
    assert entry.paper
    assert all(len(values) == 3 for values in entry.mean_std)
    for source, where in entry.weights.items():
        assert source in ("imagenet", "package") and where.licence and where.location
        assert entry.weight_problems(source) == []
    assert entry.weight_problems("none") == []
    (problem,) = entry.weight_problems("nowhere")
    assert "known: none" in problem and "file:<path>" in problem


def test_custom1_has_about_a_million_parameters() -> None:
    network = build_network("custom1", num_classes=NUM_CLASSES, image_size=32)
    assert 0.6e6 < count_parameters(network) < 1.4e6


@pytest.mark.parametrize(
    ("size", "layer"), [(224, "layer4.-1"), (112, "layer3.-1"), (64, "layer2.-1"), (32, "layer2.-1")]
)
def test_small_inputs_are_explained_at_a_finer_layer(size: int, layer: str) -> None:
    """At 96 px the last layer has 3 x 3 cells: its maximum says nothing about a lesion's place."""
    assert ARCHITECTURES.get("resnet18").cam_layer_at(size) == layer

"""What every registered architecture must do; a new one joins these tests by itself.

All run with random weights at their smallest legal size. One test a name builds its network once, since the large
ones take seconds and a gigabyte; a name that can't pass isn't offered.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from archbench import architecture_table
from archbench.export_ladder import Reference
from archbench.freezing import set_trainable
from archbench.models.building import (
    NormalizedNetwork,
    build_network,
    cam_layer,
    cam_maps,
    count_parameters,
    head_parameters,
    is_new,
    parameter_stages,
)
from archbench.models.weights import load_checkpoint, save_weights
from archbench.registry import ARCHITECTURES

NUM_CLASSES = 5
CPU = torch.device("cpu")
NAMES = [name for name in ARCHITECTURES.names() if not ARCHITECTURES.get(name).masks]
LARGE_PARAMETERS = 30_000_000  # of larger ones no file is written
# One of each structure; the others' exports, seconds each, are the slow tests: make test-architectures.
EXPORTED = ("custom1", "efficientnet_b0", "resnet18", "vit_tiny_patch16_224", "timm:mobilenetv3_small_050")
VOLUME = {"hu_window": [-1000.0, 1000.0], "slices": 4, "pooling": "attention", "slice_input": "triplet"}
OTHERS = ("timm:mobilenetv3_small_050", "timm:regnety_002", "timm:deit_tiny_patch16_224", "timm:mobilevitv2_050")


@pytest.fixture(autouse=True)
def _no_denormals() -> Iterator[None]:
    """Random networks on CPU run many times slower with denormal numbers; the product flushes them too."""
    torch.set_flush_denormal(True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tests run beside each other
    yield
    torch.set_num_threads(threads)
    gc.collect()


def smallest_size(name: str) -> int:
    size: int = ARCHITECTURES.get(name).smallest_size()
    return size


def build(name: str, *, seed: int = 0, **settings: object) -> NormalizedNetwork:
    """A network of random weights; layers that start at exactly zero are moved, as the first step of training would."""
    torch.manual_seed(seed)
    size = smallest_size(name)
    settings = {"volume": VOLUME, **settings} if ARCHITECTURES.get(name).dimensions == 3 else settings
    network = build_network(name, num_classes=NUM_CLASSES, image_size=size, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return network


def pixels(network: NormalizedNetwork, n: int = 2) -> torch.Tensor:
    """Pixels; of a volume, Hounsfield units."""
    low, high = (0, 256) if network.input_dtype == torch.uint8 else (-1000, 1001)
    shape, generator = (n, *network.input_shape), torch.Generator().manual_seed(1)
    return torch.randint(low, high, shape, dtype=network.input_dtype, generator=generator)


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_every_architecture_keeps_the_contract(name: str, tmp_path: Path) -> None:
    network = build(name)
    check_logits(network)
    check_size_and_normalisation(network)
    check_stages(network)
    check_freezing(network)
    check_cam_layer(network)
    check_state_round_trip(network, tmp_path / "w.safetensors")
    check_gradients(network)


def check_logits(network: NormalizedNetwork) -> None:
    with torch.no_grad():
        logits = network.eval()(pixels(network))
    assert logits.shape == (2, NUM_CLASSES) and logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


def check_size_and_normalisation(network: NormalizedNetwork) -> None:
    entry = ARCHITECTURES.get(network.architecture)
    if entry.dimensions == 2:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in entry.mean_std)
        with torch.no_grad():
            by_hand = network.eval().network((pixels(network).float() / 255 - mean) / std)
            torch.testing.assert_close(network(pixels(network)), by_hand, atol=1e-4, rtol=1e-3)
    else:
        mean, std = (sum(values) / 3 for values in entry.mean_std)
        with torch.no_grad():
            backbone = network.eval().backbone(((pixels(network)[:, None] + 1000) / 2000 - mean) / std)
            torch.testing.assert_close(network(pixels(network)), network.head(backbone), atol=1e-4, rtol=1e-3)
    depth, *_ = network.input_shape
    side = network.image_size + 32
    with pytest.raises(ValueError, match=f"built for {network.image_size} px, got images of shape"):
        network(torch.zeros(1, depth, side, side))


def check_stages(network: NormalizedNetwork) -> None:
    """Every parameter stands in one stage, from input to head."""
    stages = parameter_stages(network)
    placed = [id(p) for _, parameters in stages for p in parameters]
    assert sorted(placed) == sorted(id(p) for p in network.parameters())
    assert len({name for name, _ in stages}) == len(stages) >= 4 and all(parameters for _, parameters in stages)
    assert stages[-1][0] == "head" and list(map(id, stages[-1][1])) == list(map(id, head_parameters(network)))
    assert placed[0] == id(next(network.network.parameters())), "modules are defined in the order in which they run"


def check_freezing(network: NormalizedNetwork) -> None:
    """A frozen backbone gets no gradient and keeps its statistics; the head trains."""
    stages = parameter_stages(network)
    set_trainable(network, stages, n_open=1)
    free = {name for name, p in network.network.named_parameters() if p.requires_grad}
    assert free == {name for name, _ in network.network.named_parameters() if is_new(network, name)} != set()
    modules = [(name + ".", module) for name, module in network.network.named_modules() if not list(module.children())]
    assert not [name for name, m in modules if m.training and not is_new(network, name) and list(m.parameters())]
    before = {name: buffer.clone() for name, buffer in network.network.named_buffers()}
    network(pixels(network)).sum().backward()
    assert {name for name, p in network.network.named_parameters() if p.grad is not None} == free
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.network.named_buffers())
    network.zero_grad(set_to_none=True)
    set_trainable(network, stages, n_open=len(stages))
    assert all(p.requires_grad for p in network.parameters()) and network.training


def check_cam_layer(network: NormalizedNetwork) -> None:
    """The layer's output is a square map for each image, channels second, with a gradient in more than one cell."""
    kept: list[torch.Tensor] = []
    handle = cam_layer(network).register_forward_hook(lambda module, args, out: kept.append(out))
    logits = network.eval()(pixels(network))
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), kept[0])
    maps = cam_maps(network, gradient)
    assert maps.ndim == ARCHITECTURES.get(network.architecture).dimensions + 2
    assert len(maps) == 2 and torch.isfinite(maps).all()
    assert maps.shape[1] >= 16, "channels come second"
    assert 1 <= maps.shape[-2] == maps.shape[-1] <= network.image_size // 2
    assert bool(maps.abs().sum(dim=(0, 1)).all()), "no gradient reaches some cell"


def check_state_round_trip(network: NormalizedNetwork, path: Path) -> None:
    """The weights come back whole into a network that had others."""
    with torch.no_grad():
        expected = network.eval()(pixels(network))
        state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        if count_parameters(network) < LARGE_PARAMETERS:
            save_weights(network.network, path)
        for parameter in network.parameters():
            parameter.add_(0.1)
        assert not torch.equal(network(pixels(network)), expected)
        if path.is_file():
            load_checkpoint(network, path, CPU)
            path.unlink()
        else:
            network.load_state_dict(state)
        assert torch.equal(network(pixels(network)), expected)


def check_gradients(network: NormalizedNetwork) -> None:
    """Every trainable parameter gets a gradient."""
    network.train()
    torch.manual_seed(0)
    # Of two values at one place batch norm makes +1 and -1 whatever they are: four images.
    torch.nn.functional.cross_entropy(network(pixels(network, n=4)), torch.tensor([0, 1, 2, 3])).backward()
    named = dict(network.named_parameters())
    without = [name for name, p in named.items() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not without
    silent = [name for name, p in named.items() if p.ndim > 1 and not p.grad.any()]  # type: ignore[union-attr]
    assert not silent, "its gradient is exactly zero"


def check_onnx(name: str, folder: Path, **settings: object) -> None:
    """The first rung serves, for any batch size, and its logits are torch's."""
    from archbench.batches import predict_logits
    from archbench.onnx_export import export_onnx
    from archbench.onnx_runner import ExportedNetwork, InputForm
    from archbench.parity import compare_logits, parity_problem

    network = build(name, **settings)
    export_onnx(network, folder / "model.onnx", classes=list("abcde"))
    inputs = pixels(network, n=8)
    images = (inputs.permute(0, 2, 3, 1) if inputs.dtype == torch.uint8 else inputs).contiguous().numpy()
    expected = predict_logits(network, images, np.arange(8), batch_size=8, device=CPU)
    form = InputForm(tuple(network.mean.flatten().tolist()), tuple(network.std.flatten().tolist()), normalized=True)
    exported = ExportedNetwork({None: folder / "model.onnx"}, form, threads=1)
    found = compare_logits(exported, images, np.arange(8), expected, batch_sizes=[1, 2, 3, 8])
    assert found["passed"], parity_problem(found)


@pytest.mark.parametrize("name", EXPORTED)
def test_onnx_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    check_onnx(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in [*NAMES, *OTHERS] if name not in EXPORTED])
def test_onnx_gives_the_same_logits_of_all(name: str, tmp_path: Path) -> None:
    check_onnx(name, tmp_path)


SIZES = architecture_table.read_json(architecture_table.MEASURED)
BY_SIZE = sorted(NAMES, key=lambda name: -SIZES.get(name, {"parameters": 0})["parameters"])
FAMILIES = {str(ARCHITECTURES.get(name).family): name for name in BY_SIZE}  # the smallest of each


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_climbs_the_ladder(family: str, tmp_path: Path) -> None:
    """In processes of their own, as the rule does it, with all rungs of the architecture at hand."""
    from archbench.artifacts import write_json
    from archbench.export_ladder import ExportJob, climb, rungs_of
    from archbench.onnx_files import finish
    from archbench.onnx_runner import ExportedNetwork
    from archbench.parity import compare_logits, parity_problem

    name = FAMILIES[family]
    if ARCHITECTURES.get(name).dimensions == 3:
        pytest.skip("test_volume_networks climbs with volumes")
    network, side = build(name), smallest_size(name)
    save_weights(network.network, tmp_path / "w.safetensors")
    images = np.random.default_rng(0).integers(0, 256, size=(8, side, side, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "geometry.npy", np.zeros((8, 4), np.float32))
    write_json(tmp_path / "index.json", {"case_ids": list("abcdefgh"), "size": side, "clahe": False})
    job = ExportJob(
        network={"architecture": name, "num_classes": NUM_CLASSES, "image_size": side},
        checkpoint=str(tmp_path / "w.safetensors"),
        cache=str(tmp_path),
        rows=np.arange(8),
        batch_sizes=(1, 8),
        fold_normalization=False,
        threads=1,
    )

    def gate(raw: Mapping[int | None, Path], reference: Reference) -> tuple[dict[str, object], str | None]:
        files = {b: finish(p, tmp_path, f"{b}.onnx", classes=list("abcde"), batch=b) for b, p in raw.items()}
        exported = ExportedNetwork(files, reference.form, threads=1)
        sizes = exported.fixed_batches or [1, 2, 3, 8]
        found = compare_logits(exported, images, np.arange(8), reference.logits, batch_sizes=sizes)
        return found, parity_problem(found)

    found = climb(job, gate, timeout_s=600, rungs=rungs_of(name))
    assert found.rung is not None, found.attempts
    assert found.accepted["passed"]


def test_onnx_of_a_gray_network_with_attention_and_hidden_layer(tmp_path: Path) -> None:
    check_onnx("resnet18", tmp_path, head="mlp", head_hidden=32, attention="cbam", in_channels=1)


@pytest.mark.parametrize("name", NAMES)
def test_the_table_tells_the_real_size(name: str) -> None:
    """docs/architectures.md is made of these figures; run `make docs` when they drift."""
    told = architecture_table.read_json(architecture_table.MEASURED)
    assert set(told) == set(NAMES)
    entry = ARCHITECTURES.get(name)
    with torch.device("meta"):
        network = entry.build(num_classes=architecture_table.NUM_CLASSES, image_size=entry.image_size)
    assert told[name]["parameters"] == count_parameters(network) and told[name]["image_size"] == entry.image_size


# Published figures of one image at the default size: torchvision's and timm's tables.
@pytest.mark.parametrize(("name", "macs"), [("resnet50", 4.09e9), ("vit_tiny_patch16_224", 1.26e9), ("r3d_18", 40.7e9)])
def test_the_table_tells_the_real_work(name: str, macs: float) -> None:
    measured = architecture_table.measure(name)
    assert measured == architecture_table.read_json(architecture_table.MEASURED)[name]
    assert measured["macs"] == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_impossible_sizes_are_told_before_anything_is_built(name: str) -> None:
    entry, legal = ARCHITECTURES.get(name), smallest_size(name)
    assert entry.size_problems(legal) == [] and entry.size_problems(entry.image_size) == []
    assert entry.size_problems(entry.min_size - 1) == [
        f"{entry.min_size - 1} px is too small; at least {entry.min_size}"
    ]
    with pytest.raises(ValueError, match=f"{name}: 8 px is too small"):
        build_network(name, num_classes=2, image_size=8)
    if entry.dimensions == 3:
        with pytest.raises(ValueError, match=f"{name}: reads volumes alone, and these are images"):
            build_network(name, num_classes=2, image_size=64)
    if entry.patch:
        (problem,) = entry.size_problems(legal + 1)
        assert f"no multiple of the patch size {entry.patch}" in problem
        assert f"use {legal} or " in problem


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_complete(name: str) -> None:
    entry = ARCHITECTURES.get(name)
    assert entry.paper
    assert all(len(values) == 3 for values in entry.mean_std)
    for source, where in entry.weights.items():
        assert source in ("imagenet", "hub", "package") and where.licence
        assert where.location or where.repository
        assert entry.weight_problems(source) == []
    assert bool(entry.weight_problems("none")) == bool(entry.demands)
    (problem,) = entry.weight_problems("nowhere")
    assert "file:<path>" in problem
    assert entry.family and entry.preset.lr > 0 and entry.preset.batch_size > 0


def test_custom1_has_about_a_million_parameters() -> None:
    network = build_network("custom1", num_classes=NUM_CLASSES, image_size=32)
    assert 0.6e6 < count_parameters(network) < 1.4e6


@pytest.mark.parametrize(
    ("size", "layer"), [(224, "layer4.-1"), (112, "layer3.-1"), (64, "layer2.-1"), (32, "layer2.-1")]
)
def test_small_inputs_are_explained_at_a_finer_layer(size: int, layer: str) -> None:
    """At 96 px the last layer has 3 x 3 cells: its maximum says nothing about a lesion's place."""
    assert ARCHITECTURES.get("resnet18").cam_layer_at(size) == layer

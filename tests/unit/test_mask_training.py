"""Segmentation from the cache to masks in source pixels: geometry, augmentation, losses, networks, training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from archbench.augmentation import augment, augment_with_masks
from archbench.image_cache import cached_mask
from archbench.losses.loss import LossNumbers
from archbench.mask_parity import MaskTruth, case_dice, compare_masks
from archbench.mask_validation import count_pixels
from archbench.metrics.segmentation import counted_value, score_mask
from archbench.models.building import build_network, parameter_stages
from archbench.models.weights import load_checkpoint, save_weights
from archbench.parity import Comparison
from archbench.recipe_effects import LOSS_KEYS
from archbench.registry import ARCHITECTURES, LOSSES, METRICS
from archbench.settings import Training
from archbench.training import train
from archbench.training_epoch import TrainingData
from archbench_predict.source_masks import to_source

CPU = torch.device("cpu")
NAMES = [name for name in ARCHITECTURES.names() if ARCHITECTURES.get(name).masks]
NETWORKS = [*NAMES, "decoder:resnet18", "decoder:swin_tiny_patch4_window7_224"]
PIXEL_LOSSES = [name for name in LOSSES.names() if "masks" in LOSSES.get(name).outputs]
K, SIDE = 3, 32


@pytest.fixture(autouse=True)
def _quiet_torch():
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)


def discs(n: int, *, side: int = SIDE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures with a bright disc (class 1) and, in every second, a dark square (class 2)."""
    generator = np.random.default_rng(seed)
    images = generator.integers(90, 130, size=(n, side, side, 1), dtype=np.uint8)
    masks = np.zeros((n, side, side), np.uint8)
    yy, xx = np.mgrid[:side, :side]
    for k in range(n):
        x, y = generator.uniform(8, side - 8, 2)
        masks[k][np.hypot(xx - x, yy - y) < 6] = 1
        if k % 2:
            left, top = generator.integers(0, side - 8, 2)
            masks[k, top : top + 7, left : left + 7] = 2
        images[k, masks[k] == 1] = 220
        images[k, masks[k] == 2] = 20
    return images, masks


def test_a_cached_mask_lies_where_its_image_does(tmp_path: Path) -> None:
    from PIL import Image

    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 20:40] = 3
    Image.fromarray(labels).save(tmp_path / "m.png")
    found = cached_mask(tmp_path / "m.png", (40, 60), (10, 0, 50, 40), 20)
    assert set(np.unique(found)) == {0, 3}
    assert np.argwhere(found == 3).min(axis=0).tolist() == [5, 5]
    assert np.argwhere(found == 3).max(axis=0).tolist() == [14, 14]


def test_a_prediction_comes_back_to_the_pixels_it_was_cut_from() -> None:
    inside = np.zeros((20, 20), int)
    inside[5:15, 5:15] = 2
    logits = 8.0 * np.eye(K)[inside].transpose(2, 0, 1).astype(np.float32)
    found = to_source(logits, box=(10, 0, 50, 40), shape=(44, 60))
    assert found.shape == (44, 60) and found.dtype == np.uint8
    expected = np.zeros((44, 60), np.uint8)
    expected[10:30, 20:40] = 2
    assert (found != expected).mean() < 0.02
    assert not found[:, :10].any() and not found[:, 50:].any() and not found[40:].any()


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_masks_move_with_their_images(strength: str) -> None:
    images, masks = discs(8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    changes = {"strength": strength, "flips": "both"}
    moved, labels = augment_with_masks(
        pixels, torch.from_numpy(masks), generator=torch.Generator().manual_seed(1), **changes
    )
    assert labels.dtype == torch.uint8 and set(labels.unique().tolist()) <= {0, 1, 2}
    if strength == "light":  # nothing is erased there
        assert moved[:, 0][labels == 1].median() > 150 > moved[:, 0][labels == 0].median()
    alone = augment(pixels, generator=torch.Generator().manual_seed(1), **changes)
    torch.testing.assert_close(moved, alone, rtol=0, atol=0)


def test_counts_give_the_dice_of_the_scored_masks() -> None:
    generator = np.random.default_rng(0)
    true, said = (generator.integers(0, K, size=(5, 12, 12)) for _ in range(2))
    true[2][true[2] == 2] = 0  # a structure that is not there
    counts = count_pixels(torch.from_numpy(said), torch.from_numpy(true), structures=2).numpy()
    for name in ("dice", "iou", "sensitivity", "specificity"):
        of_cases = [
            np.nanmean(
                [score_mask(true[k] == c, said[k] == c, spacing_mm=(1, 1), tolerance_mm=1).values[name] for c in (1, 2)]
            )
            for k in range(5)
        ]
        assert counted_value(name, counts, pixels=144) == pytest.approx(np.mean(of_cases)), name
        assert METRICS.get(name).greater_is_better


@pytest.mark.parametrize("name", PIXEL_LOSSES)
def test_every_loss_of_masks(name: str) -> None:
    entry, generator = LOSSES.get(name), torch.Generator().manual_seed(0)
    masks = torch.randint(0, K, (4, 8, 8), generator=generator)
    given = torch.randn(4, K, 8, 8, generator=generator, requires_grad=True)

    def build(**numbers: float):
        return entry.build(LossNumbers(outputs="masks", num_classes=K, **numbers))

    loss = build()
    value = loss(given, masks.float())
    value.backward()
    assert value.shape == () and value > 0 and torch.isfinite(given.grad).all() and (given.grad != 0).all()
    parts = torch.stack([loss.cells(given[k : k + 1], masks[k : k + 1]).sum() for k in range(4)]).sum()
    torch.testing.assert_close(parts / loss.weights(masks).sum(), value), "small batches add up to the large one"
    right = torch.nn.functional.one_hot(masks, K).permute(0, 3, 1, 2)
    values = [float(loss(given.detach() + step * right, masks)) for step in (0.0, 1.0, 3.0, 9.0)]
    assert values == sorted(values, reverse=True) and values[-1] < 0.1
    for key in LOSS_KEYS:
        other = float(build(**{key.replace(".", "_"): 0.2})(given.detach(), masks))
        assert (other != pytest.approx(float(value.detach()), abs=0)) is entry.depends_on(key, "masks"), key


def test_tversky_weighs_misses_and_false_positives_apart() -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.long)
    masks[:, 2:6, 2:6] = 1
    small, large = torch.zeros(1, 8, 8, dtype=torch.long), torch.zeros(1, 8, 8, dtype=torch.long)
    small[:, 2:6, 2:4], large[:, 2:6, 2:8] = 1, 1
    miss, wrong = (
        float(LOSSES.get("tversky").build(LossNumbers(outputs="masks", tversky_alpha=0.2))(logits, masks))
        for logits in (20.0 * torch.nn.functional.one_hot(m, 2).permute(0, 3, 1, 2) for m in (small, large))
    )
    # TP 8, FN 8: 1 - 9 / (9 + .8 * 8); TP 16, FP 8: 1 - 17 / (17 + .2 * 8)
    assert miss == pytest.approx(1 - 9 / 15.4, abs=1e-3) and wrong == pytest.approx(1 - 17 / 18.6, abs=1e-3)


@pytest.mark.parametrize("name", PIXEL_LOSSES)
def test_what_is_drawn_of_an_absent_structure_costs(name: str) -> None:
    loss = LOSSES.get(name).build(LossNumbers(outputs="masks"))
    masks = torch.zeros(1, 8, 8, dtype=torch.long)
    masks[:, 2:6, 2:6] = 1
    wrong = masks.clone()
    wrong[:, 0, :4] = 2
    right, false = (
        float(loss(9.0 * torch.nn.functional.one_hot(m, 3).permute(0, 3, 1, 2), masks)) for m in (masks, wrong)
    )
    assert right < 0.02 and false > right + 0.02


@pytest.mark.parametrize("name", NETWORKS)
def test_every_segmentation_network_keeps_the_contract(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(name, num_classes=K, image_size=64, in_channels=1)
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    logits = network.train()(images)
    assert logits.shape == (2, K, 64, 64) and torch.isfinite(logits).all()
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters()), "every parameter takes part"
    stages = parameter_stages(network)
    assert stages[-1][0] == "head" and len(stages) > 1
    assert sorted(id(p) for _, ps in stages for p in ps) == sorted(map(id, network.parameters()))
    save_weights(network.network, tmp_path / "w.safetensors")
    again = build_network(name, num_classes=K, image_size=64, in_channels=1)
    load_checkpoint(again, tmp_path / "w.safetensors", CPU)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(images), network.eval()(images))


def test_a_pretrained_backbone_of_timm_fits_below_a_decoder(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    from archbench.models.weights import load_weights

    bare = timm.create_model("resnet18", pretrained=False, num_classes=7)
    save_file({k: v.contiguous() for k, v in bare.state_dict().items()}, tmp_path / "w.safetensors")
    network = build_network("decoder:resnet18", num_classes=K, image_size=64)
    report = load_weights(network, tmp_path / "w.safetensors", same_head=False)
    assert torch.equal(network.network.backbone.conv1.weight, bare.conv1.weight)
    assert all(name.startswith("head.") for name in report.missing)


def test_the_hub_weights_of_segformer_fit_its_encoder(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from transformers import SegformerConfig, SegformerModel

    from archbench.models.transformers_network import pretrained_tensors
    from archbench.models.weights import load_weights

    bare = SegformerModel(SegformerConfig())
    save_file({k: v.contiguous() for k, v in bare.state_dict().items()}, tmp_path / "model.safetensors")
    tensors = pretrained_tensors(tmp_path / "model.safetensors", SegformerConfig().to_dict())
    save_file(tensors, tmp_path / "fetched.safetensors")
    network = build_network("segformer_b0", num_classes=K, image_size=64)
    report = load_weights(network, tmp_path / "fetched.safetensors", same_head=False)
    assert all(name.startswith("head.") for name in report.missing) and not report.unexpected
    for name, tensor in bare.state_dict().items():
        assert torch.equal(network.network.backbone.state_dict()[name], tensor), name


def training_data(n: int = 24) -> TrainingData:
    images, masks = discs(n)
    present = np.stack([(masks == c).any(axis=(1, 2)) for c in (1, 2)], axis=1).astype(float)
    half = 2 * n // 3
    return TrainingData(
        images=images,
        clahe=None,
        train_rows=np.arange(half),
        train_targets=present[:half],
        val_rows=np.arange(half, n),
        val_targets=present[half:],
        num_classes=K,
        outputs="masks",
        masks=masks,
    )


def recipe(**changes: object) -> Training:
    keys = {"loss": "dice_ce", "epochs": 8, "batch_size": 4, "lr": 5e-3, "augmentation": "light", "flips": "none"}
    keys |= {"early_stopping": {"metric": "dice"}, **changes}
    return Training.model_validate(keys)


def run(folder: Path, **changes: object):
    torch.manual_seed(0)
    network = build_network("unet", num_classes=K, image_size=SIDE, in_channels=1)
    settings = {"settings": recipe(**changes), "seed": 1, "device": CPU, "dtype": torch.float32, "decision": "argmax"}
    result = train(network, training_data(), state_path=folder / "s.pt", identity="x", **settings)
    return network, result


def test_a_network_learns_the_planted_structures(tmp_path: Path) -> None:
    _, result = run(tmp_path)
    assert result.metric == "dice" and result.best_value > 0.7
    assert result.best_value > 2 * result.history[0]["val_dice"] or result.history[0]["val_dice"] > 0.5


@pytest.mark.parametrize("changes", [{"mixup": 0.4}, {"sampler": "balanced"}, {"early_stopping": {"metric": "loss"}}])
def test_other_recipes_train_too(tmp_path: Path, changes: dict[str, object]) -> None:
    _, result = run(tmp_path, **{"epochs": 1, **changes})
    assert np.isfinite(result.history[0]["train_loss"])


def test_an_export_is_compared_by_dice() -> None:
    _, masks = discs(12)
    truth = MaskTruth(masks, np.array([f"p{k // 2}" for k in range(12)]))
    logits = 4.0 * np.eye(K)[masks].transpose(0, 3, 1, 2).astype(np.float32)
    gate = Comparison(METRICS.get("dice"), margin=0.01, resamples=200, seed=0)
    same = compare_masks(truth, logits, logits.copy(), gate)
    assert same["non_inferior"] and same["difference"] == 0 and same["flips"] == 0 and same["value"] == 1
    worse = compare_masks(truth, logits, np.roll(logits, 3, axis=3), gate)
    assert worse["non_inferior"] is False and worse["difference"] < -0.1 and worse["flips"] > 0
    np.testing.assert_allclose(case_dice(masks, masks, structures=2), 1.0)
    broken = logits.copy()
    broken[0, 0, 0, 0] = np.nan
    assert compare_masks(truth, logits, broken, gate)["non_inferior"] is False

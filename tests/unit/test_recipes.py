"""Recipes: how gradients add up, what memory, speed switches and sampling do to a step, other outputs than classes."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import CLASSES, CPU, SIDE, recipe, run, tiny_data, tiny_network
from torch import nn

from archbench.batches import predict_logits
from archbench.models.building import NormalizedNetwork, build_network
from archbench.optimization import epoch_lr
from archbench.sampling import epoch_batches, sampling_weights
from archbench.training_epoch import TrainingData, TrainingError, train_epoch
from archbench.training_setup import checkpoint_gradients, prepare

NAN = float("nan")


@pytest.fixture
def no_denormals() -> Iterator[None]:
    """Networks with random weights are many times slower on denormal numbers."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


def gradients_of(**changes: Any) -> dict[str, torch.Tensor]:
    """The step that one update makes with plain SGD at rate 1: the negative gradient."""
    data = changes.pop("data", None) or tiny_data(n_train=24)
    network = changes.pop("network", None) or batch_free_network()
    settings = recipe(
        optimizer="sgd", momentum=0.0, lr=1.0, weight_decay=0.0, schedule="constant", grad_clip=None,
        augmentation="none", **changes,
    )  # fmt: skip
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    weights = None if data.outputs != "classes" else np.array([0.5, 1.0, 4.0])
    trainer = prepare(network, data, weights, settings=settings, seed=3, device=CPU, dtype=torch.float32)
    train_epoch(trainer, epoch=1, factor=1.0, pass_size=settings.batch_size)
    return {name: p.detach() - before[name] for name, p in network.named_parameters()}


def batch_free_network(n_logits: int = CLASSES) -> NormalizedNetwork:
    """Without batch norm, whose statistics do depend on the size of a pass."""
    torch.manual_seed(0)
    body = nn.Sequential()
    body.add_module("features", nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.GroupNorm(2, 8), nn.ReLU()))
    body.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    body.add_module("head", nn.Linear(8, n_logits))
    return NormalizedNetwork(body, normalization="half", architecture="custom1", image_size=SIDE)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("loss", ["cross_entropy", "weighted_cross_entropy"])
@pytest.mark.parametrize("n_train", [24, 23])
def test_accumulated_passes_make_the_step_of_one_batch(loss: str, n_train: int) -> None:
    data = tiny_data(n_train=n_train)
    whole = gradients_of(data=data, loss=loss, batch_size=24)
    parts = gradients_of(data=data, loss=loss, batch_size=6, accumulation_steps=4)
    assert max(float(step.abs().max()) for step in whole.values()) > 1e-3
    assert_same(whole, parts)


def test_masked_cells_dont_disturb_accumulation() -> None:
    targets = np.random.default_rng(0).integers(0, 2, size=(24, 4)).astype(float)
    targets[np.random.default_rng(1).random((24, 4)) < 0.6] = NAN
    targets[:3] = NAN
    data = replace(tiny_data(n_train=24), train_targets=targets, outputs="labels")

    def step(**changes: Any) -> dict[str, torch.Tensor]:
        return gradients_of(data=data, loss="bce", network=batch_free_network(4), **changes)

    assert_same(step(batch_size=24), step(batch_size=5, accumulation_steps=5))


def test_the_last_partial_update_is_taken(tmp_path: Path) -> None:
    steps: list[int] = []
    network = tiny_network()
    network.register_forward_pre_hook(lambda m, args: steps.append(len(args[0])) if m.training else None)
    data = tiny_data(n_train=41)
    run(tmp_path / "s", network=network, data=data, epochs=1, batch_size=4, accumulation_steps=4)
    assert sum(steps) == 41
    assert max(steps) <= 5 and len(steps) >= 10


def out_of_memory_above(n: int, network: NormalizedNetwork) -> list[int]:
    """Raise what CUDA raises for passes of more than n training images; return the sizes that went through."""
    seen: list[int] = []

    def check(module: nn.Module, args: tuple[torch.Tensor]) -> None:
        if len(args[0]) > n:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if module.training:
            seen.append(len(args[0]))

    network.register_forward_pre_hook(check)
    return seen


def test_out_of_memory_halves_the_pass_and_keeps_the_step(capsys: pytest.CaptureFixture[str]) -> None:
    whole = gradients_of(loss="weighted_cross_entropy", batch_size=24)
    network = batch_free_network()
    seen = out_of_memory_above(7, network)
    assert_same(whole, gradients_of(loss="weighted_cross_entropy", batch_size=24, network=network))
    assert seen == [6, 6, 6, 6]
    err = capsys.readouterr().err
    assert "out of memory: going on with 12 images per pass; an update still takes 24" in err
    assert "going on with 6 images per pass; an update still takes 24" in err


def test_the_size_that_fitted_is_kept_over_epochs_and_resuming(tmp_path: Path) -> None:
    network = tiny_network()
    seen = out_of_memory_above(4, network)
    result = run(tmp_path / "s", network=network, epochs=2, batch_size=8, eval_batch_size=4).result
    assert result.pass_size == 4 and max(seen) <= 4
    again = run(tmp_path / "s", network=tiny_network(), epochs=2, batch_size=8, eval_batch_size=4).result
    assert (again.resumed_from, again.pass_size) == (2, 4)


def test_not_even_one_image_fits(tmp_path: Path) -> None:
    network = tiny_network()
    out_of_memory_above(0, network)
    with pytest.raises(
        TrainingError, match=r"single image per pass: lower image_size, or set .*gradient_checkpointing"
    ):
        run(tmp_path / "s", network=network)


def test_evaluation_shrinks_its_passes_too(capsys: pytest.CaptureFixture[str]) -> None:
    data, network = tiny_data(), tiny_network()
    expected = predict_logits(network, data.images, data.val_rows, batch_size=30, device=CPU)
    out_of_memory_above(8, network)
    got = predict_logits(network, data.images, data.val_rows, batch_size=30, device=CPU)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert "evaluating 8 images per pass" in capsys.readouterr().err


# Memory and speed switches


def loss_gradient(network: NormalizedNetwork) -> dict[str, torch.Tensor]:
    network.train()
    images = torch.randint(
        0, 256, (4, 3, network.image_size, network.image_size), generator=torch.Generator().manual_seed(1)
    )
    network(images.float()).square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("architecture", ["resnet18", "vit_tiny_patch16_224"])
@pytest.mark.usefixtures("no_denormals")
def test_checkpointed_gradients_are_the_same(architecture: str) -> None:
    def build() -> NormalizedNetwork:
        torch.manual_seed(0)
        return build_network(architecture, num_classes=CLASSES, image_size=SIDE)

    plain, checkpointed = build(), build()
    checkpoint_gradients(checkpointed)
    assert_same(loss_gradient(plain), loss_gradient(checkpointed))


def test_a_network_that_cant_be_checkpointed_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"custom1 can't recompute.*gradient_checkpointing: false"):
        run(tmp_path / "s", gradient_checkpointing=True)


def test_channels_last_reaches_weights_and_images(tmp_path: Path) -> None:
    network, layouts = tiny_network(), []
    network.register_forward_pre_hook(
        lambda m, args: layouts.append(args[0].is_contiguous(memory_format=torch.channels_last)) if m.training else None
    )
    result = run(tmp_path / "a", network=network, epochs=2, channels_last=True)
    assert all(layouts)
    assert network.network.features[0].weight.is_contiguous(memory_format=torch.channels_last)
    plain = run(tmp_path / "b", epochs=2)
    assert result.result.history[-1]["train_loss"] == pytest.approx(plain.result.history[-1]["train_loss"], rel=1e-3)


def test_compiling_gives_the_same_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    # Dynamo traces for real; its eager backend spares the minutes that the C++ compiler takes.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    counters.clear()
    data = tiny_data(n_train=16, n_val=8)
    compiled = run(tmp_path / "a", epochs=1, data=data, compile=True, augmentation="none")
    assert counters["stats"]["unique_graphs"] >= 1
    plain = run(tmp_path / "b", epochs=1, data=data, augmentation="none")
    assert compiled.result.history[0]["train_loss"] == pytest.approx(plain.result.history[0]["train_loss"], rel=1e-4)


# Sampler


def test_balanced_sampling_draws_rare_classes_as_often() -> None:
    targets = np.array([0.0] * 90 + [1.0] * 9 + [2.0])[:, None]
    weights = sampling_weights(targets, outputs="classes", num_classes=3)
    epochs = [epoch_batches(100, 8, generator=np.random.default_rng(seed), weights=weights) for seed in range(60)]
    drawn = np.concatenate([batch for epoch in epochs for batch in epoch])
    shares = np.bincount(targets[drawn, 0].astype(int), minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)


def test_balanced_sampling_of_labels_and_zones() -> None:
    labels = np.array([[1, 0, 0]] * 8 + [[1, 1, 0]] * 2 + [[0, 0, NAN]] * 4)
    weights = sampling_weights(labels, outputs="labels", num_classes=3)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights[[0, 8, 10]] / weights[0], [1, 5, 2.5])
    zones = np.array([[0.0, 4.0]] * 9 + [[3.0, 0.0]])
    weights = sampling_weights(zones, outputs="zones", num_classes=5)
    np.testing.assert_allclose(weights[9] / weights[0], 10)


def test_the_sampler_is_used(tmp_path: Path) -> None:
    def seen(sampler: str) -> float:
        network, brightness = tiny_network(), []
        network.register_forward_pre_hook(
            lambda m, args: brightness.append(float(args[0].mean())) if m.training else None
        )
        run(tmp_path / sampler, network=network, epochs=3, sampler=sampler, augmentation="none")
        return float(np.mean(brightness))

    assert seen("balanced") > seen("uniform") + 5, "the rare class is the bright one"


# Other outputs


def labelled_data(n: int = 40) -> TrainingData:
    """Two labels from brightness, a third of the cells unknown."""
    data = tiny_data(n_train=n, n_val=30)
    means = data.images.reshape(len(data.images), -1).mean(axis=1)
    targets = np.stack([means > np.median(means), means > np.quantile(means, 0.7), means < np.median(means)], axis=1)
    targets = targets.astype(float)
    targets[np.random.default_rng(2).random(targets.shape) < 0.3] = NAN
    return replace(data, train_targets=targets[:n], val_targets=targets[n:], outputs="labels")


def test_labels_are_learned_through_their_masks(tmp_path: Path) -> None:
    result = run(
        tmp_path / "s", data=labelled_data(), epochs=15, lr=0.03, loss="weighted_bce", early_stopping={"metric": "loss"}
    ).result
    assert result.best_value < 0.8 * result.history[0]["val_loss"]
    assert len(result.class_weights) == 3 and all(weight > 0 for weight in result.class_weights)
    assert all(math.isfinite(row["train_loss"]) and math.isfinite(row["val_loss"]) for row in result.history)


def test_values_start_at_their_mean_and_are_learned(tmp_path: Path) -> None:
    data = tiny_data()
    means = data.images.reshape(len(data.images), -1).mean(axis=1)[:, None] / 10
    data = replace(data, train_targets=means[:41], val_targets=means[41:], outputs="value", num_classes=1)
    network = batch_free_network(1)
    losses: list[float] = []
    result = run(
        tmp_path / "s", network=network, data=data, epochs=15, lr=0.03, loss="mse", early_stopping={"metric": "loss"},
        on_epoch=lambda history: losses.append(history[-1]["val_loss"]),
    ).result  # fmt: skip
    assert losses[0] < 2 * float(means.var()), "not from zero, where it would be the squared mean"
    assert result.best_value < 0.5 * float(means[41:].var())


def test_a_fixed_number_of_epochs_without_validation(tmp_path: Path) -> None:
    snapshots: list[dict[str, torch.Tensor]] = []
    network, data = tiny_network(), tiny_data()
    data = replace(data, val_rows=data.val_rows[:0], val_targets=data.val_targets[:0])

    def keep(_: Any) -> None:
        snapshots.append({k: v.clone() for k, v in network.state_dict().items()})

    result = run(tmp_path / "s", network=network, data=data, epochs=9, fixed_epochs=3, on_epoch=keep).result
    assert (result.best_epoch, result.best_value, len(result.history)) == (3, None, 3)
    assert [row["val_loss"] for row in result.history] == [None] * 3
    assert all(torch.equal(network.state_dict()[name], snapshots[-1][name]) for name in snapshots[-1])
    assert result.history[-1]["lr"] == pytest.approx(epoch_lr(3, recipe(epochs=9)))


def test_a_plateau_holds_its_rate_where_nothing_is_validated(tmp_path: Path) -> None:
    changes = {"schedule": "plateau", "step_epochs": 1, "epochs": 9, "fixed_epochs": 4}
    history = run(tmp_path / "s", **changes).result.history
    assert len({row["lr"] for row in history}) == 1 and len(history) == 4

"""Learning rates by epoch and layer, weight decay, clipping and steps, against hand-computed values and torch."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import recipe, run, staged_network, tiny_network
from torch import nn

from archbench.models.building import parameter_stages
from archbench.optimization import build_optimizer, clip_gradients, epoch_lr, set_lr


@pytest.mark.parametrize(("factor", "epochs_without_gain", "floor"), [(0.5, 3, 0.0), (0.1, 1, 0.02), (0.3, 2, 0.2)])
def test_the_plateau_is_torchs(tmp_path: Path, factor: float, epochs_without_gain: int, floor: float) -> None:
    """Its scheduler, fed with the same validation values, gives the same rates; its patience tolerates one less."""
    history = run(
        tmp_path / "s", epochs=14, lr=0.3, schedule="plateau", step_epochs=epochs_without_gain, step_factor=factor,
        min_lr_ratio=floor, optimizer="sgd", augmentation="strong",
    ).result.history  # fmt: skip
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3), mode="max", factor=factor,
        patience=epochs_without_gain - 1, threshold=0.0, threshold_mode="abs", min_lr=floor * 0.3, eps=0.0,
    )  # fmt: skip
    expected = []
    for row in history:
        expected.append(theirs.get_last_lr()[0])
        theirs.step(row["val_qwk"])
    assert [row["lr"] for row in history] == pytest.approx(expected)
    assert len(set(expected)) > 2


def test_cosine_by_hand() -> None:
    settings = recipe(lr=1.0, epochs=10, schedule="cosine", min_lr_ratio=0.01)
    assert epoch_lr(0, settings) == pytest.approx(1.0)
    assert epoch_lr(5, settings) == pytest.approx(0.01 + 0.99 / 2)
    assert epoch_lr(2.5, settings) == pytest.approx(0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2)
    assert epoch_lr(10, settings) == pytest.approx(0.01)


def test_warmup_by_hand() -> None:
    settings = recipe(lr=1.0, epochs=12, warmup_epochs=2, min_lr_ratio=0.0)
    rates = [epoch_lr(epoch, settings) for epoch in (0.5, 1, 1.5, 2, 7, 12)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.5, 0.0])


def test_step_by_hand() -> None:
    settings = recipe(lr=1.0, epochs=30, schedule="step", step_epochs=10, step_factor=0.1)
    assert [epoch_lr(e, settings) for e in (0.5, 10, 10.5, 20, 20.5, 30)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_plateau_and_constant_by_hand() -> None:
    settings = recipe(lr=1.0, schedule="plateau", min_lr_ratio=0.05)
    assert [epoch_lr(3, settings, factor=f) for f in (1.0, 0.1, 0.01)] == pytest.approx([1.0, 0.1, 0.05])
    assert {epoch_lr(e, recipe(lr=0.3, schedule="constant")) for e in (0.1, 2, 4)} == {0.3}


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_biases_and_norms_dont_decay(optimizer: str) -> None:
    network = tiny_network()
    built = build_optimizer(parameter_stages(network), recipe(optimizer=optimizer, weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in built.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert decay[id(parameter)] == (0.1 if parameter.ndim > 1 else 0.0), name
    assert len(decay) == len(list(network.parameters()))
    assert {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}[optimizer] == type(built).__name__


def test_gradients_are_clipped(tmp_path: Path) -> None:
    settings = {
        "optimizer": "sgd", "momentum": 0.0, "lr": 1.0, "weight_decay": 0.0, "schedule": "constant", "epochs": 1,
        "batch_size": 64,
    }  # fmt: skip
    start = dict(tiny_network().named_parameters())

    def step(name: str, clip: float | None) -> float:
        after = run(tmp_path / name, grad_clip=clip, **settings).network
        moved = [(parameter - start[key]).detach().pow(2).sum() for key, parameter in after.named_parameters()]
        return float(torch.stack(moved).sum().sqrt())

    assert step("clipped", 0.01) == pytest.approx(0.01, rel=1e-3)
    assert step("free", None) > 0.05


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("scaling", [True, False])
@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clipping_is_torchs(limit: float, scaling: bool, fused: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (), (2, 2))]
    theirs = [nn.Parameter(torch.zeros_like(parameter)) for parameter in ours]
    one, other = torch.optim.SGD(ours, lr=1.0, fused=fused), torch.optim.SGD(theirs, lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=scaling)
    for _ in range(2):  # a second step keeps nothing of the first
        for mine, twin in zip(ours[:-1], theirs[:-1], strict=True):  # the last one rests: it has no gradient
            twin.grad = torch.randn(mine.shape, generator=generator)
            mine.grad = twin.grad * scaler.get_scale()
        scaler.scale(torch.zeros(()))  # where a scaler makes its number
        scaler.unscale_(one)
        clip_gradients(one, scaler, limit)
        scaler.step(one)
        scaler.update()
        nn.utils.clip_grad_norm_(theirs, limit)
        other.step()
    for mine, twin in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, twin)
    assert ours[-1].grad is None and not ours[-1].any()
    nothing = torch.optim.SGD(ours[-1:], lr=1.0)
    clip_gradients(nothing, scaler, limit)  # nothing trains: nothing to clip


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_the_fused_step_on_a_cpu_is_the_plain_one(optimizer: str) -> None:
    network = tiny_network()
    fused = build_optimizer(parameter_stages(network), recipe(optimizer=optimizer, weight_decay=0.1, layer_decay=0.5))
    assert fused.defaults["fused"] is True
    other = copy.deepcopy(network)
    twins = dict(zip(map(id, network.parameters()), other.parameters(), strict=True))
    groups = [{**group, "params": [twins[id(p)] for p in group["params"]]} for group in fused.param_groups]
    plain = type(fused)([{**group, "fused": False, "foreach": False} for group in groups], lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for one, twin in zip(network.parameters(), other.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            twin.grad = one.grad.clone()
        fused.step()
        plain.step()
    for one, twin in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, twin)


def test_layer_decay_slows_the_early_stages() -> None:
    network = staged_network()
    stages = parameter_stages(network)
    optimizer = build_optimizer(stages, recipe(layer_decay=0.5, weight_decay=0.1))
    set_lr(optimizer, 0.8)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for depth, (_, parameters) in enumerate(reversed(stages)):
        for parameter in parameters:
            assert rates[id(parameter)] == pytest.approx((0.8 * 0.5**depth, 0.1 if parameter.ndim > 1 else 0.0))
    assert len(rates) == len(list(network.parameters()))


def test_layer_decay_arrives_in_the_step(tmp_path: Path) -> None:
    def first_stage_move(name: str, decay: float) -> float:
        network = tiny_network()
        before = network.network.features[0].weight.detach().clone()
        run(tmp_path / name, network=network, epochs=1, optimizer="sgd", momentum=0.0, layer_decay=decay, lr=1e-3)
        return float((network.network.features[0].weight.detach() - before).norm())

    assert first_stage_move("decayed", 0.01) < 0.1 * first_stage_move("plain", 1.0)


def test_one_cycle_is_torchs() -> None:
    total = 2001
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=total, pct_start=0.1)
    settings, rates = recipe(lr=0.3, epochs=20, schedule="one_cycle"), []
    for _ in range(total):
        rates.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step() if len(rates) < total else None
    ours = [epoch_lr(20 * k / (total - 1), settings) for k in range(total)]
    np.testing.assert_allclose(ours, rates, atol=0.3 * 0.01)
    assert max(ours) == pytest.approx(0.3) and ours[-1] == pytest.approx(0.3 / 25e4)


@pytest.mark.parametrize("schedule", ["cosine", "step", "plateau", "one_cycle", "constant"])
def test_warmup_stands_in_front_of_any_schedule(schedule: str) -> None:
    settings = recipe(lr=1.0, epochs=12, schedule=schedule, warmup_epochs=2, step_epochs=5)
    assert [epoch_lr(epoch, settings) for epoch in (0.5, 1, 2)] == pytest.approx([0.25, 0.5, 1.0])
    later, plain = settings, recipe(lr=1.0, epochs=10, schedule=schedule, step_epochs=5)
    for epoch in (3, 6.5, 12):
        assert epoch_lr(epoch, later) == pytest.approx(epoch_lr(epoch - 2, plain))

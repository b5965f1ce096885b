"""Training: the best epoch is kept and used, interruptions change nothing, settings do what they say."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from archbench.artifacts import softmax
from archbench.batches import predict_logits
from archbench.losses.loss import balanced_class_weights
from archbench.models.building import NormalizedNetwork, parameter_stages
from archbench.optimization import average_share, build_optimizer, clip_gradients, epoch_lr
from archbench.registry import METRICS
from archbench.sampling import epoch_batches
from archbench.settings import Training
from archbench.training import TrainingResult, history_csv, train
from archbench.training_epoch import TrainingData, TrainingError

SIDE, CLASSES = 32, 3
CPU = torch.device("cpu")
Weights = dict[str, torch.Tensor]


class Interrupted(Exception):
    """Stands for a kill right after an epoch."""


def recipe(**changes: Any) -> Training:
    stopping = {"metric": "qwk", "patience": 20, **changes.pop("early_stopping", {})}
    settings = {
        "loss": "weighted_cross_entropy",
        "lr": 0.01,
        "epochs": 4,
        "batch_size": 8,
        "average_epochs": 0,
        **changes,
    }
    return Training.model_validate({**settings, "early_stopping": stopping})


def tiny_network(*, dropout: float = 0.0, seed: int = 0) -> NormalizedNetwork:
    """A network of a few hundred parameters with batch norm, dropout and a head named as in custom1."""
    torch.manual_seed(seed)
    body = nn.Sequential()
    body.add_module("features", nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU()))
    body.add_module("pool", nn.AdaptiveAvgPool2d(1))
    body.add_module("flatten", nn.Flatten())
    body.add_module("dropout", nn.Dropout(dropout))
    body.add_module("head", nn.Linear(8, CLASSES))
    return NormalizedNetwork(body, normalization="half", architecture="custom1", image_size=SIDE)


def tiny_data(*, n_train: int = 41, n_val: int = 30, clahe: bool = False) -> TrainingData:
    """Noise whose brightness tells the class, not without overlap."""
    generator = np.random.default_rng(0)
    targets = generator.choice(CLASSES, size=n_train + n_val, p=[0.6, 0.3, 0.1])
    targets[:3] = targets[n_train : n_train + 3] = [0, 1, 2]
    means = 90 + 35 * targets + generator.normal(0, 15, size=len(targets))
    pixels = generator.normal(means[:, None, None, None], 40, size=(len(targets), SIDE, SIDE, 3))
    images = pixels.clip(0, 255).astype(np.uint8)
    return TrainingData(
        images=images,
        clahe=255 - images if clahe else None,
        train_rows=np.arange(n_train),
        train_targets=targets[:n_train, None].astype(float),
        val_rows=np.arange(n_train, n_train + n_val),
        val_targets=targets[n_train:, None].astype(float),
        num_classes=CLASSES,
    )


@dataclass
class Run:
    network: NormalizedNetwork
    result: TrainingResult

    @property
    def weights(self) -> Weights:
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    @property
    def figures(self) -> list[tuple[Any, ...]]:
        """The history without clock times."""
        return [(r["epoch"], r["train_loss"], r["val_loss"], r["lr"]) for r in self.result.history]


def run(state: Path, *, seed: int = 7, network: NormalizedNetwork | None = None, **changes: Any) -> Run:
    """Train the tiny network; what `train` itself takes stands beside changes of the recipe."""
    own = {key: changes.pop(key) for key in ("identity", "on_epoch", "data", "fixed_epochs") if key in changes}
    settings = recipe(**changes)
    network = network or tiny_network(dropout=settings.dropout)
    data = own.pop("data", None) or tiny_data()
    call = {
        "settings": settings,
        "seed": seed,
        "device": CPU,
        "dtype": torch.float32,
        "decision": "argmax",
        "state_path": state,
    }
    return Run(network, train(network, data, **{**call, "decision": "argmax", "identity": "a", **own}))


def equal(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def stop_after(epoch: int) -> Callable[[list[Any]], None]:
    def on_epoch(history: list[Any]) -> None:
        if len(history) == epoch:
            raise Interrupted

    return on_epoch


def test_it_learns(tmp_path: Path) -> None:
    assert run(tmp_path / "state", epochs=12, lr=0.03).result.best_value > 0.5


def test_the_best_epoch_is_kept_and_used_not_the_last(tmp_path: Path) -> None:
    """Fault of S0: the last epoch's weights were evaluated."""
    network, data, seen = tiny_network(), tiny_data(), []

    def spoil_after_two(history: list[Any]) -> None:
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        if len(history) == 2:
            with torch.no_grad():
                network.network.head.weight.mul_(-1)
                network.network.head.bias.mul_(-1)

    result = run(
        tmp_path / "state", network=network, data=data, epochs=5, lr=0.01, schedule="step", step_epochs=2,
        step_factor=1e-6, on_epoch=spoil_after_two,
    ).result  # fmt: skip
    assert result.best_epoch == 2 and len(result.history) == 5
    returned = network.state_dict()
    assert equal(returned, seen[1])
    assert not equal(returned, seen[-1])
    logits = predict_logits(network, data.images, data.val_rows, batch_size=7, device=CPU)
    assert METRICS.get("qwk").value(softmax(logits), data.val_targets[:, 0].astype(int)) == pytest.approx(
        result.best_value
    )
    assert result.best_value == max(row["val_qwk"] for row in result.history)
    assert result.history[-1]["val_qwk"] < result.best_value


def test_validation_loss_can_choose_the_epoch(tmp_path: Path) -> None:
    result = run(tmp_path / "state", epochs=6, lr=0.05, early_stopping={"metric": "loss"}).result
    losses = [row["val_loss"] for row in result.history]
    assert (result.best_epoch, result.best_value) == (1 + int(np.argmin(losses)), min(losses))


@pytest.mark.parametrize(
    "changes",
    [
        {"augmentation": "strong", "dropout": 0.3},
        {"freeze_epochs": 3, "optimizer": "adam"},
        {"schedule": "plateau", "step_epochs": 1, "lr": 0.3, "optimizer": "sgd"},
        {"warmup_epochs": 2, "data": tiny_data(clahe=True), "clahe_probability": 0.5},
    ],
    ids=["strong augmentation", "frozen", "plateau", "warm-up and CLAHE"],
)
@pytest.mark.parametrize("epoch", [2, 4])
def test_resuming_ends_with_the_weights_of_an_undisturbed_training(
    tmp_path: Path, changes: dict[str, Any], epoch: int
) -> None:
    whole = run(tmp_path / "whole", epochs=5, **changes)
    with pytest.raises(Interrupted):
        run(tmp_path / "state", epochs=5, on_epoch=stop_after(epoch), **changes)
    torch.manual_seed(99)  # another process has other random numbers
    resumed = run(
        tmp_path / "state", epochs=5, network=tiny_network(dropout=changes.get("dropout", 0), seed=1), **changes
    )
    assert resumed.result.resumed_from == epoch
    assert equal(resumed.weights, whole.weights)
    assert resumed.figures == whole.figures
    assert resumed.result.best_epoch == whole.result.best_epoch


def test_a_finished_state_gives_the_same_network_again(tmp_path: Path) -> None:
    first = run(tmp_path / "state")
    again = run(tmp_path / "state", network=tiny_network(seed=5))
    assert again.result.resumed_from == 4
    assert equal(first.weights, again.weights)


def test_the_plateau_case_above_does_lower_the_rate(tmp_path: Path) -> None:
    rates = [
        row["lr"] for row in run(tmp_path / "s", epochs=5, schedule="plateau", step_epochs=1, lr=0.3).result.history
    ]
    assert min(rates) < max(rates)


@pytest.mark.parametrize("spoil", ["identity", "torn"])
def test_a_state_of_something_else_is_not_used(tmp_path: Path, spoil: str, capsys: pytest.CaptureFixture[str]) -> None:
    fresh, state = run(tmp_path / "fresh"), tmp_path / "state"
    with pytest.raises(Interrupted):
        run(state, seed=8, on_epoch=stop_after(2), identity="other" if spoil == "identity" else "a")
    if spoil == "torn":
        state.write_bytes(state.read_bytes()[:200])
    again = run(state)
    assert again.result.resumed_from == 0
    assert equal(again.weights, fresh.weights)
    assert "starting over" in capsys.readouterr().err


def test_patience_ends_the_training(tmp_path: Path) -> None:
    result = run(tmp_path / "state", epochs=20, lr=1e-9, weight_decay=0.0, early_stopping={"patience": 3}).result
    assert result.stopped_early
    assert len(result.history) == result.best_epoch + 3


def test_a_gain_below_min_delta_is_none(tmp_path: Path) -> None:
    stopping = {"patience": 2, "min_delta": 3.0}  # kappa spans 2
    result = run(tmp_path / "state", epochs=20, early_stopping=stopping).result
    assert (result.best_epoch, len(result.history)) == (1, 3)


@pytest.mark.parametrize(
    "stopping",
    [
        {"metric": "qwk", "patience": 3},
        {"metric": "qwk", "mode": "max", "patience": 4, "min_delta": 0.1},
        {"metric": "loss", "mode": "min", "patience": 2, "min_delta": 0.02},
        {"metric": "macro_mae", "patience": 3},
    ],
    ids=lambda stopping: f"{stopping['metric']}-{stopping.get('min_delta', 0)}",
)
def test_the_kept_epoch_and_the_end_follow_from_the_history(tmp_path: Path, stopping: dict[str, Any]) -> None:
    """An independent reading of the history: first epoch that nobody beat by more than min_delta, then patience."""
    network, data = tiny_network(), tiny_data()
    snapshots: list[Weights] = []

    def keep(_: Any) -> None:
        snapshots.append({name: tensor.clone() for name, tensor in network.state_dict().items()})

    changes = {"epochs": 25, "lr": 0.05, "schedule": "constant", "augmentation": "strong", "on_epoch": keep}
    result = run(tmp_path / "s", network=network, data=data, early_stopping=stopping, **changes).result
    sign = -1 if stopping["metric"] in ("loss", "macro_mae") else 1
    values = [sign * row[f"val_{stopping['metric']}"] for row in result.history]
    best, end = 0, len(values)
    for epoch, value in enumerate(values):
        if epoch and value - values[best] > stopping.get("min_delta", 0.0):
            best = epoch
        if epoch - best == stopping["patience"]:
            end = epoch + 1
            break
    assert (result.best_epoch, len(values)) == (best + 1, end)
    assert result.stopped_early is (end < 25)
    assert equal(network.state_dict(), snapshots[best])


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


def test_a_loss_that_is_not_finite_names_the_remedy(tmp_path: Path) -> None:
    network = tiny_network()
    with torch.no_grad():
        network.network.head.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"training loss is nan in epoch 1: lower training\.lr \(now 0\.01\)"):
        run(tmp_path / "state", network=network)
    assert not (tmp_path / "state").exists()


def test_divergence_in_the_last_step_names_the_remedy_too(tmp_path: Path) -> None:
    data = tiny_data(n_train=8)
    with pytest.raises(FloatingPointError, match=r"predictions are not finite.*lower training\.lr"):
        run(tmp_path / "state", data=data, lr=1e38, optimizer="sgd", grad_clip=None, epochs=1, schedule="constant")


def test_a_metric_that_is_never_defined_names_the_remedy(tmp_path: Path) -> None:
    data = tiny_data()
    data = replace(data, val_targets=np.zeros_like(data.val_targets))
    with pytest.raises(TrainingError, match=r"undefined in all 2 epochs.*enlarge protocol\.validation_fraction"):
        run(tmp_path / "state", data=data, epochs=2, early_stopping={"metric": "auroc_macro"})


def test_class_weights_come_from_the_training_part_alone(tmp_path: Path) -> None:
    data = tiny_data()
    result = run(tmp_path / "state", data=data, epochs=1).result
    expected = balanced_class_weights(data.train_targets[:, 0].astype(int), num_classes=CLASSES)
    np.testing.assert_allclose(result.class_weights, expected)
    everyone = np.concatenate([data.train_targets, data.val_targets])[:, 0].astype(int)
    assert not np.allclose(result.class_weights, balanced_class_weights(everyone, num_classes=CLASSES))
    assert run(tmp_path / "plain", data=data, epochs=1, loss="cross_entropy").result.class_weights is None


@pytest.mark.parametrize("batch_size", [2, 3, 8, 16])
@pytest.mark.parametrize("n", [2, 3, 5, 9, 16, 17, 33, 41])
def test_batches_cover_all_and_leave_none_alone(n: int, batch_size: int) -> None:
    batches = epoch_batches(n, batch_size, generator=np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert min(len(batch) for batch in batches) >= 2, "batch norm can't do with a single image"
    assert max(len(batch) for batch in batches) <= max(batch_size, 3)


def test_batches_are_shuffled_and_repeatable() -> None:
    orders = [np.concatenate(epoch_batches(40, 8, generator=np.random.default_rng(s))).tolist() for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


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


def test_a_frozen_backbone_is_left_alone_with_its_statistics(tmp_path: Path) -> None:
    before = tiny_network().state_dict()
    run_after = run(tmp_path / "state", epochs=4, freeze_epochs=3, on_epoch=None)
    assert len(run_after.result.history) == 4
    network, snapshots = tiny_network(), []
    run(
        tmp_path / "watched", network=network, epochs=4, freeze_epochs=3,
        on_epoch=lambda _: snapshots.append({k: v.clone() for k, v in network.state_dict().items()}),
    )  # fmt: skip
    for snapshot in snapshots[:3]:
        for name, tensor in snapshot.items():
            assert torch.equal(tensor, before[name]) is ("head" not in name), name
    changed = {name for name, tensor in snapshots[3].items() if not torch.equal(tensor, before[name])}
    assert {"network.features.0.weight", "network.features.1.running_mean", "network.head.weight"} <= changed


def test_patience_doesnt_count_frozen_epochs(tmp_path: Path) -> None:
    settings = {"epochs": 9, "freeze_epochs": 4, "lr": 1e-9, "early_stopping": {"patience": 2}}
    assert len(run(tmp_path / "state", **settings).result.history) >= 6


def inputs_seen(network: NormalizedNetwork) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Pixels that the network gets in training and in evaluation."""
    training, evaluation = [], []
    network.register_forward_pre_hook(lambda m, args: (training if m.training else evaluation).append(args[0].float()))
    return training, evaluation


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.7, 0.6, 0.8), (1.0, 1, 1)])
def test_clahe_is_drawn_for_training_alone(tmp_path: Path, probability: float, low: float, high: float) -> None:
    data = tiny_data(n_train=300)
    data = replace(data, images=np.zeros_like(data.images), clahe=np.full_like(data.images, 200))
    network = tiny_network()
    training, evaluation = inputs_seen(network)
    run(
        tmp_path / "state", network=network, data=data, clahe_probability=probability, augmentation="none", epochs=1,
        loss="cross_entropy", early_stopping={"metric": "loss"},
    )  # fmt: skip
    assert low <= float((torch.cat(training).flatten(1).amax(1) == 200).float().mean()) <= high
    assert float(torch.cat(evaluation).max()) == 0


def test_validation_images_are_not_augmented(tmp_path: Path) -> None:
    network, data = tiny_network(), tiny_data()
    training, evaluation = inputs_seen(network)
    run(tmp_path / "state", network=network, data=data, augmentation="strong", epochs=1)
    expected = torch.from_numpy(data.images[data.val_rows]).permute(0, 3, 1, 2).float()
    assert torch.equal(torch.cat(evaluation), expected)
    assert sum(len(batch) for batch in training) == len(data.train_rows)


def test_epochs_see_other_augmentations(tmp_path: Path) -> None:
    network, data = tiny_network(), tiny_data(n_train=8)
    training, _ = inputs_seen(network)
    run(tmp_path / "state", network=network, data=data, epochs=2)
    means = [sorted(batch.mean(dim=(1, 2, 3)).tolist()) for batch in training]
    assert means[0] != means[1]


def test_same_seed_same_weights_other_seed_others(tmp_path: Path) -> None:
    one, same, other = (run(tmp_path / f"{k}", seed=seed, dropout=0.2) for k, seed in enumerate((1, 1, 2)))
    assert equal(one.weights, same.weights)
    assert not equal(one.weights, other.weights)


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


def test_history_is_plain_csv_with_empty_for_undefined(tmp_path: Path) -> None:
    text = history_csv(run(tmp_path / "state", epochs=2).result.history)
    header, *rows = text.splitlines()
    assert header == "epoch,train_loss,val_loss,val_qwk,lr,images_per_s,seconds"
    assert [row.split(",")[0] for row in rows] == ["1", "2"]
    assert history_csv([{"epoch": 1, "val_qwk": None}]) == "epoch,val_qwk\n1,\n"


def test_each_epoch_tells_how_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "state", epochs=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    for word in ("epoch 1/2", "loss", "val_qwk", "lr", "images/s", "remaining 0:"):
        assert word in lines[0]


def test_bf16_trains_too(tmp_path: Path) -> None:
    call = {
        "settings": recipe(epochs=2),
        "seed": 1,
        "device": CPU,
        "state_path": tmp_path / "s",
        "identity": "a",
        "decision": "argmax",
    }
    result = train(tiny_network(), tiny_data(), dtype=torch.bfloat16, **call)
    assert all(math.isfinite(row["train_loss"]) for row in result.history)


def test_the_average_of_the_weights_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    plain = run(tmp_path / "a", epochs=1, average_epochs=0)
    averaged = run(tmp_path / "b", epochs=1, average_epochs=1)
    assert plain.result.history[0]["train_loss"] == averaged.result.history[0]["train_loss"]
    assert plain.result.history[0]["val_loss"] != averaged.result.history[0]["val_loss"]
    # Within the first horizon it is the plain mean of all steps.
    assert [average_share(step, 4.0) for step in range(6)] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 4, 1 / 4]


def test_an_interrupted_average_goes_on(tmp_path: Path) -> None:
    def interrupt(history: list[Any]) -> None:
        if len(history) == 2:
            raise Interrupted

    whole = run(tmp_path / "whole", average_epochs=1.0)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", average_epochs=1.0, on_epoch=interrupt)
    rest = run(tmp_path / "cut", average_epochs=1.0)
    assert all(torch.equal(a, b) for a, b in zip(whole.weights.values(), rest.weights.values(), strict=True))

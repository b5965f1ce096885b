"""Training: it learns, the best epoch is kept and used, it ends when it should, its settings do what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import CPU, Weights, equal, recipe, run, tiny_data, tiny_network

from archbench.artifacts import softmax
from archbench.batches import predict_logits
from archbench.optimization import average_share
from archbench.registry import METRICS
from archbench.training import history_csv, train
from archbench.training_epoch import TrainingError


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


def test_same_seed_same_weights_other_seed_others(tmp_path: Path) -> None:
    one, same, other = (run(tmp_path / f"{k}", seed=seed, dropout=0.2) for k, seed in enumerate((1, 1, 2)))
    assert equal(one.weights, same.weights)
    assert not equal(one.weights, other.weights)


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

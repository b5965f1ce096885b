"""Interrupted trainings end with the weights of an undisturbed one, or start anew where the state is not theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import Interrupted, equal, run, stop_after, tiny_data, tiny_network


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


def test_an_interrupted_average_goes_on(tmp_path: Path) -> None:
    def interrupt(history: list[Any]) -> None:
        if len(history) == 2:
            raise Interrupted

    whole = run(tmp_path / "whole", average_epochs=1.0)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", average_epochs=1.0, on_epoch=interrupt)
    rest = run(tmp_path / "cut", average_epochs=1.0)
    assert all(torch.equal(a, b) for a, b in zip(whole.weights.values(), rest.weights.values(), strict=True))

"""Which parts of a network train in which epoch: a frozen backbone, stages that open one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_training import recipe, run, staged_network, tiny_data, tiny_network

from archbench.freezing import open_stages, set_trainable
from archbench.models.building import NormalizedNetwork, parameter_stages


def moved_stages(tmp_path: Path, network: NormalizedNetwork, **changes: Any) -> list[list[str]]:
    """Which stages' parameters or statistics move in each epoch."""
    stages = [(name, [id(p) for p in parameters]) for name, parameters in parameter_stages(network)]
    names = {id(p): name for name, p in network.named_parameters()}
    last = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    moved: list[list[str]] = []

    def watch(_: Any) -> None:
        now = network.state_dict()
        changed = {name for name in now if not torch.equal(now[name], last[name])}
        owners = {names[i].rpartition(".")[0]: stage for stage, ids in stages for i in ids}
        moved.append([s for s, _ in stages if s in {owners[name.rpartition(".")[0]] for name in changed}])
        last.update({name: tensor.clone() for name, tensor in now.items()})

    run(
        tmp_path / "s",
        network=network,
        data=tiny_data(n_train=8, n_val=6),
        on_epoch=watch,
        augmentation="none",
        lr=0.01,
        **changes,
    )
    return moved


def test_progressive_unfreezing_opens_one_stage_after_the_other(tmp_path: Path) -> None:
    """Fault of S2: it was a no-op; here each epoch's moving parameters and statistics are looked at."""
    network = staged_network()
    names = [name for name, _ in parameter_stages(network)]
    moved = moved_stages(tmp_path, network, epochs=8, freeze_epochs=2, unfreeze="progressive", unfreeze_every=2)
    assert moved == [names[-1:], names[-1:], *[names[-k:] for k in (2, 2, 3, 3, 4, 4)]]


def test_unfreezing_all_at_once(tmp_path: Path) -> None:
    network = staged_network()
    names = [name for name, _ in parameter_stages(network)]
    assert moved_stages(tmp_path, network, epochs=3, freeze_epochs=2) == [names[-1:], names[-1:], names]


def test_a_frozen_backbone_stays_frozen_for_good(tmp_path: Path) -> None:
    """Fault of S1: frozen bases were left in training mode, so that their statistics moved."""
    network = staged_network()
    names = [name for name, _ in parameter_stages(network)]
    assert moved_stages(tmp_path, network, epochs=3, freeze="backbone") == [names[-1:]] * 3


def test_stages_open_by_the_calendar() -> None:
    settings = recipe(epochs=9, freeze_epochs=2, unfreeze="progressive", unfreeze_every=3)
    assert [open_stages(epoch, 4, settings) for epoch in range(1, 10)] == [1, 1, 2, 2, 2, 3, 3, 3, 4]
    assert open_stages(99, 4, settings) == 4


def test_norms_at_rest_and_dropout_of_the_head_on() -> None:
    network = tiny_network(dropout=0.5)
    set_trainable(network, parameter_stages(network), n_open=1)
    assert not network.network.features[1].training and network.network.dropout.training
    set_trainable(network, parameter_stages(network), n_open=len(parameter_stages(network)))
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad for p in network.parameters())

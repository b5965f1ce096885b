"""What a training sees of its images: batches, CLAHE and augmentation, of the training part alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import CLASSES, run, tiny_data, tiny_network

from archbench.losses.loss import balanced_class_weights
from archbench.models.building import NormalizedNetwork
from archbench.sampling import epoch_batches


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

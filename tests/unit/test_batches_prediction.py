"""Prediction: each fold's own weights on its own validation and test cases, whatever the batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_cases import CLASSES, FOLDS, SIDE, make_cases

from archbench.batches import predict_logits, to_batch
from archbench.cases import Cases
from archbench.checkpoints import Checkpoint
from archbench.models.building import NormalizedNetwork, build_network
from archbench.models.weights import WeightsError, load_checkpoint, save_weights
from archbench.prediction import join_predictions, predict_folds

CPU = torch.device("cpu")


def network(seed: int = 0, num_classes: int = len(CLASSES)) -> NormalizedNetwork:
    torch.manual_seed(seed)
    return build_network("custom1", num_classes=num_classes, image_size=SIDE, dropout=0.5)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return make_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    folder, found = tmp_path_factory.mktemp("weights"), []
    for fold in range(FOLDS):
        path = folder / f"{fold}.safetensors"
        save_weights(network(seed=10 + fold).network, path)
        found.append(Checkpoint(fold, 42, path))
    return found


def test_a_batch_holds_the_asked_rows_channels_first() -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(5, 6, 6, 3), dtype=np.uint8)
    batch = to_batch(images, np.array([3, 1]), CPU)
    assert batch.shape == (2, 3, 6, 6) and batch.dtype == torch.uint8
    np.testing.assert_array_equal(batch[0, 2].numpy(), images[3, :, :, 2])


@pytest.mark.parametrize("batch_size", [1, 7, 24, 100])
def test_batch_size_and_order_dont_change_a_prediction(cases: Cases, batch_size: int) -> None:
    rows = np.arange(24)
    whole = predict_logits(network(), cases.cache.images, rows, batch_size=24, device=CPU)
    parts = predict_logits(network(), cases.cache.images, rows[::-1].copy(), batch_size=batch_size, device=CPU)
    np.testing.assert_allclose(parts[::-1], whole, atol=1e-5)
    assert whole.dtype == np.float32 and whole.shape == (24, len(CLASSES))


def test_prediction_is_in_evaluation_mode(cases: Cases) -> None:
    net = network().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    one = predict_logits(net, cases.cache.images, np.arange(8), batch_size=8, device=CPU)
    two = predict_logits(net, cases.cache.images, np.arange(8), batch_size=8, device=CPU)
    np.testing.assert_array_equal(one, two)  # dropout would differ
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items()), "batch norm moved"
    assert not net.training


def test_predictions_that_are_not_finite_are_an_error(cases: Cases) -> None:
    net = network()
    with torch.no_grad():
        net.network.head.bias[0] = float("inf")
    with pytest.raises(FloatingPointError, match="5 of 5 predictions are not finite"):
        predict_logits(net, cases.cache.images, np.arange(5), batch_size=2, device=CPU)


def test_each_fold_is_predicted_with_its_own_weights(cases: Cases, checkpoints: list[Checkpoint]) -> None:
    tables = predict_folds(network(), checkpoints, cases, batch_size=5, device=CPU, metadata={"key": "value"})
    for table, checkpoint in zip(tables, checkpoints, strict=True):
        assert set(table.fold) == {checkpoint.fold} and set(table.seed) == {42} and table.metadata == {"key": "value"}
        own = load_checkpoint(network(), checkpoint.path, CPU)
        for split in ("val", "test"):
            part, rows = cases.part(checkpoint.fold, split), table.select(table.split == split)
            assert rows.case_id.tolist() == part.case_ids.tolist()
            np.testing.assert_array_equal(rows.targets, part.targets)
            np.testing.assert_array_equal(rows.patient_id, part.patient_ids)
            expected = predict_logits(own, cases.cache.images, part.rows, batch_size=5, device=CPU)
            np.testing.assert_allclose(rows.logits, expected, atol=1e-5)


def test_joined_table_holds_every_case_once_in_test(cases: Cases, checkpoints: list[Checkpoint]) -> None:
    tables = predict_folds(network(), checkpoints, cases, batch_size=8, device=CPU, metadata={})
    joined = join_predictions(tables[::-1])
    assert len(joined) == sum(map(len, tables))
    assert sorted(joined.test.case_id) == sorted(cases.case_ids)
    assert (joined.classes, joined.labels) == (CLASSES, ("grade",))
    np.testing.assert_array_equal(joined.logits, join_predictions(tables).logits)


def test_predictions_repeat_bit_by_bit(cases: Cases, checkpoints: list[Checkpoint]) -> None:
    one, two = (
        predict_folds(network(seed=k), checkpoints, cases, batch_size=8, device=CPU, metadata={})[0] for k in (1, 2)
    )
    assert one.logits.tobytes() == two.logits.tobytes()


def test_weights_of_another_class_list_are_refused(cases: Cases, checkpoints: list[Checkpoint]) -> None:
    with pytest.raises(WeightsError, match=r"doesn't fit.*head"):
        predict_folds(network(num_classes=5), checkpoints[:1], cases, batch_size=8, device=CPU, metadata={})

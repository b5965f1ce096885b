"""Volumes through augmentation, mixing, training, resuming and cached features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archbench.augmentation import augment_volumes
from archbench.batches import predict_logits
from archbench.features import FeatureHead, build_features
from archbench.mixing import draw_mix
from archbench.models.building import VolumeNetwork, build_network
from archbench.settings import Training
from archbench.training import TrainingResult, train
from archbench.training_epoch import TrainingData

CPU = torch.device("cpu")
SIDE, SLICES = 32, 4
WINDOW = (-1000.0, 400.0)
VOLUME = {"hu_window": list(WINDOW), "slices": SLICES, "pooling": "attention", "slice_input": "triplet"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def volumes(n: int, seed: int = 0) -> torch.Tensor:
    """Bodies of soft tissue in air, some voxels outside the window."""
    torch.manual_seed(seed)
    body = torch.full((n, SLICES, SIDE, SIDE), -1024.0)
    body[:, :, 8:24, 8:24] = 40 + 60 * torch.randn(n, SLICES, 16, 16)
    body[:, :, 14:16, 14:16] = 1500
    return body


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_all_slices_of_a_volume_move_alike(strength: str) -> None:
    flat = volumes(6)[:, :1].expand(-1, SLICES, -1, -1)
    changed = augment_volumes(flat, hu_window=WINDOW, strength=strength, flips="both", generator=generator())
    assert torch.equal(changed, changed[:, :1].expand(-1, SLICES, -1, -1))
    assert len({round(float(volume.mean()), 3) for volume in changed}) == 6, "each volume has numbers of its own"


@pytest.mark.parametrize("strength", ["none", "light", "strong"])
def test_changed_volumes_stay_in_the_window_and_air_stays_air(strength: str) -> None:
    given = volumes(40)
    changed = augment_volumes(given, hu_window=WINDOW, strength=strength, flips="none", generator=generator())
    assert float(changed.min()) >= WINDOW[0] and float(changed.max()) <= WINDOW[1]
    assert float(given.max()) == 1500, "the given ones are left alone"
    if strength == "none":
        assert torch.equal(changed, given.clamp(*WINDOW))
    else:
        corner = changed[:, :, 0, 0]  # moved in, brightened by a tenth or a quarter of the window at most
        assert float(corner.max()) <= WINDOW[0] + (0.5 if strength == "strong" else 0.2) * 1400


def test_equal_generators_draw_equal_changes() -> None:
    first, second = (
        augment_volumes(volumes(5), hu_window=WINDOW, strength="strong", flips="both", generator=generator(3))
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_contrast_and_brightness_are_in_hounsfield_units() -> None:
    """Two tissues 100 HU apart stay so within the bound of the contrast, and all move together."""
    given = torch.full((50, SLICES, SIDE, SIDE), -300.0)
    given[:, :, :, 16:] = -200.0
    changed = augment_volumes(given, hu_window=WINDOW, strength="light", flips="none", generator=generator())
    inner = changed[:, 0, 12:20]
    gap = inner[:, :, 20:24].mean(dim=(1, 2)) - inner[:, :, 8:12].mean(dim=(1, 2))
    assert float(gap.min()) >= 89 and float(gap.max()) <= 111 and float(gap.std()) > 1
    shift = inner[:, :, 8:12].mean(dim=(1, 2)) + 300
    assert float(shift.abs().max()) <= 0.1 * 1400 + 1 and float(shift.std()) > 20


@pytest.mark.parametrize("mixing", [{"mixup": 0.4, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
def test_volumes_are_mixed_alike_in_all_slices(mixing: dict[str, float]) -> None:
    mix = draw_mix(6, **mixing, size=SIDE, generator=np.random.default_rng(1))
    assert mix is not None
    flat = volumes(6)[:, :1].expand(-1, SLICES, -1, -1)
    mixed = mix.images(flat)
    assert torch.equal(mixed, mixed[:, :1].expand(-1, SLICES, -1, -1))
    own = torch.zeros(6, SLICES, SIDE, SIDE)
    own[0] = 1.0
    share = mix.images(own)[0].mean()
    if int(mix.partner[0]) != 0:
        assert float(share) == pytest.approx(float(mix.share[0]), abs=0.01)


def data(n: int = 36) -> TrainingData:
    """A bright block in one slice is the label; the others say nothing."""
    rng = np.random.default_rng(0)
    images = rng.normal(-700, 60, size=(n, SLICES, SIDE, SIDE))
    targets = (np.arange(n) % 2).astype(float)
    for k in np.flatnonzero(targets).tolist():
        top, left = rng.integers(4, 18, size=2)
        images[k, rng.integers(SLICES), top : top + 10, left : left + 10] = 200
    return TrainingData(
        images=images.astype(np.int16),
        clahe=None,
        train_rows=np.arange(n - 12),
        train_targets=targets[: n - 12, None],
        val_rows=np.arange(n - 12, n),
        val_targets=targets[n - 12 :, None],
        num_classes=1,
        outputs="labels",
        hu_window=WINDOW,
    )


def network(seed: int = 0, **changes: Any) -> VolumeNetwork:
    torch.manual_seed(seed)
    built = build_network("custom1", num_classes=1, image_size=SIDE, volume={**VOLUME, **changes})
    assert isinstance(built, VolumeNetwork)
    return built


def run(
    net: VolumeNetwork | FeatureHead, state: Path, given: TrainingData | None = None, **changes: Any
) -> TrainingResult:
    stop = changes.pop("stop_after", None)

    def on_epoch(history: list[Any]) -> None:
        if len(history) == stop:
            raise KeyboardInterrupt

    recipe = {"loss": "bce", "lr": 3e-3, "epochs": 6, "batch_size": 8, "flips": "none", "average_epochs": 0.0}
    stopping = {"early_stopping": {"metric": "auroc_macro", "patience": 20}}
    return train(
        net,
        given or data(),
        settings=Training.model_validate({**recipe, **stopping, **changes}),
        seed=1,
        device=CPU,
        dtype=torch.float32,
        decision="argmax",
        state_path=state,
        identity="a",
        on_epoch=on_epoch,
    )


def test_a_finding_in_one_slice_is_learned_from_labels_of_volumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_flush_denormal(True)
    net = network()
    result = run(net, tmp_path / "state", epochs=12)
    said = capsys.readouterr().err
    assert "volumes/s" in said and "images" not in said
    assert result.best_value is not None and result.best_value > 0.85
    given = data()
    positive = given.val_rows[given.val_targets[:, 0] == 1]
    with torch.no_grad():
        volume = torch.from_numpy(given.images[positive])
        weights = net.network.pooling.weights(net.eval().network.features(volume.float()))  # type: ignore[operator]
    assert weights.shape == (len(positive), SLICES)


def test_an_interrupted_training_of_volumes_ends_with_the_same_weights(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 4, "augmentation": "strong", "mixup": 0.2, "cutmix": 1.0}
    whole, broken, again = network(), network(), network()
    run(whole, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path / "broken", stop_after=2, **settings)
    resumed = run(again, tmp_path / "broken", **settings)
    assert resumed.resumed_from == 2
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_head_on_cached_slices_is_that_of_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training on cached features of slices gives the network that training with a frozen backbone gives."""
    given, settings = data(), {"epochs": 3, "freeze": "backbone", "augmentation": "none"}
    cached, plain = network(), network()
    build_features(tmp_path / "features.npy", cached, given.images, batch_size=8, device=CPU)
    features = np.load(tmp_path / "features.npy")
    assert features.shape == (len(given.images), SLICES, 320)
    run(FeatureHead(cached), tmp_path / "a", replace(given, images=features, hu_window=None), **settings)
    said = capsys.readouterr().err
    assert "volumes/s" in said and "images/s" not in said
    run(plain, tmp_path / "b", given, **settings)
    logits = [predict_logits(net, given.images, np.arange(12), batch_size=12, device=CPU) for net in (cached, plain)]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-3)
    assert float(np.abs(logits[0]).max()) > 1e-3

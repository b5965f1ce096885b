"""What the feature cache saves: heads of a frozen backbone over folds x seeds x epochs, with and without it.

    PYTHONPATH=. python benchmarks/feature_cache.py --root ../shared/data/dr600 --csv labels.csv

Trains the head of EfficientNet-Lite0 (ImageNet weights, 224 px) on real photographs. With the cache everything is
measured: one pass over all images, then every head. Without it one training in full, whose time per epoch is scaled
to all folds, seeds and epochs, and whose history is compared. Run by hand on a quiet machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from photographs import read_photographs, split_by_patient

from archbench.devices import prepare_torch
from archbench.features import FeatureHead, build_features
from archbench.models.building import NormalizedNetwork, build_network
from archbench.models.weights import fetch_weights, load_weights
from archbench.settings import Training
from archbench.training import TrainingResult, train
from archbench.training_epoch import TrainingData

CPU = torch.device("cpu")
ARCHITECTURE, SIZE = "tf_efficientnet_lite0", 224


def main() -> int:
    """Measure both ways, print the ratio and how far their numbers are apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the photographs")
    parser.add_argument("--csv", default="labels.csv")
    parser.add_argument("--limit", type=int, help="take the first images only")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--measured-epochs", type=int, default=2, help="epochs measured without the cache")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    prepare_torch(threads=arguments.threads)
    images, grades, patients = read_photographs(arguments.root, arguments.csv, size=SIZE, limit=arguments.limit)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        fetch_weights(ARCHITECTURE, "package", weights)
        started = time.perf_counter()
        path = Path(folder) / "features.npy"
        build_features(path, _network(weights, 0), images, batch_size=32, device=CPU)
        features = np.load(path, mmap_mode="r")
        one_pass = time.perf_counter() - started
        heads, histories = 0.0, {}
        for fold in range(arguments.folds):
            data = split_by_patient(images, grades, patients, fold=fold, folds=arguments.folds)
            for seed in range(arguments.seeds):
                head = FeatureHead(_network(weights, seed))
                started = time.perf_counter()
                cached = _train(head, replace(data, images=features), seed, arguments.epochs, folder)
                heads += time.perf_counter() - started
                histories[fold, seed] = cached.history
        data = split_by_patient(images, grades, patients, fold=0, folds=arguments.folds)
        plain = _train(_network(weights, 0), data, 0, arguments.epochs, folder, stop=arguments.measured_epochs)
    _print(arguments, len(images), one_pass, heads, plain, histories[0, 0])
    return 0


def _network(weights: Path, seed: int) -> NormalizedNetwork:
    torch.manual_seed(seed)
    network = build_network(ARCHITECTURE, num_classes=5, image_size=SIZE)
    load_weights(network, weights, same_head=False)
    return network


def _train(
    network: NormalizedNetwork | FeatureHead,
    data: TrainingData,
    seed: int,
    epochs: int,
    folder: str,
    *,
    stop: int | None = None,
) -> TrainingResult:
    recipe = Training.model_validate(
        {
            "loss": "weighted_cross_entropy",
            "epochs": epochs,
            "lr": 1e-3,
            "freeze": "backbone",
            "augmentation": "none",
            "early_stopping": {"metric": "qwk", "patience": epochs},
        }
    )
    state = Path(folder) / "state.pt"
    state.unlink(missing_ok=True)

    class Enough(Exception):
        pass

    history: list[dict[str, float | int | None]] = []

    def on_epoch(rows: list[dict[str, float | int | None]]) -> None:
        history[:] = rows
        if len(rows) == stop:
            raise Enough

    try:
        return train(
            network,
            data,
            settings=recipe,
            seed=seed,
            device=CPU,
            dtype=torch.float32,
            decision="expected_grade",
            state_path=state,
            identity="benchmark",
            on_epoch=on_epoch,
        )
    except Enough:
        seconds = sum(float(row["seconds"] or 0) for row in history)
        return TrainingResult(history, 0, None, "qwk", seconds, True, None, 0, 0)


def _print(
    arguments: argparse.Namespace,
    n: int,
    one_pass: float,
    heads: float,
    plain: TrainingResult,
    cached: list[dict[str, float | int | None]],
) -> None:
    per_epoch = plain.seconds / len(plain.history)
    total = per_epoch * arguments.folds * arguments.seeds * arguments.epochs
    apart = max(
        abs(float(one[key] or 0) - float(other[key] or 0))
        for one, other in zip(plain.history, cached, strict=False)
        for key in ("train_loss", "val_loss", "val_qwk")
    )
    print(
        f"{n} images, {arguments.folds} folds x {arguments.seeds} seeds x {arguments.epochs} epochs\n"
        f"with the cache: one pass {one_pass:.1f} s + heads {heads:.1f} s = {one_pass + heads:.1f} s\n"
        f"without: {per_epoch:.1f} s per epoch ({len(plain.history)} measured) = {total:.0f} s\n"
        f"ratio {total / (one_pass + heads):.1f}; losses and QWK at most {apart:.1e} apart"
    )


if __name__ == "__main__":
    raise SystemExit(main())

"""How much of an epoch is not the network: real training against pure forward, backward and step.

    PYTHONPATH=. python benchmarks/training_speed.py --root ../shared/data/dr600 --csv labels.csv

One epoch as `train` runs it (batches from the image cache, light augmentation, clipping, running average of the
weights) against forward + loss + backward + step of the very same batches held in memory. Both are measured in
turn, in every round in another order; the median of the paired ratios counts. What the difference consists of is
measured by itself. Run by hand on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from photographs import read_photographs, split_by_patient

from archbench.devices import prepare_torch
from archbench.models.building import NormalizedNetwork, build_network
from archbench.sampling import epoch_batches
from archbench.settings import Training
from archbench.training_epoch import STEPS_PER_AVERAGE, Trainer, TrainingData, train_epoch, training_batch
from archbench.training_setup import loss_weights, prepare

CPU = torch.device("cpu")
CONTENDERS = {
    "resnet18": ("resnet18", 224),
    "efficientnet_b0": ("efficientnet_b0", 224),
    "vit_tiny": ("vit_tiny_patch16_224", 224),
    "mobilenetv3_small_050": ("timm:mobilenetv3_small_050", 64),
}


def main() -> int:
    """Measure each network, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the photographs")
    parser.add_argument("--csv", default="labels.csv")
    parser.add_argument("--limit", type=int, help="take the first images only")
    parser.add_argument("--networks", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    prepare_torch(threads=arguments.threads)
    print("| network | px | images/s | epoch / pure | batches | running average | clipping and the rest |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.networks:
        architecture, size = CONTENDERS[name]
        images, grades, patients = read_photographs(arguments.root, arguments.csv, size=size, limit=arguments.limit)
        data = split_by_patient(images, grades, patients, fold=0, folds=10)
        print(_row(name, architecture, size, data, arguments), flush=True)
    return 0


def _trainer(architecture: str, size: int, data: TrainingData, batch_size: int) -> Trainer:
    recipe = Training.model_validate({"loss": "weighted_cross_entropy", "batch_size": batch_size})
    torch.manual_seed(0)
    network: NormalizedNetwork = build_network(architecture, num_classes=5, image_size=size)
    weights = loss_weights(data, recipe)
    return prepare(network, data, weights, settings=recipe, seed=0, device=CPU, dtype=torch.float32)


def _row(name: str, architecture: str, size: int, data: TrainingData, arguments: argparse.Namespace) -> str:
    trainer = _trainer(architecture, size, data, arguments.batch_size)
    draws, generator = np.random.default_rng([0, 1]), torch.Generator().manual_seed(1)
    positions = epoch_batches(len(data.train_rows), arguments.batch_size, generator=draws)
    batches = [training_batch(trainer, p, None, draws, generator) for p in positions]
    targets = [torch.from_numpy(data.train_targets[p]).float() for p in positions]

    def real() -> None:
        train_epoch(trainer, epoch=1, factor=1.0, pass_size=arguments.batch_size)

    def pure() -> None:
        trainer.network.train()
        for images, target in zip(batches, targets, strict=True):
            trainer.optimizer.zero_grad(set_to_none=True)
            trainer.loss(trainer.forward(images), target).backward()
            trainer.optimizer.step()

    def fetch() -> None:
        for p in positions:
            training_batch(trainer, p, None, draws, generator)

    def average() -> None:
        for _ in positions[::STEPS_PER_AVERAGE]:
            trainer.average.update(0.1)

    pure()  # warm-up, also of the memory allocator
    pairs = []
    for k in range(arguments.rounds):
        pairs.append(_in_turn(real, pure) if k % 2 else _in_turn(pure, real)[::-1])
    ratio = statistics.median(one / other for one, other in pairs)
    base = statistics.median(other for _, other in pairs)
    shares = [statistics.median(_seconds(part) for _ in range(3)) / base for part in (fetch, average)]
    rest = ratio - 1 - sum(shares)
    speed = len(data.train_rows) / statistics.median(one for one, _ in pairs)
    return f"| {name} | {size} | {speed:.0f} | {ratio:.3f} | {shares[0]:.1%} | {shares[1]:.1%} | {rest:.1%} |"


def _in_turn(first: Callable[[], None], second: Callable[[], None]) -> tuple[float, float]:
    return _seconds(first), _seconds(second)


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())

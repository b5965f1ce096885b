"""The network of one job with its start weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from archbench.cases import Cases
from archbench.checksums import verify_checksum
from archbench.models import building, weights

if TYPE_CHECKING:
    from archbench.settings import Dataset, Model, Training


@dataclass(frozen=True)
class Job:
    """What is trained, with which recipe, on what.

    Attributes:
        network: Shape and input of the network: arguments of `build_network`.
        weights: Safetensors file to start from; None starts from random weights.
        device: auto, cpu, cuda or mps.
    """

    model: Model
    dataset: Dataset
    recipe: Training
    network: dict[str, Any]
    seed: int
    weights: str | None
    device: str
    threads: int


def start_network(job: Job, cases: Cases) -> tuple[building.NormalizedNetwork, weights.LoadReport | None]:
    """Return the network of a job and what its start weights filled; the seed decides what is random."""
    torch.manual_seed(job.seed)
    network = building.build_network(
        **job.network,
        num_classes=len(cases.classes),
        dropout=job.recipe.dropout,
        drop_path=job.recipe.drop_path,
    )
    if not job.weights:
        return network, None
    verify_checksum(job.weights)
    report = weights.load_weights(network, job.weights, same_head=False)
    weights.print_report(report, job.weights)
    return network, report

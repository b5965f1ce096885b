"""The network of one job with its start weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from archbench.cases import Cases
from archbench.models import building, weights

if TYPE_CHECKING:
    from archbench.settings import Dataset, Model, Training


@dataclass(frozen=True)
class Job:
    """What is trained, with which recipe, on what.

    Attributes:
        image_size: Side of the input, pixels.
        weights: Safetensors file to start from; None starts from random weights.
        device: auto, cpu, cuda or mps.
    """

    model: Model
    dataset: Dataset
    recipe: Training
    image_size: int
    seed: int
    weights: str | None
    device: str
    threads: int


def start_network(job: Job, cases: Cases) -> building.NormalizedNetwork:
    """Return the network of a job with its start weights; the seed decides what is random."""
    torch.manual_seed(job.seed)
    network = building.build_network(
        job.model.architecture,
        num_classes=len(cases.classes),
        image_size=job.image_size,
        dropout=job.recipe.dropout,
        normalization=job.dataset.preprocessing.normalization,
    )
    if job.weights:
        head = building.head_name(network)
        report = weights.load_weights(network.network, job.weights, head=head, same_head=False)
        weights.print_report(report, job.weights)
    return network

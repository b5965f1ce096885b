"""Features of a frozen backbone: computed once for all images, then heads train on them in seconds.

A cache is a file named by its content (images, weights, architecture, code), so that models, folds, seeds and
studies share it. It is written beside its name and renamed, under a lock: a second job waits and finds it done.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from archbench.artifacts import ArtifactError, read_json
from archbench.batches import to_batch
from archbench.models.building import NormalizedNetwork, VolumeNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator


class FeatureHead(nn.Module):
    """The last layer of a network on cached features; of volumes, the pooling of their slices before it.

    It is the network's own layer: when it has been trained, so has the network's head.
    """

    def __init__(self, network: NormalizedNetwork) -> None:
        super().__init__()
        self.head = network.top

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of features (B, F), of slices (B, D, F)."""
        logits: torch.Tensor = self.head(features)
        return logits


@torch.no_grad()
def extract_features(
    network: NormalizedNetwork, images: np.ndarray, *, batch_size: int, device: torch.device
) -> Iterator[np.ndarray]:
    """Yield what the backbone makes of each batch, float32, shape (B, F), of the slices of volumes (B, D, F)."""
    network.to(device).eval()
    caught: list[torch.Tensor] = []
    hook = network.feature_reader.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        for start in range(0, len(images), batch_size):
            caught.clear()
            network(to_batch(images, np.arange(start, min(start + batch_size, len(images))), device))
            yield caught[0].float().cpu().numpy()
    finally:
        hook.remove()


def features_key(content: Mapping[str, Any]) -> str:
    """Return the name of a cache: a hash of all that decides its numbers."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def build_features(
    path: Path, network: NormalizedNetwork, images: np.ndarray, *, batch_size: int, device: torch.device
) -> None:
    """Write the features of all images to a .npy file, (N, F) or (N, D, F); one that is there is left alone.

    Raises:
        ArtifactError: If a feature is not finite, or the last layer takes no plain vector.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.is_file():
            print(f"features {path.stem}: already there", file=sys.stderr, flush=True)
            return
        parts = list(extract_features(network, images, batch_size=batch_size, device=device))
        features = np.concatenate(parts)
        n_dimensions = 3 if isinstance(network, VolumeNetwork) and not network.network.whole else 2
        if features.ndim != n_dimensions or not np.isfinite(features).all():
            raise ArtifactError(
                f"{network.architecture}: features of shape {features.shape} can't be cached "
                "(wanted: finite, one vector per image); set training.cache_features: false"
            )
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.part.npy")
        np.save(temporary, features)
        os.replace(temporary, path)
        print(f"features {path.stem}: {' x '.join(map(str, features.shape))}", file=sys.stderr, flush=True)


def open_features(pointer: str | Path, *, n_images: int) -> np.ndarray:
    """Return the features that a pointer file names, memory-mapped, float32, (N, F) or (N, D, F).

    Raises:
        ArtifactError: If they are gone or belong to other images.
    """
    path = Path(read_json(pointer)["path"])
    try:
        features: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is missing or damaged ({error}): delete {pointer} and run snakemake again"
        ) from error
    if len(features) != n_images:
        raise ArtifactError(f"{path} has {len(features)} rows for {n_images} cases: delete {pointer} and run again")
    return features

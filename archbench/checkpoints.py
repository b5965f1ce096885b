"""Trained weights of folds and seeds, as jobs name them: fold:seed:path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one fold and seed."""

    fold: int
    seed: int
    path: Path


def parse_checkpoints(arguments: Sequence[str]) -> list[Checkpoint]:
    """Return the checkpoints that `fold:seed:path` texts name, in their order."""
    entries = (argument.split(":", 2) for argument in arguments)
    return [Checkpoint(int(fold), int(seed), Path(path)) for fold, seed, path in entries]

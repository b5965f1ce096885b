"""The resumable state of a training, kept outside the declared outputs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Progress:
    """What an interrupted training needs to go on; everything else follows from seed and epoch.

    Attributes:
        pass_size: Images per pass that fitted into the memory; 0 before the first epoch.
    """

    epoch: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_value: float | None = None
    history: list[dict[str, float | int | None]] = field(default_factory=list)
    best_tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    plateau_factor: float = 1.0
    pass_size: int = 0


def save_state(
    path: Path,
    identity: str,
    parts: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Replace the state file in one step; no flush to disk, a lost epoch is only trained again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    content = {
        "identity": identity,
        **{name: part.state_dict() for name, part in parts.items()},
        "progress": {k: getattr(progress, k) for k in asdict(Progress())},
    }
    torch.save(content, temporary)
    os.replace(temporary, path)


def load_state(
    path: Path,
    identity: str,
    parts: Mapping[str, Any],
) -> Progress:
    """Load the state of the last finished epoch; without one of this identity that can be read, start over."""
    for torn in path.parent.glob(f"{path.name}.*.part"):
        torn.unlink()  # of a process that was ended while it wrote
    if not path.is_file():
        return Progress()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn file can fail in many ways; the remedy is the same
        print(f"{path} can't be read ({error}): starting over", file=sys.stderr)
        return Progress()
    if content.get("identity") != identity:
        print(f"{path} belongs to other settings, data or code: starting over", file=sys.stderr)
        return Progress()
    for name, part in parts.items():
        part.load_state_dict(content[name])
    progress = Progress(**content["progress"])
    print(f"continuing after epoch {progress.epoch}", file=sys.stderr, flush=True)
    return progress

"""Read artifacts that may be missing or damaged: what can't be read is noted with the reason."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archbench.artifacts import ArtifactError, read_json


@dataclass(frozen=True)
class Run:
    """One training job: its settings and its history, either of which may be missing."""

    fold: int
    seed: int
    settings: dict[str, Any] | None
    history: dict[str, list[float | None]]


def read_optional(
    path: Path, what: str, missing: dict[str, str], outdated: Collection[Path] = ()
) -> dict[str, Any] | None:
    """Read a JSON object; if that fails, note why under `what` and return None.

    Args:
        outdated: Files and folders that this run was to make anew, and hasn't: what lies there is another run's.
    """
    if path.exists() and any(place in outdated for place in (path, *path.parents)):
        missing[what] = f"{path.name} is of an earlier run"
        return None
    if not path.exists():
        missing[what] = f"{path.name} was not written"
        return None
    try:
        content = read_json(path)
    except ArtifactError as error:
        missing[what] = str(error)
        return None
    if not isinstance(content, dict):
        missing[what] = f"{path.name} holds a {type(content).__name__}, not an object"
        return None
    return content


def collect_runs(folder: Path) -> tuple[Run, ...]:
    """The training jobs of a model, by seed and fold."""
    runs = []
    for path in folder.glob("fold*-seed*"):
        fold, _, seed = path.name.removeprefix("fold").partition("-seed")
        if not (fold.isdigit() and seed.isdigit()):
            continue
        settings = read_optional(path / "settings.json", "settings", {})
        runs.append(Run(int(fold), int(seed), settings, read_history(path / "history.csv")))
    return tuple(sorted(runs, key=lambda run: (run.seed, run.fold)))


def collect_searches(folder: Path) -> tuple[dict[str, Any], ...]:
    """The accounts of a model's hyper-parameter searches, by fold; unreadable ones are left out."""
    paths = [path for path in folder.glob("tuning/fold*.json") if path.stem.removeprefix("fold").isdigit()]
    found = [read_optional(path, "tuning", {}) for path in paths]
    return tuple(sorted((each for each in found if each), key=lambda each: int(each.get("fold", 0))))


def read_history(path: Path) -> dict[str, list[float | None]]:
    """Read a training history: column -> values; empty cells are None, a missing file is {}."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {key: [_number(row.get(key)) for row in rows] for key in (rows[0] if rows else {})}


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value == value else None

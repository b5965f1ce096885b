"""Find the log of the job that failed, and its end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MAX_LINES = 15
MAX_LINE_LENGTH = 400
MAX_BYTES = 64 * 1024
_FAILURE = re.compile(r"(Traceback|Error\b|error:|Killed|MemoryError|Exception|exit code|CANCELLED|TIME LIMIT)")


@dataclass(frozen=True)
class LogTail:
    """The end of one log: its path below the log folder, and its last lines."""

    path: str
    lines: tuple[str, ...]


def find_failure_log(logs: Path | None, dataset_folder: Path, model: str) -> LogTail | None:
    """Return the end of the newest log of a model that speaks of a failure, else of its newest log.

    A log belongs to a model if the model and the dataset are parts of its path, and no other
    study's name stands in the way: `logs/train/<study>/<dataset>/<model>/fold0-seed42.log` and
    `logs/train/<dataset>-<model>.log` are both found.
    """
    if logs is None or not logs.is_dir():
        return None
    study, dataset = dataset_folder.parent.name, dataset_folder.name
    files = [path for path in logs.rglob("*") if path.is_file() and path.stat().st_size]
    found = [path for path in files if _names(path, logs, model) and _names(path, logs, dataset)]
    own = [path for path in found if _names(path, logs, study)] or found
    # `resnet18-large` names resnet18 too: a path that has the model as a folder or file wins.
    exact = [path for path in own if model in path.relative_to(logs).with_suffix("").parts]
    candidates = sorted(exact or own, key=lambda path: path.stat().st_mtime, reverse=True)
    tails = [LogTail(path.relative_to(logs).as_posix(), read_tail(path)) for path in candidates[:50]]
    for tail in tails:
        if any(_FAILURE.search(line) for line in tail.lines):
            return tail
    return tails[0] if tails else None


def _names(path: Path, logs: Path, name: str) -> bool:
    relative = path.relative_to(logs).with_suffix("").as_posix()
    return re.search(rf"(?:^|[/.\-]){re.escape(name)}(?:$|[/.\-])", relative) is not None


def read_tail(path: Path, *, n_lines: int = MAX_LINES) -> tuple[str, ...]:
    """Return the last non-empty lines of a text file, long ones shortened."""
    with open(path, "rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - MAX_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    # A progress bar rewrites its line with carriage returns: only its last state counts.
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n")]
    kept = [line[:MAX_LINE_LENGTH] for line in lines if line.strip()]
    return tuple(kept[-n_lines:])

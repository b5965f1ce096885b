"""Which models failed and which were only not finished, by their logs; and the end of those."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_LINES = 15
MAX_LINE_LENGTH = 400
MAX_BYTES = 64 * 1024
_FAILURE = re.compile(r"(Traceback|Error\b|error:|Killed|MemoryError|Exception|exit code|CANCELLED|TIME LIMIT)")
# Ctrl-C, and a scheduler's signal to a training: nothing failed.
_INTERRUPTION = re.compile(r"(^|\| )(KeyboardInterrupt\b|asked to leave by )")


@dataclass(frozen=True)
class LogTail:
    """The end of one log: its path below the log folder, and its last lines."""

    path: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class JobLogs:
    """The logs of a study, and what Snakemake knows of its jobs.

    Attributes:
        folder: Holds one log per job.
        failed: Logs of the jobs that failed, as Snakemake knows them; None where nobody told.
        outdated: What lies where jobs that did not end were to write: it is of an earlier run.
    """

    folder: Path | None
    failed: Sequence[Path] | None = None
    outdated: frozenset[Path] = frozenset()

    def failure_of(self, dataset_folder: Path, model: str) -> tuple[bool, LogTail | None]:
        """Whether a job of a model failed, and the end of the log that says most about what became of the model."""
        if self.folder is None:
            return False, None
        if self.failed is None:
            tail = find_failure_log(self.folder, dataset_folder, model)
            return tail is not None and speaks_of_failure(tail), tail
        failed = [path for path in self.failed if path.is_file() and path.is_relative_to(self.folder)]
        own = _of_model(failed, self.folder, dataset_folder, model)
        common = [path for path in failed if _is_common(path, self.folder, dataset_folder.name)]
        tails = _tails(own or common, self.folder)
        return bool(own), tails[0] if tails else find_failure_log(self.folder, dataset_folder, model)


def speaks_of_failure(tail: LogTail) -> bool:
    """Whether a log ends in a failure that was no interruption."""
    interrupted = any(_INTERRUPTION.search(line) for line in tail.lines)
    return not interrupted and any(_FAILURE.search(line) for line in tail.lines)


def find_failure_log(logs: Path | None, dataset_folder: Path, model: str) -> LogTail | None:
    """Return the end of the newest log of a model that speaks of a failure, else of its newest log.

    A log belongs to a model if the model and the dataset are parts of its path, and no other
    study's name stands in the way: `logs/train/<study>/<dataset>/<model>/fold0-seed42.log` and
    `logs/train/<dataset>-<model>.log` are both found.
    """
    if logs is None or not logs.is_dir():
        return None
    files = [path for path in logs.rglob("*.log") if path.is_file() and path.stat().st_size]
    tails = _tails(_of_model(files, logs, dataset_folder, model), logs)
    return next(filter(speaks_of_failure, tails), tails[0] if tails else None)


def _of_model(files: Sequence[Path], logs: Path, dataset_folder: Path, model: str) -> list[Path]:
    study, dataset = dataset_folder.parent.name, dataset_folder.name
    found = [path for path in files if _names(path, logs, model) and _names(path, logs, dataset)]
    own = [path for path in found if _names(path, logs, study)] or found
    # `resnet18-large` names resnet18 too: a path that has the model as a folder or file wins.
    return [path for path in own if model in path.relative_to(logs).with_suffix("").parts] or own


def _is_common(path: Path, logs: Path, dataset: str) -> bool:
    """Whether the models of a dataset, or of the study, wait for this job."""
    rule = path.relative_to(logs).parts[0]
    return rule == "fetch_weights" or (rule in ("prepare_dataset", "cache_images") and _names(path, logs, dataset))


def _tails(files: Sequence[Path], logs: Path) -> list[LogTail]:
    newest = sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)[:50]
    return [LogTail(path.relative_to(logs).as_posix(), read_tail(path)) for path in newest]


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

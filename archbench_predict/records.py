"""What is written of each image, as CSV, JSON or JSON lines."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from archbench_predict.images import ImageError
from archbench_predict.outputs import Task
from archbench_predict.predictor import Answers
from archbench_predict.sources import Item

FORMATS = (".csv", ".json", ".jsonl")
TUNED = "label_at_cut_points"


def to_records(answers: Answers, task: Task, *, top: int = 0) -> list[dict[str, Any]]:
    """Return one record per image: label or labels, value, probabilities, and what was fitted beside them.

    Args:
        top: Also the so many likeliest classes or labels, from the likeliest on.
    """
    return [
        {
            **_called(answers.called[i], task),
            **({"top": _likeliest(answers, i, task, top)} if top else {}),
            **({TUNED: task.classes[int(answers.tuned[i])]} if answers.tuned is not None else {}),
            **_kind("probabilities", answers.probabilities[i], task),
            **(_kind("calibrated", answers.calibrated[i], task) if answers.calibrated is not None else {}),
        }
        for i in range(len(answers.logits))
    ]


def _likeliest(answers: Answers, i: int, task: Task, top: int) -> list[dict[str, Any]]:
    values = (answers.probabilities if answers.calibrated is None else answers.calibrated)[i]
    names = task.labels if task.outputs == "labels" else task.classes
    order = np.argsort(-values, kind="stable")[:top].tolist()
    return [{"label": names[k], "probability": _number(values[k])} for k in order]


def _called(called: Any, task: Task) -> dict[str, Any]:
    if task.outputs == "classes":
        return {"label": task.classes[int(called)]}
    if task.outputs == "zones":
        return {"label": {zone: task.scored[int(k)] for zone, k in zip(task.labels, called, strict=True)}}
    if task.outputs == "labels":
        return {"label": [name for name, yes in zip(task.labels, called, strict=True) if yes]}
    return {"value": _number(called[0])}


def _kind(name: str, values: np.ndarray, task: Task) -> dict[str, Any]:
    if task.outputs == "value":
        return {}
    if task.outputs == "zones":
        return {name: {zone: _named(task.scored, row) for zone, row in zip(task.labels, values, strict=True)}}
    return {name: _named(task.labels if task.outputs == "labels" else task.classes, values)}


def _named(names: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return {name: _number(value) for name, value in zip(names, values.tolist(), strict=True)}


def _number(value: float) -> float:
    return float(f"{value:.7g}")


class Writer(Protocol):
    """Takes the images one after the other."""

    def write(self, item: Item, record: dict[str, Any] | None, error: str | None) -> None:
        """Write what is said of an image, or why nothing is."""


def write_answers(
    answers: Iterable[tuple[Item, dict[str, Any] | ImageError]], writer: Writer, report: Callable[[int, int], None]
) -> int:
    """Write each image's record as it comes, or say what is wrong with the image; return how many failed.

    Args:
        report: Called after each image with how many are done, and how many of them failed.
    """
    failed = 0
    for done, (item, answer) in enumerate(answers, start=1):
        if isinstance(answer, ImageError):
            failed += 1
            print(f"{item.path or item.case_id}: {answer}", file=sys.stderr)
            writer.write(item, None, str(answer))
        else:
            writer.write(item, answer, None)
        report(done, failed)
    return failed


class _Csv:
    def __init__(self, file: TextIO, task: Task, *, calibrated: bool, tuned: bool, top: bool) -> None:
        self._task, self._calibrated, self._tuned, self._top = task, calibrated, tuned, top
        self._writer = csv.DictWriter(file, self._columns(), restval="", lineterminator="\n")
        self._writer.writeheader()

    def write(self, item: Item, record: dict[str, Any] | None, error: str | None) -> None:
        """Write one row."""
        row: dict[str, Any] = {"case_id": item.case_id, "image": item.path, "error": error or ""}
        for key, value in (record or {}).items():
            row |= self._cells(key, value)
        self._writer.writerow(row)

    def _cells(self, key: str, value: Any) -> dict[str, Any]:
        if key == "label" and isinstance(value, list):
            return {"label": ";".join(value)}
        if key == "top":
            return {"top": ";".join(f"{found['label']} {found['probability']:.3f}" for found in value)}
        name = {"probabilities": "probability"}.get(key, key)
        if not isinstance(value, dict):
            return {name: value}
        cells: dict[str, Any] = {}
        for inner, content in value.items():
            nested = content if isinstance(content, dict) else None
            cells |= {f"{name}_{inner}": content} if nested is None else {}
            cells |= {f"{name}_{inner}_{k}": v for k, v in (nested or {}).items()}
        return cells

    def _columns(self) -> list[str]:
        task = self._task
        kinds = ["probability", *(["calibrated"] if self._calibrated else [])]
        if task.outputs == "value":
            return ["case_id", "image", "error", "value"]
        if task.outputs == "zones":
            called = [f"label_{zone}" for zone in task.labels]
            names = [f"{zone}_{name}" for zone in task.labels for name in task.scored]
        else:
            called = ["label", *([TUNED] if self._tuned else [])]
            names = list(task.labels if task.outputs == "labels" else task.classes)
        called += ["top"] if self._top else []
        return ["case_id", "image", "error", *called, *(f"{kind}_{name}" for kind in kinds for name in names)]


class JsonWriter:
    """JSON lines, or an array with one image a line, written as it comes."""

    def __init__(self, file: TextIO, *, lines: bool) -> None:
        self._file, self._lines, self._first = file, lines, True

    def write(self, item: Item, record: dict[str, Any] | None, error: str | None) -> None:
        """Write one object."""
        self._put({"case_id": item.case_id, "image": item.path, **({"error": error} if error else record or {})})

    def _put(self, content: dict[str, Any]) -> None:
        before = "" if self._lines else ("[\n" if self._first else ",\n")
        self._file.write(before + json.dumps(content, ensure_ascii=False) + ("\n" if self._lines else ""))
        self._first = False

    def end(self) -> None:
        """Close the array."""
        if not self._lines:
            self._file.write("[]\n" if self._first else "\n]\n")


class _Challenge(JsonWriter):
    """What challenges on multi-abnormality CT ask for: [{input_image_name, probabilities: {label: p}}]."""

    def write(self, item: Item, record: dict[str, Any] | None, error: str | None) -> None:
        """Write one object; what could not be read is left out, since a made-up probability would be scored."""
        if record is None:
            return
        name = os.path.basename(item.path)
        name = os.path.basename(item.case_id) if name.lower() == "slices.csv" else name
        probabilities = record.get("calibrated", record["probabilities"])
        self._put({"input_image_name": name, "probabilities": probabilities})


@contextmanager
def open_writer(
    path: Path,
    task: Task,
    *,
    calibrated: bool,
    tuned: bool = False,
    top: bool = False,
    challenge: bool = False,
) -> Iterator[Writer]:
    """Give a writer; the file gets its name when it is whole, until then it is `<name>.partial`.

    Args:
        path: Its suffix says the format: .csv, .json or .jsonl.
        calibrated: Whether there are calibrated probabilities.
        tuned: Whether there are grades by cut points.
        top: Whether records name the likeliest findings.
        challenge: Whether to write the JSON of challenges.
    """
    with whole_file(path) as file:
        if path.suffix == ".csv":
            yield _Csv(file, task, calibrated=calibrated, tuned=tuned, top=top)
        else:
            writer = (_Challenge if challenge else JsonWriter)(file, lines=path.suffix == ".jsonl")
            yield writer
            writer.end()


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Give a text file that gets its name when it is whole; until then it is `<name>.partial`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        yield file
    os.replace(partial, path)

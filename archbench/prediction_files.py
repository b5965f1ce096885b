"""Predictions of any other tool, from one CSV with a row per case and model; errors name file, row and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.tasks import get_task

REQUIRED = ("case", "patient", "model")
SHOWN_ERRORS = 10
SUM_TOLERANCE = 1e-3
SMALLEST = 1e-7  # probabilities are clipped to it before their logarithm
LONGEST_NAME = 100
FIRST_ROW = 2  # of the file, below the heading

Columns = Mapping[str, np.ndarray]


class PredictionFileError(ValueError):
    """A prediction file can't be used; every line says where and what to do."""

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        more = [f"… and {len(problems) - SHOWN_ERRORS} more"] if len(problems) > SHOWN_ERRORS else []
        super().__init__("\n  ".join([f"{path} can't be used:", *self.problems[:SHOWN_ERRORS], *more]))


@dataclass
class _Reading:
    """The file's text columns, and what is wrong with them so far."""

    path: Path
    columns: Columns
    problems: list[str] = field(default_factory=list)

    def note(self, rows: np.ndarray, column: str, what: str, remedy: str) -> None:
        """Note one problem per row, with what stands there."""
        for row in np.flatnonzero(rows):
            self.problems.append(
                f"row {row + FIRST_ROW}, column {column}: {str(self.columns[column][row])!r} {what}; {remedy}"
            )

    def stop(self) -> None:
        """Raise if anything was noted."""
        if self.problems:
            raise PredictionFileError(self.path, self.problems)


def read_prediction_file(path: Path, *, task: str) -> dict[str, Predictions]:
    """Return the prediction table of each model in a CSV, in the order of the file.

    Columns: case, patient, model; one `score_<class>` (probability) or `logit_<class>` per class or label; `target`
    (class name or number) or, for several labels, one `target_<label>` each (1, 0, empty where unknown); optional
    fold (default 0) and seed (default 1).

    Args:
        path: The file.
        task: Name of the task, which decides what the scores mean.
    Raises:
        PredictionFileError: With row and column of what is wrong.
    """
    reading = _Reading(path, _text_columns(path))
    classes, kind = _score_columns(reading)
    multilabel = any(name.startswith("target_") for name in reading.columns)
    _check_task(reading, task, multilabel)
    reading.stop()
    scores = np.stack([_numbers(reading, f"{kind}_{name}") for name in classes], axis=1)
    targets = _label_targets(reading, classes) if multilabel else _class_targets(reading, classes)
    fold, seed = _whole(reading, "fold", 0), _whole(reading, "seed", 1)
    for name in REQUIRED:
        reading.note(reading.columns[name] == "", name, "is empty", f"every row needs a {name}")
    model = reading.columns["model"]
    folders = np.isin(model, (".", "..")) | (np.char.find(model, "/") >= 0) | (np.char.find(model, "\\") >= 0)
    reading.note(folders | (np.char.str_len(model) > LONGEST_NAME), "model", "can't name a folder", "rename the model")
    reading.stop()
    logits = scores if kind == "logit" else _logits(reading, scores, classes, multilabel)
    reading.stop()
    table = Predictions(
        case_id=reading.columns["case"],
        patient_id=reading.columns["patient"],
        split=np.full(len(scores), "test"),
        fold=fold,
        seed=seed,
        logits=logits.astype(np.float32),
        targets=targets,
        classes=tuple(classes),
        labels=tuple(classes) if multilabel else ("target",),
        metadata={"decision": get_task(task).decision, **get_task(task).table_metadata([])},
    )
    _check_rows(reading, table)
    reading.stop()
    model = reading.columns["model"]
    return {name: table.select(model == name) for name in dict.fromkeys(model.tolist())}


def _text_columns(path: Path) -> Columns:
    import pyarrow as pa
    from pyarrow import csv

    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            head = file.readline().rstrip("\r\n")
        names = [name.strip().strip('"') for name in head.split(",")]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise PredictionFileError(path, [f"row 1: the columns {repeated} occur twice; keep one of each"])
        options = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        table = csv.read_csv(
            path, read_options=csv.ReadOptions(column_names=names, skip_rows=1), convert_options=options
        )
    except pa.ArrowInvalid as error:
        raise PredictionFileError(path, [f"{error}; every row needs as many cells as the heading"]) from error
    except UnicodeDecodeError as error:
        raise PredictionFileError(path, [f"not UTF-8 ({error}); save it as UTF-8"]) from error
    if table.num_rows == 0:
        raise PredictionFileError(path, ["there are no rows below the heading"])
    return {name: np.char.strip(np.array(table[name].to_pylist(), dtype=str)) for name in names}


def _score_columns(reading: _Reading) -> tuple[list[str], str]:
    """Classes in the order of the file, and whether scores or logits are given."""
    found = {
        kind: [name.removeprefix(f"{kind}_") for name in reading.columns if name.startswith(f"{kind}_")]
        for kind in ("score", "logit")
    }
    kind = "score" if found["score"] else "logit"
    if found["score"] and found["logit"]:
        reading.problems.append("row 1: there are score_ and logit_ columns; give one kind")
    if not found[kind]:
        reading.problems.append("row 1: no score_<class> column; give one probability per class or label")
    labels = [name.removeprefix("target_") for name in reading.columns if name.startswith("target_")]
    needed = [*REQUIRED, *([] if labels else ["target"])]
    for name in needed:
        if name not in reading.columns:
            reading.problems.append(f"row 1: column {name} is missing (found: {', '.join(reading.columns)})")
    if labels and sorted(labels) != sorted(found[kind]):
        reading.problems.append(f"row 1: targets of {labels}, but {kind}s of {found[kind]}; each label needs both")
    if not labels and len(found[kind]) == 1:
        reading.problems.append(
            f"row 1: one {kind} column only; two classes need two, or name the target target_<label>"
        )
    return found[kind], kind


def _check_task(reading: _Reading, task: str, multilabel: bool) -> None:
    outputs = get_task(task).outputs
    if outputs not in ("classes", "labels"):
        reading.problems.append(
            f"row 1: the task {task} can't be read from a CSV; give one of classes (ordinal, multiclass) or of labels "
            "(multilabel)"
        )
    elif multilabel != (outputs == "labels"):
        given, needed = ("target_<label>", "target") if multilabel else ("target", "target_<label>")
        reading.problems.append(
            f"row 1: there is {given}, but the task {task} needs {needed}; name the columns so, or choose another task"
        )


def _numbers(reading: _Reading, column: str) -> np.ndarray:
    text = reading.columns[column]
    try:
        values = text.astype(np.float64)
    except ValueError:
        values = np.array([_number(item) for item in text])
    reading.note(~np.isfinite(values), column, "is not a finite number", "give one score per row and class")
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _whole(reading: _Reading, column: str, default: int) -> np.ndarray:
    if column not in reading.columns:
        return np.full(len(reading.columns["case"]), default)
    values = np.array([_number(item) for item in reading.columns[column]])
    wrong = ~np.isfinite(values) | (values != np.floor(np.nan_to_num(values)))
    reading.note(wrong, column, "is not a whole number", "number folds and seeds, or leave the column out")
    return np.where(wrong, 0, values).astype(np.int64)


def _class_targets(reading: _Reading, classes: Sequence[str]) -> np.ndarray:
    number_of = {name: k for k, name in enumerate(classes)} | {str(k): k for k in range(len(classes))}
    number_of |= {f"{k}.0": k for k in range(len(classes))}
    for name in classes:  # a class name wins over a number
        number_of[name] = list(classes).index(name)
    text = reading.columns["target"]
    values = np.array([number_of.get(item, -1) for item in text], dtype=np.float64)
    unknown = text == ""
    reading.note(
        (values < 0) & ~unknown, "target", "is no class", f"use one of {list(classes)}, 0 to {len(classes) - 1}"
    )
    return np.where(unknown, np.nan, values)[:, None]


def _label_targets(reading: _Reading, labels: Sequence[str]) -> np.ndarray:
    columns = []
    for label in labels:
        text = reading.columns[f"target_{label}"]
        values = np.select(
            [np.isin(text, ("1", "1.0")), np.isin(text, ("0", "0.0")), text == ""], [1.0, 0.0, np.nan], -1.0
        )
        reading.note(values == -1.0, f"target_{label}", "is neither 1 nor 0", "leave it empty where it is unknown")
        columns.append(values)
    return np.stack(columns, axis=1)


def _logits(reading: _Reading, scores: np.ndarray, classes: Sequence[str], multilabel: bool) -> np.ndarray:
    for k, name in enumerate(classes):
        outside = (scores[:, k] < 0) | (scores[:, k] > 1)
        reading.note(outside, f"score_{name}", "is no probability", "name the columns logit_<class> if they are logits")
    total = scores.sum(axis=1)
    if not multilabel and not reading.problems:
        for row in np.flatnonzero(np.abs(total - 1.0) > SUM_TOLERANCE):
            reading.problems.append(
                f"row {row + FIRST_ROW}: the scores of the {len(classes)} classes sum to {total[row]:.4g}, not 1; give "
                "probabilities, or name the columns logit_<class>"
            )
    clipped = np.clip(scores, SMALLEST, 1.0 - SMALLEST if multilabel else 1.0)
    return np.log(clipped / (1.0 - clipped)) if multilabel else np.log(clipped)


def _check_rows(reading: _Reading, table: Predictions) -> None:
    """Each case once per model and seed, with one patient, fold and target; every model on the same cases."""
    model = reading.columns["model"]
    first: dict[Any, int] = {}
    facts: dict[str, tuple[int, Any]] = {}
    for row, key in enumerate(zip(model.tolist(), table.case_id.tolist(), table.seed.tolist(), strict=True)):
        if key in first:
            reading.problems.append(
                f"row {row + FIRST_ROW}: case {key[1]!r} of model {key[0]!r}, seed {key[2]} stands in row "
                f"{first[key] + FIRST_ROW} already; keep one"
            )
        first.setdefault(key, row)
    columns = {"patient": table.patient_id.tolist(), "fold": table.fold.tolist(), "target": _comparable(table.targets)}
    for name, values in columns.items():
        facts.clear()
        for row, (case, value) in enumerate(zip(table.case_id.tolist(), values, strict=True)):
            seen_row, seen = facts.setdefault(case, (row, value))
            if seen != value:
                reading.problems.append(
                    f"row {row + FIRST_ROW}: case {case!r} has another {name} than in row {seen_row + FIRST_ROW}; a "
                    f"case has one {name} in all rows"
                )
    if not reading.problems:
        _check_folds(reading, table)
    _check_complete(reading, table, model)


def _check_folds(reading: _Reading, table: Predictions) -> None:
    """Each patient in one fold: what is fitted for a fold uses the patients of the others."""
    place: dict[str, tuple[int, int]] = {}
    for row, (patient, fold) in enumerate(zip(table.patient_id.tolist(), table.fold.tolist(), strict=True)):
        seen_row, seen = place.setdefault(patient, (row, fold))
        if seen != fold:
            reading.problems.append(
                f"row {row + FIRST_ROW}: patient {patient!r} is in fold {fold}, in row {seen_row + FIRST_ROW} in fold "
                f"{seen}; all cases of a patient belong to one fold"
            )


def _comparable(targets: np.ndarray) -> list[Any]:
    return [tuple(row) for row in np.nan_to_num(targets, nan=-1.0).tolist()]


def _check_complete(reading: _Reading, table: Predictions, model: np.ndarray) -> None:
    pairs = {
        name: set(zip(table.case_id[model == name].tolist(), table.seed[model == name].tolist(), strict=True))
        for name in dict.fromkeys(model.tolist())
    }
    everything = set().union(*pairs.values())
    for name, own in pairs.items():
        lacking = sorted(everything - own)
        if lacking:
            case, seed = lacking[0]
            reading.problems.append(
                f"model {name!r} lacks {len(lacking)} of {len(everything)} cases and seeds, e.g. case {case!r}, seed "
                f"{seed}; all models need the same cases"
            )

"""Every scored case in a plain table: what is true, what the model says, and how sure it is."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np

from archbench.artifacts import Predictions, softmax
from archbench.metrics.views import (
    RISK_CLASSES,
    decided,
    expected_score,
    risk_class,
    scored_classes,
    whole_view,
)

SUFFIXES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".tif", ".tiff")


def file_id(case_id: str) -> str:
    """The file's name without folder and suffix: `images/123.nii.gz` is 123."""
    name = case_id.rstrip("/").rpartition("/")[2]
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)


def case_table(predictions: Predictions) -> str:
    """Return the test rows as CSV, or the validation rows where the protocol has no test part.

    Labels are called at threshold .5, probabilities are uncalibrated. Unknown and ungradable cells are empty, and a
    case without a gradable zone has neither score nor risk class.
    """
    rows = predictions.test if (predictions.split == "test").any() else predictions.val
    rows = rows.sorted()
    cases = rows.case_id.tolist()
    names = {case: file_id(case) for case in set(cases)}
    columns: dict[str, Any] = {
        "FileID": [names[case] for case in cases],
        "case_id": cases,
        "patient_id": rows.patient_id.tolist(),
        "fold": rows.fold.tolist(),
        "seed": rows.seed.tolist(),
    }
    columns |= {"labels": _labels, "zones": _zones, "value": _value}.get(rows.outputs, _classes)(rows)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return buffer.getvalue()


def _classes(rows: Predictions) -> dict[str, Any]:
    true = [None if np.isnan(value) else rows.classes[int(value)] for value in rows.targets[:, 0]]
    said = [rows.classes[int(value)] for value in rows.decisions]
    probabilities = softmax(rows.logits)
    chances = {f"p_{name}": _numbers(probabilities[:, k]) for k, name in enumerate(rows.classes)}
    return {"true": true, "predicted": said, **chances}


def _labels(rows: Predictions) -> dict[str, Any]:
    called, truth = decided(rows)
    columns: dict[str, Any] = {}
    for k, name in enumerate(rows.labels):
        columns[f"true_{name}"] = _integers(truth[:, k])
        columns[f"predicted_{name}"] = _integers(called[:, k])
        columns[f"p_{name}"] = _numbers(softmax(whole_view(rows, k).logits)[:, 1])
    return columns


def _zones(rows: Predictions) -> dict[str, Any]:
    called, truth = decided(rows)
    names = scored_classes(rows)
    columns: dict[str, Any] = {}
    for k, zone in enumerate(rows.labels):
        columns[f"true_{zone}"] = [None if np.isnan(v) else names[int(v)] for v in truth[:, k]]
        columns[f"predicted_{zone}"] = [names[int(v)] for v in called[:, k]]
    for word, score in zip(("true", "predicted"), expected_score(rows), strict=True):
        columns[f"{word}_score"] = _numbers(score)
        columns[f"{word}_risk"] = [None if np.isnan(v) else RISK_CLASSES[int(v)] for v in risk_class(score)]
    return columns


def _value(rows: Predictions) -> dict[str, Any]:
    return {"true": _numbers(rows.targets[:, 0]), "predicted": _numbers(rows.logits[:, 0])}


def _numbers(values: np.ndarray) -> list[str | None]:
    return [f"{value:.6g}" if value == value else None for value in values.tolist()]  # NaN differs from itself


def _integers(values: np.ndarray) -> list[int | None]:
    known = ~np.isnan(values)
    return [int(value) if inside else None for value, inside in zip(values.tolist(), known.tolist(), strict=True)]

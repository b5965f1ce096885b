"""What a table says of volumes beside their files: VolumeName, RescaleSlope, RescaleIntercept, XYSpacing, ZSpacing."""

from __future__ import annotations

import ast
import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archbench_predict.hounsfield import Declared

NAME = "VolumeName"
SUFFIXES = (".nii.gz", ".nii", ".mha", "/slices.csv")


class MetadataError(ValueError):
    """A table of volumes that can't be used."""


def stem(name: str) -> str:
    """Return a volume's name without folder and suffix."""
    name = name.strip().replace("\\", "/")
    name = next((name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end)), name)
    return name.rpartition("/")[2]


def declared_facts(values: Mapping[str, str]) -> dict[str, Any]:
    """Return slope, intercept and spacing_mm (z, y, x) of one row, without what it leaves blank.

    Raises:
        ValueError: If a value is no number, or can't be.
    """
    facts: dict[str, Any] = {}
    for key, column in (("slope", "RescaleSlope"), ("intercept", "RescaleIntercept")):
        text = (values.get(column) or "").strip()
        if text:
            facts[key] = _number(text, column)
    if facts.get("slope") == 0:
        raise ValueError("RescaleSlope is 0")
    across, along = ((values.get(column) or "").strip() for column in ("XYSpacing", "ZSpacing"))
    if across and along:
        pair = _pair(across)
        facts["spacing_mm"] = [_number(along, "ZSpacing"), pair[0], pair[1]]
        if min(facts["spacing_mm"]) <= 0:
            raise ValueError("a spacing is not above 0")
    return facts


def read_declared(path: Path) -> dict[str, Declared]:
    """Return what a table declares, by the stem of the volume's name.

    Raises:
        MetadataError: If it can't be read, or a row can't be used.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MetadataError(f"{path}: no readable table ({error})") from error
    if not rows or NAME not in rows[0]:
        raise MetadataError(f"{path}: no rows with a column {NAME}")
    declared = {}
    for number, row in enumerate(rows, start=2):
        try:
            declared[stem(row[NAME] or "")] = Declared.of(declared_facts(row))
        except ValueError as error:
            raise MetadataError(f"{path}, line {number}: {error}") from error
    return declared


def _number(text: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{column} {text!r} is no number")
    return value


def _pair(text: str) -> tuple[float, float]:
    """Row and column spacing, written as a list: "[0.75, 0.75]"."""
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        values = None
    values = [values] if isinstance(values, (int, float)) else values
    if not isinstance(values, (list, tuple)) or len(values) not in (1, 2):
        raise ValueError(f"XYSpacing {text!r} is no list of two numbers")
    return _number(str(values[0]), "XYSpacing"), _number(str(values[-1]), "XYSpacing")

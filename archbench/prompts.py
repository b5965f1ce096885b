"""Boxes and points that say where a prompted network is to draw: from the true masks, or given in a CSV.

Coordinates are pixels of the cached image, x to the right and y down, the centre of the first pixel at 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import ArtifactError, numeric_column, read_table

Array = np.ndarray[Any, np.dtype[Any]]
COORDINATES = {"box": ("x0", "y0", "x1", "y1"), "point": ("x", "y")}
TRUTH = "truth"
SUFFIXES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".tif", ".tiff")


class PromptError(ValueError):
    """Given prompts that can't be used; the message lists every row with its fault and remedy."""


@dataclass(frozen=True)
class Prompts:
    """Prompts of a dataset in the order of its image cache.

    Attributes:
        kind: box or point.
        values: Shape (N, L, 4) or (N, L, 2), float32, NaN where a structure of an image has none.
        source: `truth`, or the CSV that they were given in.
        jitter: In training, how far the truth's prompts are moved, as a share of the structure's width and height.
    """

    kind: str
    values: Array
    source: str
    jitter: float = 0.0

    def account(self) -> dict[str, Any]:
        """Return what results and report declare."""
        absent = np.isnan(self.values).any(axis=2)
        counts = {"n_prompts": int((~absent).sum()), "n_without": int(absent.sum())}
        return {"kind": self.kind, "source": self.source, **counts}


def prompts_of_masks(masks: Array, *, structures: int, kind: str) -> Array:
    """Return the truth's prompts, shape (N, L, 4) or (N, L, 2), float32, NaN where a structure isn't there.

    A box encloses the structure, its edges on the outermost pixels; a point is the pixel that lies deepest in it.

    Args:
        masks: Class indices, shape (N, S, S); 1 is the first structure.
        structures: How many there are.
        kind: box or point.
    """
    found = np.full((len(masks), structures, len(COORDINATES[kind])), np.nan, np.float32)
    for row, labels in enumerate(masks):
        for index in np.unique(labels):
            if 0 < index <= structures:
                found[row, index - 1] = _box(labels == index) if kind == "box" else _deepest(labels == index)
    return found


def _box(inside: Array) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _deepest(inside: Array) -> tuple[int, int]:
    import cv2

    depth = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = divmod(int(depth[1:-1, 1:-1].argmax()), inside.shape[1])
    return x, y


def training_prompts(
    masks: Array, *, structures: int, kind: str, jitter: float, generator: np.random.Generator
) -> Array:
    """Return the truth's prompts of augmented masks, moved at random within the image.

    Args:
        jitter: Each edge of a box, or the point, moves by up to this share of the structure's width or height.
    """
    prompts = prompts_of_masks(masks, structures=structures, kind=kind)
    if not jitter:
        return prompts
    boxes = prompts if kind == "box" else prompts_of_masks(masks, structures=structures, kind="box")
    sides = np.tile(boxes[..., 2:] - boxes[..., :2] + 1, prompts.shape[2] // 2)
    moved = prompts + jitter * sides * generator.uniform(-1, 1, prompts.shape)
    moved = np.clip(moved, 0, masks.shape[1] - 1).astype(np.float32)
    if kind == "box":  # an edge may have passed the other one
        moved = np.concatenate(
            [np.minimum(moved[..., :2], moved[..., 2:]), np.maximum(moved[..., :2], moved[..., 2:])], -1
        )
    return moved


@dataclass(frozen=True)
class PromptedCase:
    """A case that prompts may be given for.

    Attributes:
        case_id: As in the manifest.
        shape: Rows and columns of the source picture.
        box: x0, y0, x1, y1 of the cached crop in its pixels.
    """

    case_id: str
    shape: tuple[int, int]
    box: tuple[float, float, float, float]


def names_of(case_id: str) -> set[str]:
    """Return what a CSV may call a case: its path, that without suffix, and its file's bare name."""
    bare = next((case_id[: -len(end)] for end in SUFFIXES if case_id.lower().endswith(end)), case_id)
    return {case_id, bare, bare.rpartition("/")[2], bare.partition("/")[2] or bare}


def read_given(path: Path, cases: Sequence[PromptedCase], *, structures: Sequence[str], kind: str, size: int) -> Array:
    """Return the prompts of a CSV with the columns case, structure and x0, y0, x1, y1, or x, y, in source pixels.

    What has no row has no prompt.

    Args:
        size: Side of the cached images.
    Returns:
        Shape (N, L, 4) or (N, L, 2), in pixels of the cached images.
    Raises:
        PromptError: With every bad row.
    """
    by_name: dict[str, set[int]] = {}
    for index, case in enumerate(cases):
        for name in names_of(case.case_id):
            by_name.setdefault(name, set()).add(index)
    values = np.full((len(cases), len(structures), len(COORDINATES[kind])), np.nan, np.float32)
    problems: list[str] = []
    lines: dict[tuple[int, int], int] = {}
    for line, row in _rows(path, kind):
        where = f"{path} line {line}"
        place, problem = _place(row, by_name, structures)
        if place is not None and place in lines:
            problem = f"{row['case']}, {row['structure']} has a prompt in line {lines[place]} already: keep one"
        if place is None or problem:
            problems.append(f"{where}: {problem}")
            continue
        lines[place] = line
        case = cases[place[0]]
        found = _coordinates(row, kind, case.shape)
        if isinstance(found, str):
            problems.append(f"{where}: {found}")
        else:
            values[place] = _in_cache(found, case.box, size)
    if problems or not lines:
        told = "\n  ".join(problems or [f"{path}: no row below its header"])
        raise PromptError(f"{len(problems) or 1} problems with given prompts:\n  {told}\nNothing was trained or drawn.")
    return values


def _rows(path: Path, kind: str) -> list[tuple[int, dict[str, str]]]:
    import csv

    needed = ("case", "structure", *COORDINATES[kind])
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [
                (reader.line_num, {str(k).strip(): (v or "").strip() for k, v in row.items() if isinstance(v, str)})
                for row in reader
            ]
            missing = [name for name in needed if name not in [str(field).strip() for field in reader.fieldnames or ()]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PromptError(f"{path} can't be read as a CSV in UTF-8: {error}") from error
    if missing:
        raise PromptError(f"{path} line 1: no column {', '.join(missing)}; a {kind} needs {', '.join(needed)}")
    return [(line, dict.fromkeys(needed, "") | row) for line, row in rows]


def _place(
    row: Mapping[str, str], by_name: Mapping[str, set[int]], structures: Sequence[str]
) -> tuple[tuple[int, int] | None, str]:
    """Return row and structure of the array, or what is wrong."""
    found = by_name.get(row["case"], set())
    if len(found) != 1:
        told = "is no case of this dataset" if not found else f"stands for {len(found)} cases: write its whole path"
        return None, f"case {row['case']!r} {told}"
    if row["structure"] not in structures:
        return None, f"structure {row['structure']!r} is none of {', '.join(structures)}"
    return (next(iter(found)), list(structures).index(row["structure"])), ""


def _coordinates(row: Mapping[str, str], kind: str, shape: tuple[int, int]) -> list[float] | str:
    """Return the numbers of a row, or what is wrong with them."""
    numbers = []
    for position, name in enumerate(COORDINATES[kind]):
        limit = shape[1 - position % 2]
        try:
            value = float(row[name])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            return f"{name} is {row[name]!r}: it must be a number of pixels"
        if not 0 <= value <= limit - 1:
            return f"{name} is {value:g}, outside of the image's 0 to {limit - 1}"
        numbers.append(value)
    if kind == "box" and (numbers[0] > numbers[2] or numbers[1] > numbers[3]):
        return f"the box {numbers} is empty: x0 ≤ x1 and y0 ≤ y1 are needed"
    return numbers


def _in_cache(numbers: Sequence[float], box: Sequence[float], size: int) -> list[float]:
    """Return source coordinates in pixels of the cached image, at its border where they lie beyond the crop."""
    found = []
    for position, value in enumerate(numbers):
        low, high = box[position % 2], box[position % 2 + 2]
        found.append(min(max((value + 0.5 - low) * size / (high - low) - 0.5, 0.0), size - 1.0))
    return found


def read_prompts(path: str | Path, case_ids: Sequence[str], *, jitter: float = 0.0) -> Prompts:
    """Read what the rule prompts wrote, in the order of `case_ids`.

    Raises:
        ArtifactError: If it belongs to other cases.
    """
    table, metadata = read_table(path)
    written = table["case_id"].to_pylist()
    kind, structures = str(metadata["kind"]), list(metadata["structures"])
    names = [f"{structure}:{coordinate}" for structure in structures for coordinate in COORDINATES[kind]]
    columns = np.stack([numeric_column(table, name) for name in names], axis=1).astype(np.float32)
    index = {case: row for row, case in enumerate(written)}
    missing = [case for case in case_ids if case not in index]
    if missing:
        raise ArtifactError(f"{path} has no prompts for {missing[0]!r}: delete it and run snakemake again")
    rows = [index[case] for case in case_ids]
    values = columns[rows].reshape(len(rows), len(structures), -1)
    return Prompts(kind, values, str(metadata["source"]), jitter)

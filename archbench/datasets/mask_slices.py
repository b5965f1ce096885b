"""One image with its mask in the form that is trained on: pictures, and masks whose values are class indices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import atomic_path
from archbench.datasets import MaskSettings
from archbench.mask_files import NIFTI, Mask, MaskError, differing_space, read_image, read_mask, suffix_of

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Row:
    """One slice or picture.

    Attributes:
        image: Relative to the work folder (slices) or to the data root.
        mask: Class indices, relative to the same folder.
        part: Mark of the block of its volume, behind the patient's name.
        present: Whether each structure is in it.
        spacing_mm: Of rows and columns.
        slice_mm: Of slices; None for a picture.
    """

    image: str
    mask: str
    part: str
    present: Mapping[str, bool]
    spacing_mm: tuple[float, float]
    slice_mm: float | None = None


@dataclass(frozen=True)
class Conversion:
    """What became of a pair; `values` are those of the mask file."""

    rows: list[Row]
    sliced: bool
    values: set[int]


def convert_pair(case: str, image: Path, mask: Path, plan: MaskSettings, *, root: Path, work: Path) -> Conversion:
    """Check a pair and write its masks, and its slices if it is NIfTI, below `work`.

    Raises:
        MaskError: Naming the file, what is wrong with it, and what to do.
    """
    spacing = None if plan.spacing_mm is None else (plan.spacing_mm,)
    truth = _told(mask, lambda: read_mask(mask, spacing_mm=spacing))
    if (suffix_of(image.name) in NIFTI) != (suffix_of(mask.name) in NIFTI):
        raise MaskError(f"{mask}: one of image and mask is NIfTI and {image.name} is not: convert one of them")
    values = set(np.unique(truth.labels).tolist())
    _check_named(values, plan, mask)
    labels = class_indices(truth.labels, plan.structures)
    if suffix_of(image.name) in NIFTI:
        picture = _told(image, lambda: read_image(image))
        if words := differing_space(picture, truth):
            raise MaskError(f"{mask}: {words} (image {image}): resample the mask onto the image by nearest neighbour")
        return Conversion(_slices(case, picture, labels, plan, work), True, values)
    size = _told(image, lambda: _picture_size(image))
    if size != labels.shape:
        raise MaskError(f"{mask}: {labels.shape} pixels, its image {image} has {size}: they must be the same picture")
    file = work / "masks" / f"{case}.png"
    _write(file, labels)
    place = os.path.relpath(file, root)
    present = _present(labels, plan)
    row = Row(image.relative_to(root).as_posix(), Path(place).as_posix(), "", present, truth.spacing_mm)  # type: ignore[arg-type]
    return Conversion([row], False, values)


def _check_named(values: set[int], plan: MaskSettings, mask: Path) -> None:
    """Refuse values that no structure names, unless they are declared background."""
    named = {0}.union(*plan.structures.values())
    if plan.other_values == "error" and all(plan.structures.values()) and values - named:
        shown = ", ".join(map(str, sorted(values - named)[:12]))
        raise MaskError(
            f"{mask}: no structure names its values {shown}: name them in segmentation.structures, correct the mask, "
            "or set segmentation.other_values: background"
        )


def class_indices(values: Array, structures: Mapping[str, tuple[int, ...]]) -> Array:
    """Return 0 for the background, 1 for the first structure and so on, uint8.

    Args:
        structures: Values of each structure; none means every value but 0.
    """
    labels = np.zeros(values.shape, dtype=np.uint8)
    for index, wanted in enumerate(structures.values(), start=1):
        labels[np.isin(values, wanted) if wanted else values != 0] = index
    return labels


def _told(path: Path, read: Any) -> Any:
    try:
        return read()
    except MaskError as error:
        raise MaskError(f"{path}: {error}") from error


def _picture_size(path: Path) -> tuple[int, int]:
    from archbench_predict.images import ImageError, decode, read_image_file

    try:
        pixels = decode(read_image_file(path), max_pixels=200_000_000, intensity="min_max")
    except ImageError as error:
        raise MaskError(f"{error}: copy or export it again") from error
    return int(pixels.shape[0]), int(pixels.shape[1])


def _slices(case: str, picture: Mask, labels: Array, plan: MaskSettings, work: Path) -> list[Row]:
    """Write the axial slices of a volume, the patient's right on the left, as PNG with their masks."""
    from archbench_predict.scans import axial, axial_spacing, gray_limits, to_gray

    assert picture.affine is not None  # only NIfTI is sliced
    image, mask = (axial(array, picture.affine) for array in (picture.labels, labels))
    rows_mm, columns_mm, slices_mm = axial_spacing(picture.spacing_mm, picture.affine)
    limits, rows = gray_limits(image, plan.window), []
    for index, part in _chosen(image.shape[2], plan):
        name = slice_name(case, index)
        _write(work / "images" / name, to_gray(image[:, :, index], limits))
        _write(work / "masks" / name, mask[:, :, index])
        present, spacing = _present(mask[:, :, index], plan), (rows_mm, columns_mm)
        rows.append(Row(f"images/{name}", f"masks/{name}", part, present, spacing, slices_mm * plan.slice_step))
    return rows


def slice_name(case: str, index: int) -> str:
    """Return the file of a slice, below the folders of images and of masks."""
    return f"{case}/{index:04d}.png"


def slice_index(file: str) -> int:
    """Return the index of a slice of its volume, from its file's name."""
    return int(Path(file).stem)


def _chosen(n: int, plan: MaskSettings) -> list[tuple[int, str]]:
    """Indices of the slices that become cases, with the mark of their block."""
    indices = range(0, n, plan.slice_step)
    if not plan.blocks:
        return [(index, "") for index in indices]
    edges = np.linspace(0, n, plan.blocks + 1)
    found = []
    for index in indices:
        block = int(np.searchsorted(edges, index, side="right")) - 1
        if index - edges[block] >= (plan.block_gap if block else 0):
            found.append((index, f"-part{block:02d}"))
    return found


def _present(labels: Array, plan: MaskSettings) -> dict[str, bool]:
    there = set(np.unique(labels).tolist())
    return {name: index in there for index, name in enumerate(plan.structures, start=1)}


def _write(path: Path, pixels: Array) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, format="PNG")

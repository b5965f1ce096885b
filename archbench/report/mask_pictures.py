"""Overlays of a predicted mask and the true one: agreement, missed, false and mistaken in four colours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import atomic_path
from archbench.mask_evaluation import examples
from archbench.mask_files import Mask, read_mask, read_picture
from archbench.mask_measurement import CaseResult
from archbench.mask_pairs import MaskCase

Array = np.ndarray[Any, np.dtype[Any]]

# Okabe and Ito's colours, told apart by colour-blind readers too
COLOURS = {"agreement": "#009E73", "missed": "#D55E00", "false": "#56B4E9", "other label": "#CC79A7"}
SIDE = 360  # pixels of the longer side
OPACITY = 0.6


def write_overlays(
    output: Path,
    results: Sequence[CaseResult],
    cases: Sequence[MaskCase],
    *,
    images: Callable[[str], Path | None],
    scored: Mapping[str, int | None],
    spacing_mm: Callable[[str], Sequence[float] | None],
) -> list[dict[str, Any]]:
    """Draw best, median and worst case of each tool below overlays/, and return what summary.json says of them.

    Args:
        images: The image of a case, to draw over.
        spacing_mm: Of a case whose files lack one.
    """
    by_name = {(case.name, case.seed): case for case in cases}
    drawn = []
    for example in examples(results):
        case = by_name[example.case, example.seed]
        stem = re.sub(r"[^\w.-]+", "_", example.tool)
        file = Path("overlays") / f"{stem}-{example.kind}.png"
        note = write_overlay(
            output / file,
            truth=case.truth,
            prediction=case.predictions[example.tool],
            image=images(example.case),
            scored=scored,
            spacing_mm=spacing_mm(example.case),
        )
        drawn.append({**vars(example), "file": file.as_posix(), "note": note})
    return drawn


def write_overlay(
    output: Path,
    *,
    truth: Path,
    prediction: Path,
    image: Path | None,
    scored: Mapping[str, int | None],
    spacing_mm: Sequence[float] | None,
) -> str | None:
    """Draw the slice in which truth and prediction together are largest, as PNG.

    Args:
        image: To draw over; None draws on black.
    Returns:
        Why the image could not be drawn over, None if it could or there is none.
    """
    true, said = (read_mask(path, spacing_mm=spacing_mm) for path in (truth, prediction))
    labels = [_chosen(mask.labels, scored) for mask in (true, said)]
    picture, problem = _background(image, labels[0].shape)
    planes, step = _planes([*labels, picture], true)
    colours = paint(*planes)
    _save(output, colours, step)
    return problem


def _chosen(labels: Array, scored: Mapping[str, int | None]) -> Array:
    """Labels that are scored; others count as background."""
    if None in scored.values():
        return (labels != 0).astype(np.uint8)
    return np.where(np.isin(labels, [label for label in scored.values() if label is not None]), labels, 0)


def _background(image: Path | None, shape: tuple[int, ...]) -> tuple[Array, str | None]:
    black = np.zeros(shape, dtype=np.float32)
    if image is None:
        return black, None
    try:
        values = read_picture(image)
    except ValueError as error:
        return black, f"{image.name}: {error}"
    if values.shape != shape:
        return black, f"{image.name} has the shape {values.shape}, the mask {shape}"
    return values, None


def _planes(arrays: Sequence[Array], mask: Mask) -> tuple[list[Array], tuple[float, float]]:
    """One slice of each array as rows and columns of a picture, and their spacing.

    NIfTI volumes are shown in axial slices, the patient's right on the left; TIFF volumes page by page.
    """
    spacing: tuple[float, ...] = mask.spacing_mm
    if mask.affine is None:
        index = _largest(arrays[0], arrays[1], axis=0) if arrays[0].ndim == 3 else None
        planes = [array if index is None else array[index] for array in arrays]
        return planes, (spacing[-2], spacing[-1])
    if arrays[0].ndim == 2:
        return [array.T for array in arrays], (spacing[1], spacing[0])
    from nibabel.orientations import apply_orientation, io_orientation

    turn = io_orientation(mask.affine)
    turned = [apply_orientation(array, turn) for array in arrays]
    across = {int(new): spacing[old] for old, new in enumerate(turn[:, 0])}
    index = _largest(turned[0], turned[1], axis=2)
    return [array[::-1, ::-1, index].T for array in turned], (across[1], across[0])


def _largest(truth: Array, prediction: Array, *, axis: int) -> int:
    others = tuple(k for k in range(3) if k != axis)
    return int(((truth != 0) | (prediction != 0)).sum(axis=others).argmax())


def paint(truth: Array, prediction: Array, picture: Array) -> Array:
    """Return the overlay, shape (H, W, 3), uint8.

    Args:
        truth: Labels, shape (H, W).
        prediction: Labels, shape (H, W).
        picture: Gray values of any range, shape (H, W); the central 98 % are spread from black to white.
    """
    finite = np.nan_to_num(picture.astype(np.float32))
    low, high = np.percentile(finite, [1, 99])
    gray = np.clip((finite - low) / (high - low), 0, 1) if high > low else np.zeros_like(finite)
    result = np.repeat(255 * gray[..., None], 3, axis=2)
    areas = {
        "agreement": (truth != 0) & (truth == prediction),
        "missed": (truth != 0) & (prediction == 0),
        "false": (truth == 0) & (prediction != 0),
        "other label": (truth != 0) & (prediction != 0) & (truth != prediction),
    }
    for name, area in areas.items():
        colour = np.array([int(COLOURS[name][k : k + 2], 16) for k in (1, 3, 5)])
        result[area] = (1 - OPACITY) * result[area] + OPACITY * colour
    return result.round().astype(np.uint8)


def _save(path: Path, colours: Array, step: tuple[float, float]) -> None:
    from PIL import Image

    height, width = colours.shape[0] * step[0], colours.shape[1] * step[1]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    with atomic_path(path) as temporary:
        Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).save(temporary, format="PNG", optimize=True)

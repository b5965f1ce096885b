"""Masks from files: labels with their voxel spacing and, for NIfTI, their place in space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

NIFTI = (".nii.gz", ".nii")
PICTURES = (".png", ".tif", ".tiff")
MAX_VOXELS = 2_000_000_000  # a damaged header must not make us allocate what it claims
COLOURED = "it holds colours, not label numbers: save one gray value per label"


class MaskError(ValueError):
    """A mask that can't be used; the message says why and what to do, the caller adds the file's name."""


@dataclass(frozen=True)
class Mask:
    """One mask.

    Attributes:
        labels: Integers, 0 the background; (x, y[, z]) from NIfTI, (rows, columns) or (z, rows, columns) else.
        spacing_mm: Distance of neighbours along each axis of `labels`.
        affine: Voxel to world in mm, (4, 4); None for files without a place in space.
    """

    labels: Array
    spacing_mm: tuple[float, ...]
    affine: Array | None


def suffix_of(name: str) -> str | None:
    """The ending of a mask file, `.nii.gz` in one piece; None if it is no mask we read."""
    return next((suffix for suffix in (*NIFTI, *PICTURES) if name.lower().endswith(suffix)), None)


def read_mask(path: Path, *, spacing_mm: Sequence[float] | None = None) -> Mask:
    """Read a NIfTI, PNG or TIFF mask.

    Args:
        spacing_mm: Of PNG and TIFF, one number or one per axis; None counts in pixels. NIfTI says its own.
    Raises:
        MaskError: If the file is damaged, has no valid spacing, or holds something else than labels.
    """
    if suffix_of(path.name) in NIFTI:
        return _read_nifti(path, _checked_labels)
    labels = _checked_labels(_decoded(path))
    return Mask(labels, _given_spacing(spacing_mm, labels.ndim), None)


def read_image(path: Path) -> Mask:
    """Read a NIfTI image whose values are intensities.

    Raises:
        MaskError: As `read_mask`, and if a value is NaN or infinite.
    """
    from archbench_predict.scans import finite

    return _read_nifti(path, finite)


def read_picture(path: Path) -> Array:
    """The gray values of an image that masks are drawn over, any number type, axes as `read_mask` has them."""
    if suffix_of(path.name) in NIFTI:
        return _read_nifti(path, lambda values: values).labels
    return _decoded(path, gray=True)


def _read_nifti(path: Path, convert: Callable[[Array], Array]) -> Mask:
    from archbench_predict.images import ImageError
    from archbench_predict.scans import read_nifti

    try:
        scan = read_nifti(path, max_voxels=MAX_VOXELS)
        return Mask(convert(scan.values), scan.spacing_mm, scan.affine)
    except ImageError as error:
        raise MaskError(str(error)) from error


def _decoded(path: Path, *, gray: bool = False) -> Array:
    try:
        values, coloured = _read_tiff(path) if suffix_of(path.name) != ".png" else _read_png(path)
    except Exception as error:  # the decoders raise whatever damaged bytes lead to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MaskError(f"damaged or no image ({reason}): copy or export it again") from error
    if coloured:
        values = _one_channel(values, gray=gray)
    if values.ndim not in (2, 3):
        raise MaskError(f"{values.ndim} dimensions {values.shape} where 2 or 3 are due: save one mask per file")
    return values


def _read_png(path: Path) -> tuple[Array, bool]:
    """Values, and whether the last axis holds channels. A palette's indices are the labels."""
    from PIL import Image

    with Image.open(path) as image:
        values = np.asarray(image)
    return values, values.ndim == 3


def _read_tiff(path: Path) -> tuple[Array, bool]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise ValueError(f"it holds {len(file.series)} images")
        series = file.series[0]
        if np.prod(series.shape, dtype=np.float64) > MAX_VOXELS:
            raise ValueError(f"the header claims the shape {series.shape}")
        return series.asarray(), "S" in series.axes


def _one_channel(values: Array, *, gray: bool) -> Array:
    """Equal colour channels as one; pictures may have colours and become gray, masks may not."""
    alpha = values.shape[-1] in (2, 4)
    colours = values[..., :-1] if alpha else values
    if gray:
        return colours.mean(axis=-1)
    opaque = not alpha or bool((values[..., -1] == np.iinfo(values.dtype).max).all())
    if not opaque or not (colours == colours[..., :1]).all():
        raise MaskError("it holds colours, not label numbers: save one gray value per label")
    return colours[..., 0]


def _given_spacing(spacing_mm: Sequence[float] | None, axes: int) -> tuple[float, ...]:
    given = tuple(spacing_mm or (1.0,))
    if len(given) not in (1, axes):
        raise MaskError(f"{axes} axes but {len(given)} spacings: give --spacing-mm one number, or {axes}")
    return given * axes if len(given) == 1 else given


def _checked_labels(values: Array) -> Array:
    """Whole numbers in the smallest type that holds them.

    Raises:
        MaskError: If values are not finite or not whole.
    """
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        lost = sum(int(np.count_nonzero(~np.isfinite(part))) for part in values)
        if lost:
            raise MaskError(f"{lost} voxels are NaN or infinite: a label is missing there, export the mask again")
        broken = next((part[part != np.rint(part)] for part in values if (part != np.rint(part)).any()), None)
        if broken is not None:
            raise MaskError(f"values such as {broken[0]:g} are no labels: threshold probabilities, resample by nearest")
    elif values.dtype.kind not in "iu":
        raise MaskError(f"values of type {values.dtype} are no labels: save whole numbers")
    low, high = int(values.min()), int(values.max())
    return values.astype(np.result_type(np.min_scalar_type(low), np.min_scalar_type(high)))


def differing_space(first: Mask, second: Mask) -> str | None:
    """Say how two masks differ in size or place, None if they lie on the same voxels.

    Corners may be 5 % of the smallest spacing apart: writers round their matrices differently.
    """
    import nibabel

    if first.labels.shape != second.labels.shape:
        return f"shapes differ: {first.labels.shape} and {second.labels.shape}"
    if (first.affine is None) != (second.affine is None):
        return "one is NIfTI and one is not, so that their axes can't be matched"
    if first.affine is None or second.affine is None:
        return None
    corners = np.array(np.meshgrid(*[[0, size - 1] for size in _cube(first.labels.shape)])).reshape(3, -1)
    apart = (first.affine - second.affine) @ np.vstack([corners, np.ones(corners.shape[1])])
    farthest = float(np.linalg.norm(apart[:3], axis=0).max())
    if farthest <= 0.05 * min(first.spacing_mm):
        return None
    axes = ["".join(nibabel.aff2axcodes(mask.affine)) for mask in (first, second)]
    orientation = f", orientations {axes[0]} and {axes[1]}" if axes[0] != axes[1] else ""
    return f"affines differ by up to {farthest:.3g} mm{orientation}"


def _cube(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1) if len(shape) == 2 else shape

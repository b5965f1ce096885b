"""Scans of which masks are drawn: NIfTI and MetaImage files in their own axes, seen as axial slices of gray values.

The workflow cuts its training slices by the same functions, so that a new scan looks to a network as the trained ones
did; a mask is written into the axes of its file.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench_predict.description import DescriptionError
from archbench_predict.images import ImageError
from archbench_predict.metaimage import MetaImageError, read_metaimage

SUFFIXES = (".nii.gz", ".nii", ".mha")
MM_PER_UNIT = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}
MARGIN = 1.0  # percent of the values at either end that are cut where no window is given

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Scan:
    """A file's values in its own axes.

    Attributes:
        values: Shape (x, y) or (x, y, z), as stored or scaled by the header.
        spacing_mm: Distance of neighbours along each axis of `values`.
        affine: Voxel to world (RAS), millimetres, (4, 4).
        shape: Of the file, with axes of one voxel behind the last used one.
        header: Of a NIfTI file; None of others.
    """

    values: Array
    spacing_mm: tuple[float, ...]
    affine: Array
    shape: tuple[int, ...]
    header: Any = None


@dataclass(frozen=True)
class SliceSettings:
    """How slices become gray pictures.

    Attributes:
        window: Values that become black and white; None takes each scan's own 1 % and 99 % quantile.
        max_voxels: A header that claims more is refused.
    """

    window: tuple[float, float] | None
    max_voxels: int


def describe_slices(settings: SliceSettings) -> dict[str, Any]:
    """Return what is done to a scan before its slices are treated as pictures, as plain data."""
    window = None if settings.window is None else list(settings.window)
    return {
        "read": {"max_voxels": settings.max_voxels, "axes": "axial slices, front at the top, right side on the left"},
        "gray": {"window": window, "cut_percent": None if window else MARGIN, "levels": 256},
    }


def described_slices(description: Mapping[str, Any]) -> SliceSettings:
    """Return the settings that a description states.

    Raises:
        DescriptionError: If this code would do anything else than what is described.
    """
    try:
        window = description["gray"]["window"]
        read = int(description["read"]["max_voxels"])
        found = SliceSettings(None if window is None else (float(window[0]), float(window[1])), read)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DescriptionError(f"the description of the slices lacks something: {error!r}") from error
    if describe_slices(found) != dict(description):
        raise DescriptionError(
            "the description of the slices asks for something that this version of archbench-predict doesn't do: "
            "install the runner of the archbench that wrote the bundle"
        )
    return found


def read_scan(path: Path, *, max_voxels: int) -> Scan:
    """Return the scan in a NIfTI or MetaImage file; messages don't name it.

    Raises:
        ImageError: If the file is missing, damaged or too large, has no valid spacing, or holds NaN.
    """
    if not path.is_file():
        raise ImageError("missing_file", f"no such file: {path}")
    metaimage = path.name.lower().endswith(".mha")
    scan = (_metaimage if metaimage else read_nifti)(path, max_voxels=max_voxels)
    finite(scan.values)
    return scan


def finite(values: Array) -> Array:
    """Return the values; an ImageError if one of them is no number."""
    if values.dtype.kind == "f" and (lost := int(np.count_nonzero(~np.isfinite(values)))):
        raise ImageError(
            "unreadable", f"{lost} voxels are NaN or infinite: export the image again, they can't be guessed"
        )
    return values


def read_nifti(path: Path, *, max_voxels: int) -> Scan:
    """Return what a NIfTI file holds, intensities or labels.

    Raises:
        ImageError: If it is damaged, too large, or has no valid spacing.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image: Any = nibabel.load(path)
        shape, spacing = _space(image, _stored_zooms(path, image), max_voxels=max_voxels)
        values = np.asanyarray(image.dataobj).reshape(shape)
    except ImageError:
        raise
    except (ImageFileError, HeaderDataError, EOFError, OSError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError("truncated", f"damaged or truncated NIfTI ({reason}): copy or export it again") from error
    return Scan(values, spacing, np.asarray(image.affine, dtype=np.float64), tuple(image.shape), image.header)


def _stored_zooms(path: Path, image: Any) -> list[Any]:
    """Spacing as the file says it: nibabel replaces a missing one by 1."""
    from nibabel.openers import ImageOpener

    with ImageOpener(str(path)) as file:
        header: Any = type(image.header).from_fileobj(file, check=False)
    return list(header["pixdim"][1 : 1 + len(image.shape)])


def _space(image: Any, zooms: list[Any], *, max_voxels: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Shape without trailing axes of one voxel, and spacing, from the header alone."""
    shape = [int(size) for size in image.shape]
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()
    if len(shape) not in (2, 3):
        raise ImageError(
            "unreadable", f"{len(shape)} dimensions {tuple(shape)} where 2 or 3 are due: save one volume per file"
        )
    if min(shape) < 1 or np.prod(shape, dtype=np.float64) > max_voxels:
        raise ImageError(
            "oversized",
            f"the header claims the shape {tuple(shape)}: it is damaged, or larger than the limit of {max_voxels} "
            "voxels",
        )
    unit = image.header.get_xyzt_units()[0]
    # the shortest decimal of the stored 32-bit number: 0.7, not 0.699999988
    spacing = tuple(float(str(np.float32(zoom))) * MM_PER_UNIT.get(unit, 1.0) for zoom in zooms)[: len(shape)]
    if not all(np.isfinite(value) and value > 0 for value in spacing) or not np.isfinite(image.affine).all():
        raise ImageError(
            "no_spacing", f"no valid voxel spacing in the header (pixdim {spacing}): export it with its geometry"
        )
    return tuple(shape), spacing


def _metaimage(path: Path, *, max_voxels: int) -> Scan:
    def check(size: tuple[int, ...]) -> None:
        if len(size) not in (2, 3) or np.prod(size, dtype=np.float64) > max_voxels:
            raise ImageError("oversized", f"the header claims the shape {size}, the limit is {max_voxels} voxels in 3D")

    try:
        found = read_metaimage(path, check=check)
    except MetaImageError as error:
        raise ImageError("unreadable", str(error)) from error
    return Scan(found.values, found.spacing_mm, found.affine, found.values.shape)


def axial(array: Array, affine: Array) -> Array:
    """Return an array (x, y[, z]) seen as (rows, columns, slices), the patient's right on the left, without a copy."""
    from nibabel.orientations import apply_orientation, io_orientation

    volume = array if array.ndim == 3 else array[:, :, None]
    return np.asarray(apply_orientation(volume, io_orientation(affine))[::-1, ::-1].transpose(1, 0, 2))


def axial_spacing(spacing_mm: tuple[float, ...], affine: Array) -> tuple[float, float, float]:
    """Return the spacing of rows, columns and slices as `axial` has them; 1 between slices of a single one."""
    from nibabel.orientations import io_orientation

    given = (*spacing_mm, 1.0)[:3]
    across = {int(new): given[old] for old, new in enumerate(io_orientation(affine)[:, 0])}
    return across[1], across[0], across[2]


def gray_limits(values: Array, window: tuple[float, float] | None) -> tuple[float, float]:
    """Return the values that become black and white."""
    low, high = window or np.percentile(values, [MARGIN, 100 - MARGIN]).tolist()
    return float(low), float(high)


def to_gray(plane: Array, limits: tuple[float, float]) -> Array:
    """Return a slice as gray pixels, uint8, same shape."""
    low, high = limits
    gray = np.clip((plane.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    return np.asarray(np.rint(255 * gray).astype(np.uint8))


def write_nifti_mask(path: Path, labels: Array, scan: Scan) -> None:
    """Write a mask as NIfTI where its scan lies.

    Args:
        labels: Class indices, uint8, shape of `scan.values`.
    """
    import nibabel

    image: Any = nibabel.Nifti1Image(labels.reshape(scan.shape), scan.affine, scan.header)
    image.header.set_data_dtype(np.uint8)
    image.header["cal_min"], image.header["cal_max"] = 0, 0  # the display range of the scan, not of labels
    image.header.extensions.clear()  # which may name the patient
    image.header["descrip"] = b""
    nibabel.save(image, path)

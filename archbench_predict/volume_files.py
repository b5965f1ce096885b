"""Files of CT volumes: NIfTI, MetaImage (.mha), and folders of `.npy` slices with their table.

What a file can't be trusted in is refused here with the file's name: nothing is repaired, nothing becomes zeros.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench_predict.images import ImageError
from archbench_predict.metaimage import MetaImageError, read_metaimage

SUFFIXES = (".nii.gz", ".nii", ".mha", "slices.csv")
SLICE_TABLE = "slices.csv"
SLICE_COLUMNS = ("file", "z_mm", "spacing_y_mm", "spacing_x_mm")
OBLIQUE_DEGREES = 15.0
EVEN = 0.01  # relative difference up to which two spacings are the same

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class StoredVolume:
    """What a file holds, turned to RAS, its values as they are stored.

    Attributes:
        values: Shape (Z, Y, X), any real type, possibly a view.
        slope, intercept: Of the file's own header.
        spacing_mm: (z, y, x), None if the file does not say.
    """

    values: np.ndarray
    slope: float
    intercept: float
    spacing_mm: Triple | None
    orientation: str
    notes: tuple[str, ...] = ()


def stored_volume(path: Path, *, max_voxels: int) -> StoredVolume:
    """The volume in a file.

    Args:
        max_voxels: A header that claims more is refused before the voxels are read.
    Raises:
        ImageError: If the file is missing, damaged, too large, or no volume.
    """
    if not path.is_file():
        raise ImageError("missing_file", f"no such file: {path}; fetch it, or take its row out")
    if path.stat().st_size == 0:
        raise ImageError("unreadable", f"{path}: the file is empty; fetch it again")
    if path.name == SLICE_TABLE:
        return _slice_folder(path, max_voxels=max_voxels)
    if path.name.lower().endswith(".mha"):
        return _metaimage(path, max_voxels=max_voxels)
    return _nifti(path, max_voxels=max_voxels)


def content_files(path: Path) -> list[Path]:
    """The files that a volume is made of, for its content hash: itself, and the slices that a table names."""
    if path.name != SLICE_TABLE:
        return [path]
    return [path, *(path.parent / row["file"] for row in _slice_rows(path))]


def _nifti(path: Path, *, max_voxels: int) -> StoredVolume:
    import nibabel

    try:
        image: Any = nibabel.load(path)
        _check_shape(path, image.shape, max_voxels=max_voxels)
        shape = image.shape[:3]
        header = image.header
        zooms = tuple(float(value) for value in header.get_zooms()[:3])
        says_nothing = not (int(header["qform_code"]) or int(header["sform_code"])) and zooms == (1.0, 1.0, 1.0)
        affine = np.asarray(image.affine, dtype=np.float64)
    except ImageError:
        raise
    except Exception as error:  # nibabel raises whatever the damaged bytes lead to
        raise ImageError("unreadable", f"{path}: no readable NIfTI file ({error}); fetch it again") from error
    _check_directions(path, affine)
    try:
        values = np.asanyarray(image.dataobj.get_unscaled()).reshape(shape)
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise ImageError(
            "truncated", f"{path}: the voxels end early or are damaged ({error}); fetch it again"
        ) from error
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    notes = [] if says_nothing else _header_notes(zooms, lengths)
    return _turned(values, affine, None if says_nothing else lengths, slope, intercept, notes)


def _header_notes(zooms: tuple[float, ...], lengths: np.ndarray) -> list[str]:
    if np.allclose(zooms, lengths, rtol=EVEN):
        return []
    shown = [", ".join(f"{value:.4g}" for value in values) for values in (zooms, lengths.tolist())]
    return [f"the header's voxel sizes ({shown[0]} mm) contradict its affine ({shown[1]} mm), which is used"]


def _check_shape(path: Path, shape: tuple[int, ...], *, max_voxels: int) -> None:
    sizes = tuple(int(size) for size in shape)
    if len(sizes) > 3 and any(size != 1 for size in sizes[3:]):
        raise ImageError("not_a_volume", f"{path}: {len(sizes)}D, shape {sizes}, a volume has 3; extract one volume")
    if len(sizes) < 3 or min(sizes) < 1 or sizes[2] == 1:
        raise ImageError("not_a_volume", f"{path}: shape {sizes} is a picture, not a volume")
    if sizes[0] * sizes[1] * sizes[2] > max_voxels:
        raise ImageError(
            "oversized", f"{path}: the header claims {sizes} voxels, more than audit.max_pixels ({max_voxels})"
        )


def _check_directions(path: Path, affine: np.ndarray) -> None:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (lengths <= 0).any():
        raise ImageError("no_spacing", f"{path}: the header gives no usable voxel size; write the spacing into it")
    cosines = affine[:3, :3] / lengths
    if abs(np.linalg.det(cosines)) < 0.5:
        raise ImageError("unreadable", f"{path}: the header's axes are not at right angles; resample the volume")


def _turned(
    values: np.ndarray,
    affine: np.ndarray,
    lengths: np.ndarray | None,
    slope: float,
    intercept: float,
    notes: list[str],
) -> StoredVolume:
    """The volume of axes (X, Y, Z) with a RAS affine as (Z, Y, X) in RAS, without a copy."""
    from nibabel.orientations import apply_orientation, io_orientation, ornt2axcodes

    axes = io_orientation(affine)
    turned = apply_orientation(values, axes)
    order = np.argsort(axes[:, 0])
    spacing = None
    if lengths is not None:
        x, y, z = (float(lengths[int(axis)]) for axis in order)
        spacing = (z, y, x)
        cosines = np.abs(affine[:3, :3] / lengths).max(axis=0)
        degrees = float(np.degrees(np.arccos(np.clip(cosines.min(), 0, 1))))
        if degrees > OBLIQUE_DEGREES:
            notes = [*notes, f"the axes are {degrees:.0f} degrees off the body's; they are not straightened"]
    return StoredVolume(
        values=turned.transpose(2, 1, 0),
        slope=slope,
        intercept=intercept,
        spacing_mm=spacing,
        orientation="".join(ornt2axcodes(axes)),
        notes=tuple(notes),
    )


def _metaimage(path: Path, *, max_voxels: int) -> StoredVolume:
    try:
        found = read_metaimage(path, check=lambda size: _check_shape(path, size, max_voxels=max_voxels))
    except MetaImageError as error:
        raise ImageError("unreadable", f"{path}: {error}") from error
    _check_directions(path, found.affine)
    values = found.values.reshape(found.values.shape[:3])
    return _turned(values, found.affine, np.array(found.spacing_mm[:3]), 1.0, 0.0, [])


def _slice_folder(path: Path, *, max_voxels: int) -> StoredVolume:
    """The volume of a table with columns file, z_mm, spacing_y_mm, spacing_x_mm; slices lie as they are displayed."""
    rows = sorted(_slice_rows(path), key=lambda row: float(row["z_mm"]))
    heights = np.array([float(row["z_mm"]) for row in rows])
    steps = np.diff(heights)
    if len(rows) < 2 or (steps <= 0).any() or not np.allclose(steps, steps.mean(), rtol=0.05):
        raise ImageError(
            "missing_file", f"{path}: the slices' heights (z_mm) are not even: one is missing, or named twice"
        )
    planes: list[np.ndarray] = []
    for row in rows:
        planes.append(_plane(path.parent / row["file"], like=planes[0] if planes else None))
        if len(rows) * planes[0].size > max_voxels:
            raise ImageError("oversized", f"{path}: more voxels than audit.max_pixels ({max_voxels})")
    spacing = float(steps.mean()), float(rows[0]["spacing_y_mm"]), float(rows[0]["spacing_x_mm"])
    if not min(spacing) > 0:
        raise ImageError("no_spacing", f"{path}: a spacing is not above 0; correct the table")
    # as displayed: front at the top, the right side on the left; RAS has both axes the other way
    return StoredVolume(np.stack(planes)[:, ::-1, ::-1], 1.0, 0.0, spacing, "LPS")


def _plane(path: Path, *, like: np.ndarray | None) -> np.ndarray:
    if not path.is_file():
        raise ImageError("missing_file", f"no such slice: {path}; fetch it, or take the volume out")
    try:
        plane: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ImageError("unreadable", f"{path}: no readable .npy slice ({error}); fetch it again") from error
    if plane.ndim != 2 or (like is not None and plane.shape != like.shape):
        expected = "two axes" if like is None else f"shape {like.shape}"
        raise ImageError("not_a_volume", f"{path}: shape {plane.shape}, where the volume needs {expected}")
    return plane


def _slice_rows(path: Path) -> list[Mapping[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows: list[Mapping[str, str]] = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageError("unreadable", f"{path}: no readable table ({error})") from error
    lacking = [name for name in SLICE_COLUMNS if not rows or name not in rows[0]]
    if lacking:
        raise ImageError("unreadable", f"{path}: no column or row for {', '.join(lacking)}")
    for number, row in enumerate(rows, start=2):
        if not (row["file"] or "").strip() or Path(row["file"]).is_absolute() or ".." in Path(row["file"]).parts:
            raise ImageError("unreadable", f"{path}, line {number}: file {row['file']!r} is no path in this folder")
        try:
            numbers = [float(row[name]) for name in SLICE_COLUMNS[1:]]
        except (TypeError, ValueError):
            numbers = [float("nan")]
        if not np.isfinite(numbers).all():
            raise ImageError("unreadable", f"{path}, line {number}: a height or spacing is no number")
    return rows

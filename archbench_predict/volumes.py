"""From a CT volume to the slices that networks see: chosen along the body, resampled, in Hounsfield units.

The workflow's cache and the runner share this code, so that a new volume is prepared as the trained ones were.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from archbench_predict.hounsfield import Declared, to_hounsfield
from archbench_predict.images import ImageError
from archbench_predict.volume_files import EVEN, content_files, stored_volume

AIR_HU = -1000
ANATOMICAL = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
OUTER_SHARE = 0.2  # of the slices of `multi`, in the lowest third and again in the highest
LUNG_HU = (-950, -400)


@dataclass(frozen=True)
class Volume:
    """A CT volume turned to RAS: slices from feet to head, rows from back to front, columns from left to right.

    Attributes:
        voxels: Hounsfield units, int16, shape (Z, Y, X).
        spacing_mm: Voxel spacing (z, y, x), millimetres.
        orientation: How the file had its axes, such as LPS.
        was_rescaled: The file held Hounsfield units already, so a declared slope and intercept were left alone.
        notes: What about the file is odd but no fault, such as a spacing that its metadata contradict.
    """

    voxels: np.ndarray
    spacing_mm: tuple[float, float, float]
    orientation: str = "RAS"
    was_rescaled: bool = False
    notes: tuple[str, ...] = ()

    @property
    def height_mm(self) -> float:
        """From the lower face of the lowest slice to the upper face of the highest."""
        return len(self.voxels) * self.spacing_mm[0]


@dataclass(frozen=True)
class VolumeSettings:
    """How slices are made from a volume.

    Attributes:
        strategy: multi: `count` slices, a fifth of them in the lowest third of the volume, a fifth in the highest;
            anatomical: six slices at fixed shares of the height; all: the whole volume resampled to `count`
            slices; best: the one slice with most lung.
        spacing_mm: (z, y, x) to resample to; the size in pixels then cuts a field of view out of the centre, and what
            it lacks is air. None keeps the file's slices and squeezes each whole slice into the square.
    """

    strategy: str = "multi"
    count: int = 12
    spacing_mm: tuple[float, float, float] | None = None

    @property
    def depth(self) -> int:
        """Number of slices D."""
        return {"anatomical": len(ANATOMICAL), "best": 1}.get(self.strategy, self.count)


def read_volume(
    path: str | Path,
    *,
    declared: Declared | None = None,
    rescale: str = "auto",
    max_voxels: int = 200_000_000,
) -> Volume:
    """The volume in a NIfTI or MetaImage file, or in the folder of a `slices.csv`, in Hounsfield units.

    Args:
        declared: What a table says beside the file: slope and intercept, and the spacing where the file has none.
        rescale: Whether declared slope and intercept are applied: auto (unless the values are Hounsfield units
            already), always, never.
        max_voxels: A header that claims more is refused.
    Raises:
        ImageError: If the file is missing, damaged or too large, is no volume, has no spacing, or holds NaN.
    """
    path, declared = Path(path), declared or Declared()
    stored = stored_volume(path, max_voxels=max_voxels)
    spacing = stored.spacing_mm or declared.spacing_mm
    if spacing is None:
        remedy = "write it into the header, or name it in the metadata table"
        raise ImageError("no_spacing", f"{path}: neither the file nor a table gives its voxel spacing; {remedy}")
    notes = list(stored.notes)
    if declared.spacing_mm is not None and not np.allclose(spacing, declared.spacing_mm, rtol=EVEN):
        shown = [" x ".join(f"{value:.4g}" for value in values) for values in (spacing, declared.spacing_mm)]
        notes.append(f"spacing {shown[0]} mm in the file, {shown[1]} mm in the metadata; the file's is used")
    voxels, skipped = to_hounsfield(
        stored.values,
        slope=stored.slope,
        intercept=stored.intercept,
        declared=declared,
        rescale=rescale,
        name=str(path),
    )
    return Volume(
        voxels=voxels,
        spacing_mm=spacing,
        orientation=stored.orientation,
        was_rescaled=skipped,
        notes=tuple(notes),
    )


def prepare_volume(
    volume: Volume, settings: VolumeSettings, *, size: int, heights_mm: np.ndarray | None = None
) -> np.ndarray:
    """The slices of a volume in Hounsfield units, int16, shape (D, size, size), from feet to head.

    A slice looks as radiologists are used to: front at the top, the patient's right side on the left.

    Args:
        heights_mm: Where to cut, if `slice_heights` was asked already.
    """
    heights = slice_heights(volume, settings) if heights_mm is None else heights_mm
    thickness = volume.spacing_mm[0] if settings.spacing_mm is None else settings.spacing_mm[0]
    if settings.strategy == "all":
        thickness = volume.height_mm / settings.depth
    prepared = np.empty((len(heights), size, size), dtype=np.int16)
    for index, height in enumerate(heights.tolist()):
        plane = _slab(volume, height, thickness=thickness)[::-1, ::-1]
        prepared[index] = np.rint(_square(plane, volume, settings, size=size))
    return prepared


def slice_heights(volume: Volume, settings: VolumeSettings) -> np.ndarray:
    """Where the slices are cut, millimetres above the lower face of the volume, ascending, shape (D,)."""
    if settings.strategy == "best":
        return (np.array([_most_lung(volume.voxels)]) + 0.5) * volume.spacing_mm[0]
    shares = _shares(settings) * volume.height_mm
    if settings.strategy == "all" or settings.spacing_mm is not None:
        return shares
    index = np.clip(np.floor(shares / volume.spacing_mm[0]), 0, len(volume.voxels) - 1)
    return np.asarray((index + 0.5) * volume.spacing_mm[0])  # a slice of the file as it is, not between two


def _shares(settings: VolumeSettings) -> np.ndarray:
    """Shares of the height, ascending, shape (D,)."""
    if settings.strategy == "anatomical":
        return np.array(ANATOMICAL)
    count = settings.count
    if settings.strategy == "all":
        return (np.arange(count) + 0.5) / count
    outer = round(OUTER_SHARE * count)
    thirds = [(k, number) for k, number in enumerate((outer, count - 2 * outer, outer)) if number]
    return np.concatenate([(k + (np.arange(number) + 0.5) / number) / 3 for k, number in thirds])


def _most_lung(voxels: np.ndarray) -> int:
    lung = [np.count_nonzero((plane >= LUNG_HU[0]) & (plane <= LUNG_HU[1])) for plane in voxels]
    return int(np.argmax(lung))


def _slab(volume: Volume, height_mm: float, *, thickness: float) -> np.ndarray:
    """The mean over a slab around a height, float32, shape (Y, X); a slab thinner than a slice interpolates.

    A box of one source slice's width that lies between two slices weighs them as linear interpolation does, and a wider
    one averages. Only the slices that it touches are read: resampling the whole volume would cost its memory twice.
    """
    step = volume.spacing_mm[0]
    width, centre = max(thickness / step, 1.0), height_mm / step
    faces = np.arange(len(volume.voxels) + 1, dtype=np.float64)
    low, high = centre - width / 2, centre + width / 2
    weights = np.clip(np.minimum(faces[1:], high) - np.maximum(faces[:-1], low), 0, None)
    touched = np.flatnonzero(weights > 1e-6)
    total = np.zeros(volume.voxels.shape[1:], dtype=np.float32)
    for index in touched.tolist():
        total += np.float32(weights[index] / weights[touched].sum()) * volume.voxels[index]
    return total


def _square(plane: np.ndarray, volume: Volume, settings: VolumeSettings, *, size: int) -> np.ndarray:
    if settings.spacing_mm is None:
        return _resized(plane, height=size, width=size)
    shape = _resampled_shape(volume, settings)
    return _centred(_resized(plane, height=shape[0], width=shape[1]), size=size)


def _resampled_shape(volume: Volume, settings: VolumeSettings) -> tuple[int, int]:
    """Rows and columns of a whole slice at the declared spacing, pixels."""
    assert settings.spacing_mm is not None
    pairs = zip(volume.voxels.shape[1:], volume.spacing_mm[1:], settings.spacing_mm[1:], strict=True)
    rows, columns = (max(1, round(number * have / want)) for number, have, want in pairs)
    return rows, columns


def _resized(plane: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Area-averaged where it shrinks, linear where it grows: neither makes values that were not there."""
    shrinks = height <= plane.shape[0] and width <= plane.shape[1]
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(plane, dtype=np.float32), (width, height), interpolation=kind)


def _centred(plane: np.ndarray, *, size: int) -> np.ndarray:
    """The central square of this side; beyond the plane there is air."""
    square: np.ndarray = np.full((size, size), AIR_HU, dtype=np.float32)
    there, here = zip(*(_overlap(length, size) for length in plane.shape), strict=True)
    square[here] = plane[there]
    return square


def _overlap(length: int, size: int) -> tuple[slice, slice]:
    """Where a line of `length` and a centred window of `size` meet: in the line, and in the window."""
    start = (length - size) // 2
    low, high = max(start, 0), min(start + size, length)
    return slice(low, high), slice(low - start, high - start)


def source_box(volume: Volume, settings: VolumeSettings, *, size: int) -> tuple[float, float, float, float]:
    """What of a slice the square shows: x0, y0, x1, y1 in pixels of the source slice, seen as prepared."""
    rows, columns = volume.voxels.shape[1:]
    if settings.spacing_mm is None:
        return 0.0, 0.0, float(columns), float(rows)
    shape = _resampled_shape(volume, settings)
    edges = []
    for source, length in ((columns, shape[1]), (rows, shape[0])):
        start = (length - size) // 2
        edges.append((start * source / length, (start + size) * source / length))
    (x0, x1), (y0, y1) = edges
    return x0, y0, x1, y1


def field_of_view_cut(volume: Volume, settings: VolumeSettings, *, size: int) -> bool:
    """Whether the square leaves more than a tenth of a slice's width or height out."""
    if settings.spacing_mm is None:
        return False
    return any(0.9 * length > size for length in _resampled_shape(volume, settings))


def volume_sha256(path: Path) -> str:
    """Content hash of a volume; of a `slices.csv` the hash of the table and of every slice that it names.

    Raises:
        ImageError: If a file is missing or can't be read.
    """
    total = hashlib.sha256()
    files = content_files(path)
    for file in files:
        try:
            with file.open("rb") as handle:
                one = hashlib.file_digest(handle, "sha256")
        except FileNotFoundError as error:
            raise ImageError("missing_file", f"no such file: {file}; fetch it, or take its row out") from error
        except OSError as error:
            raise ImageError("unreadable", f"{file}: {error.strerror or error}") from error
        if len(files) == 1:
            return one.hexdigest()
        total.update(one.digest())
    return total.hexdigest()

"""From stored values to Hounsfield units: slope and intercept applied once, and never a second time.

Some releases hold Hounsfield units already and still come with a table of slopes and intercepts; applying it again
would move air from -1000 to -2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from archbench_predict.images import ImageError

AIR, TISSUE = (-1100.0, -600.0), (-150.0, 250.0)
SAMPLED = 250_000
FEW = 0.002  # share of the voxels below which a volume holds no air, or no tissue
USUAL_SHIFT = 1024.0
RESCALES = ("auto", "always", "never")
LOW, HIGH = -32768, 32767


@dataclass(frozen=True)
class Declared:
    """What a table says of a volume beside its file; None where it says nothing.

    Attributes:
        slope, intercept: Hounsfield units = stored value * slope + intercept.
        spacing_mm: Voxel spacing (z, y, x), millimetres.
    """

    slope: float | None = None
    intercept: float | None = None
    spacing_mm: tuple[float, float, float] | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any] | None) -> Declared:
        """From plain values, as a manifest keeps them."""
        content = content or {}
        spacing = content.get("spacing_mm")
        return cls(
            slope=content.get("slope"),
            intercept=content.get("intercept"),
            spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        )


def to_hounsfield(
    values: np.ndarray, *, slope: float, intercept: float, declared: Declared, rescale: str, name: str
) -> tuple[np.ndarray, bool]:
    """Hounsfield units, int16, shape (Z, Y, X), and whether a declared rescale was left out.

    Args:
        slope, intercept: Of the file's header, always applied.
        declared: Slope and intercept of a table: applied as `rescale` says.
        rescale: always, never, or auto: by where air and soft tissue lie with and without it.
        name: The file, for messages.
    Raises:
        ImageError: If a voxel is not finite, all are equal, or neither way gives Hounsfield units.
    """
    if (declared.slope, declared.intercept, slope, intercept) == (None, None, 1.0, 0.0) and rescale == "auto":
        _check_plausible(_sample(values), name=name)
    again = (1.0 if declared.slope is None else declared.slope), declared.intercept or 0.0
    skipped = False
    if again != (1.0, 0.0):
        skipped = rescale == "never" or (
            rescale == "auto" and _holds_hounsfield(_sample(values) * slope + intercept, *again, name=name)
        )
        if not skipped:
            slope, intercept = slope * again[0], intercept * again[0] + again[1]
    units: np.ndarray = np.empty(values.shape, dtype=np.int16)
    for index, plane in enumerate(values):
        units[index] = _converted(plane, slope, intercept, name=name, index=index)
    if units.min() == units.max():
        raise ImageError("unreadable", f"{name}: every voxel is {int(units.min())}: an empty volume; fetch it again")
    return units, skipped


def _converted(plane: np.ndarray, slope: float, intercept: float, *, name: str, index: int) -> np.ndarray:
    if plane.dtype.kind not in "iuf":
        raise ImageError("unreadable", f"{name}: voxels of type {plane.dtype} are no Hounsfield units")
    if plane.dtype.kind == "f":
        bad = np.count_nonzero(~np.isfinite(plane))
        if bad:
            what = f"{bad} voxels of slice {index} are NaN or infinite"
            raise ImageError("not_finite", f"{name}: {what}; repair the volume, or take its row out")
    elif slope == 1.0 and intercept == 0.0:
        return np.clip(plane, LOW, HIGH)
    return np.clip(np.rint(plane.astype(np.float32) * np.float32(slope) + np.float32(intercept)), LOW, HIGH)


def _sample(values: np.ndarray) -> np.ndarray:
    """Some values from all over the volume, float64."""
    step = max(1, round((values.size / SAMPLED) ** (1 / 3)))
    sample = values[::step, ::step, ::step].astype(np.float64)
    return np.asarray(sample[np.isfinite(sample)])


def _holds_hounsfield(sample: np.ndarray, slope: float, intercept: float, *, name: str) -> bool:
    """Whether the values are Hounsfield units as they are, rather than after slope and intercept.

    Hounsfield units of a body have both air or lung and soft tissue. Values that are shifted by about 1000 have one of
    them in an empty range: padding (-2000, -3024) is in neither.
    """
    if not sample.size:
        return True  # nothing but NaN, which the conversion names
    as_is, after = _likeness(sample), _likeness(sample * slope + intercept)
    if max(as_is, after) < FEW:
        raise ImageError(
            "no_hounsfield",
            f"{name}: neither the stored values nor those after slope {slope:g} and intercept {intercept:g} have air "
            "near -1000 and tissue near 0; set volumes.rescale to always or never, or take the row out",
        )
    return as_is >= after


def _check_plausible(sample: np.ndarray, *, name: str) -> None:
    """Refuse stored values that came without their slope and intercept: they would be read 1024 units too high."""
    if sample.size and _likeness(sample) < FEW <= _likeness(sample - USUAL_SHIFT):
        raise ImageError(
            "no_hounsfield",
            f"{name}: the values look like stored ones, {USUAL_SHIFT:g} above Hounsfield units, and neither the header "
            "nor a table gives slope and intercept; add a metadata table, or set volumes.rescale: never",
        )


def _likeness(units: np.ndarray) -> float:
    """The smaller of the shares of air and of soft tissue."""
    if not units.size:
        return 0.0
    shares = [np.count_nonzero((units >= low) & (units <= high)) / units.size for low, high in (AIR, TISSUE)]
    return float(min(shares))

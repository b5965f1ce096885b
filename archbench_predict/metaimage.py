"""MetaImage files (.mha) by SimpleITK: values in the axes of the file, and where they lie in the body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TO_RAS = np.diag([-1.0, -1.0, 1.0])  # ITK's world is LPS

Array = np.ndarray[Any, np.dtype[Any]]


class MetaImageError(ValueError):
    """A file that can't be read; the message says why, not which."""


@dataclass(frozen=True)
class MetaImage:
    """What a file holds.

    Attributes:
        values: Shape (x, y[, z, ...]).
        spacing_mm: Distance of neighbours along each axis of `values`.
        affine: Voxel to world (RAS) of the first three axes, millimetres, (4, 4).
    """

    values: Array
    spacing_mm: tuple[float, ...]
    affine: Array


def read_metaimage(path: Path, *, check: Callable[[tuple[int, ...]], None]) -> MetaImage:
    """Return what a MetaImage file holds.

    Args:
        check: Called with the shape that the header claims, before the voxels are read; it may raise.
    Raises:
        MetaImageError: If SimpleITK is missing or can't read the file, or a voxel holds several numbers.
    """
    try:
        import SimpleITK
    except ImportError as error:
        remedy = "install SimpleITK, or convert them to NIfTI"
        raise MetaImageError(f".mha files need the package SimpleITK; {remedy}") from error
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = tuple(int(n) for n in reader.GetSize())
        check(size)
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise MetaImageError(f"no readable MetaImage file ({reason}); fetch or export it again") from error
    values = SimpleITK.GetArrayFromImage(image).T
    if values.ndim != len(size):
        raise MetaImageError("its voxels hold several numbers, such as colours; save one channel per file")
    n = min(len(size), 3)
    spacing, origin = np.array(image.GetSpacing()), np.array(image.GetOrigin())
    directions = np.array(image.GetDirection()).reshape(len(size), len(size))
    affine = np.eye(4)
    affine[:n, :n] = TO_RAS[:n, :n] @ directions[:n, :n] * spacing[:n]
    affine[:n, 3] = TO_RAS[:n, :n] @ origin[:n]
    return MetaImage(values, tuple(spacing.tolist()), affine)

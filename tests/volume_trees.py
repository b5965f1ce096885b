"""Small CT volumes and CT-RATE trees for tests."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

from archbench.datasets.ct_rate import LABELS

SPACING = (5.0, 2.0, 1.5)  # z, y, x


def small_chest(*, seed: int = 0, shape: tuple[int, int, int] = (10, 24, 32)) -> np.ndarray:
    """Air, soft tissue, lung, and a dense spot off every axis, with noise: int16 (Z, Y, X) in RAS."""
    rng = np.random.default_rng(seed)
    units = np.full(shape, -1000.0)
    _, y, x = shape
    units[:, y // 6 : -y // 6, x // 8 : -x // 8] = 40
    units[1:-1, y // 3 : -y // 3, x // 4 : x // 2 - 1] = -850
    units[1:-2, y // 3 : -y // 3, x // 2 + 1 : -x // 4] = -850
    units[-3:, -y // 6 - 3 : -y // 6, -x // 8 - 4 : -x // 8] = 900  # right, front, top
    return np.rint(units + rng.normal(0, 12, shape)).astype(np.int16)


def save_nifti(
    path: Path,
    units: np.ndarray,
    *,
    spacing: Sequence[float] = SPACING,
    axes: str = "RAS",
    slope: float | None = None,
    intercept: float = 0.0,
    codes: bool = True,
) -> Path:
    """Write (Z, Y, X) voxels of RAS orientation with the file's axes as named.

    Args:
        slope, intercept: Into the header; the stored values are the inverse.
        codes: False leaves spacing and orientation undeclared.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    affine[:3, 3] = -40, -30, -20
    stored = units if slope is None else np.rint((units - intercept) / slope).astype(np.int16)
    image = nibabel.Nifti1Image(np.ascontiguousarray(stored.transpose(2, 1, 0)), affine if codes else None)
    if axes != "RAS":
        wanted = nibabel.orientations.axcodes2ornt(tuple(axes))
        image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), wanted))
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    image.to_filename(path)
    return path


def save_slices(folder: Path, units: np.ndarray, *, spacing: Sequence[float] = SPACING) -> Path:
    """Write a volume as .npy slices as radiologists see them, with slices.csv, out of order; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for k, plane in enumerate(units):
        np.save(folder / f"{k:03d}.npy", plane[::-1, ::-1])
        rows.append([f"{k:03d}.npy", k * spacing[0], spacing[1], spacing[2]])
    with (folder / "slices.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "z_mm", "spacing_y_mm", "spacing_x_mm"], *rows[::-1]])
    return folder / "slices.csv"


def write_ct_rate(folder: Path, *, patients: int = 24, csv_name: str = "labels.csv") -> list[str]:
    """Write a CT-RATE tree: nested folders, labels in another order than the list, metadata; returns the names."""
    rng = np.random.default_rng(3)
    columns = sorted(LABELS, reverse=True)
    names, labels, metadata = [], [], []
    for patient in range(1, patients + 1):
        for scan, reconstruction in (("a", 1), ("a", 2), ("b", 1))[: 1 + patient % 3]:
            stem = f"train_{patient}_{scan}_{reconstruction}"
            place = folder / "volumes" / f"train_{patient}" / f"train_{patient}_{scan}" / f"{stem}.nii.gz"
            save_nifti(place, small_chest(seed=10 * patient + reconstruction), axes="LPS" if patient % 2 else "RAS")
            names.append(f"{stem}.nii.gz")
            labels.append([f"{stem}.nii.gz", *(str(int(value)) for value in rng.random(len(columns)) < 0.4)])
            metadata.append([f"{stem}.nii.gz", 1, -1024, f"[{SPACING[1]}, {SPACING[2]}]", SPACING[0]])
    tables = {csv_name: [["VolumeName", *columns], *labels], "metadata.csv": [list(METADATA), *metadata]}
    for name, rows in tables.items():
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return names


METADATA = ("VolumeName", "RescaleSlope", "RescaleIntercept", "XYSpacing", "ZSpacing")

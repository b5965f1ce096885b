"""Drawn chest CT volumes with planted findings, written as CT-RATE writes its own and read by its reader.

A patient has one or two scans, a scan one or two reconstructions (a sharp and a soft kernel), and every third patient's
files have other axes. `masks/<scan>.nii.gz` holds where each finding is: 0, or 1 + the label's index.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from archbench.artifacts import atomic_path, write_text
from archbench.datasets import DatasetError, PhantomSettings, Reader, Source, SourceSettings
from archbench.datasets.ct_body import (
    ENLARGED_HEART_MM,
    FIELD_MM,
    HEIGHT_MM,
    NORMAL_HEART_MM,
    Body,
    draw_body,
    plant_cardiomegaly,
    plant_consolidation,
    plant_effusion,
    plant_emphysema,
    plant_nodule,
    scanned,
)
from archbench.datasets.ct_rate import read_ct_rate
from archbench.registry import DATASETS
from archbench_predict.volume_metadata import stem

PLANTS = {
    "Cardiomegaly": plant_cardiomegaly,
    "Pleural effusion": plant_effusion,
    "Consolidation": plant_consolidation,
    "Lung nodule": plant_nodule,
    "Emphysema": plant_emphysema,
}
LABELS = tuple(PLANTS)
FAILING = 0.35  # share of patients with a failing heart, which makes a large heart and fluid likelier together
CHANCES = {
    "Cardiomegaly": (0.12, 0.80),
    "Pleural effusion": (0.12, 0.65),
    "Consolidation": (0.30, 0.30),
    "Lung nodule": (0.30, 0.30),
    "Emphysema": (0.28, 0.28),
}
STAYS = 0.8  # chance that a finding of the first scan is there on the second, or absent likewise
SECOND = 0.4  # chance of a second scan, and of a second reconstruction
SCANS = "ab"


@dataclass(frozen=True)
class Scan:
    """One scan to draw: which findings it shows, and how many reconstructions it has."""

    patient: int
    number: int
    present: tuple[bool, ...]
    reconstructions: int

    @property
    def name(self) -> str:
        """Name without the reconstruction: train_1_a."""
        return f"train_{self.patient + 1}_{SCANS[self.number]}"


class Drawn(NamedTuple):
    """Where a scan's findings are, and its voxel size (z, y, x) in millimetres."""

    lesions: list[dict[str, Any]]
    spacing_mm: tuple[float, float, float]


def read_phantom_ct(settings: SourceSettings) -> Source:
    """The rows of a CT phantom, whose volumes are drawn into its folder first.

    Raises:
        DatasetError: If the settings are missing.
    """
    return read_drawn(settings, labels=LABELS, draw=draw_scan)


def read_drawn(
    settings: SourceSettings, *, labels: tuple[str, ...], draw: Callable[[Scan, PhantomSettings], Body]
) -> Source:
    """The rows of volumes that `draw` makes, written into the phantom's folder in CT-RATE's layout.

    Raises:
        DatasetError: If the settings are missing.
    """
    phantom = settings.phantom
    if phantom is None:
        raise DatasetError("a drawn format needs its settings (phantom: {patients, image_size, seed}) and a folder")
    scans = plan_scans(patients=phantom.patients, seed=phantom.seed, labels=labels)
    for name in ("volumes", "masks"):
        (phantom.folder / name).mkdir(parents=True, exist_ok=True)

    def write(scan: Scan) -> Drawn:
        body = draw(scan, phantom)
        _write(scan, body, phantom, labels)
        return Drawn(places(body), _spacing(body))

    begin = time.monotonic()
    with ThreadPoolExecutor(max_workers=phantom.threads) as pool:
        drawn = dict(zip([scan.name for scan in scans], pool.map(write, scans), strict=True))
    n = sum(scan.reconstructions for scan in scans)
    print(f"drew {n} phantom volumes in {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
    _write_tables(scans, phantom, labels, drawn)
    found = replace(settings, root=phantom.folder, csv="labels.csv", metadata="metadata.csv", images="volumes")
    source = read_ct_rate(replace(found, labels=labels))
    rows = tuple(
        replace(row, lesions=json.dumps(drawn[stem(row.image).rpartition("_")[0]].lesions)) for row in source.rows
    )
    return replace(source, rows=rows, phantom=True)


def plan_scans(*, patients: int, seed: int, labels: tuple[str, ...] = LABELS) -> list[Scan]:
    """The scans of all patients and which of the labels each shows."""
    rng = np.random.default_rng([seed, 0])
    chances = np.array([CHANCES[name] for name in labels])
    scans = []
    for patient in range(patients):
        chance = chances[:, int(rng.random() < FAILING)]
        present = rng.random(len(labels)) < chance
        for number in range(1 + int(rng.random() < SECOND)):
            if number:
                present = np.where(rng.random(len(labels)) < STAYS, present, rng.random(len(labels)) < chance)
            shown = tuple(bool(value) for value in present)
            scans.append(Scan(patient, number, shown, reconstructions=1 + int(rng.random() < SECOND)))
    return scans


def draw_scan(scan: Scan, phantom: PhantomSettings) -> Body:
    """The body of one scan with its findings planted, before a scanner sees it."""
    person = np.random.default_rng([phantom.seed, 1, scan.patient])
    rng = np.random.default_rng([phantom.seed, 2, scan.patient, scan.number])
    shown = dict(zip(LABELS, scan.present, strict=True))
    heart_mm = rng.uniform(*(ENLARGED_HEART_MM if shown["Cardiomegaly"] else NORMAL_HEART_MM))
    body = draw_body(person, rng, side=phantom.image_size, heart_mm=heart_mm)
    for name, plant in PLANTS.items():
        if shown[name]:
            plant(body, rng)
    return body


def places(body: Body) -> list[dict[str, Any]]:
    """Where each finding is: x, y, radius in pixels of a slice as it is shown, and z_mm above the volume's lower face.

    `z_reach_mm` is how far it reaches up and down from there.
    """
    _, rows, columns = body.units.shape
    step_mm = _spacing(body)[0]
    found = []
    for name, mask in body.finds:
        z, y, x = (float(index.mean()) for index in np.nonzero(mask))
        area = mask.sum(axis=(1, 2)).max()
        heights = np.flatnonzero(mask.any(axis=(1, 2)))
        found.append(
            {
                "kind": name,
                "x": round(columns - 1 - x, 1),  # shown with the patient's right side on the left
                "y": round(rows - 1 - y, 1),
                "z_mm": round((z + 0.5) * step_mm, 1),
                "z_reach_mm": round((max(heights[-1] - z, z - heights[0]) + 0.5) * step_mm, 1),
                "radius": round(float(np.sqrt(area / np.pi)), 1),
            }
        )
    return found


def _write(scan: Scan, body: Body, phantom: PhantomSettings, labels: tuple[str, ...]) -> None:
    turned = scan.patient % 3 == 2
    for reconstruction in range(scan.reconstructions):
        rng = np.random.default_rng([phantom.seed, 3, scan.patient, scan.number, reconstruction])
        units = scanned(body, rng, sharp=reconstruction == 0)
        place = phantom.folder / "volumes" / f"{scan.name}_{reconstruction + 1}.nii.gz"
        write_nifti(place, units, spacing_mm=_spacing(body), turned=turned)
    mask: np.ndarray = np.zeros(body.units.shape, dtype=np.uint8)
    for name, where in body.finds:
        mask[where] = 1 + labels.index(name)
    write_nifti(phantom.folder / "masks" / f"{scan.name}.nii.gz", mask, spacing_mm=_spacing(body), turned=turned)


def _spacing(body: Body) -> tuple[float, float, float]:
    """Voxel size (z, y, x), millimetres."""
    z, y, x = (float(axis.ravel()[-1] - axis.ravel()[0]) / (axis.size - 1) for axis in (body.z, body.y, body.x))
    return round(z, 5), round(y, 5), round(x, 5)


def write_nifti(path: Path, voxels: np.ndarray, *, spacing_mm: Sequence[float], turned: bool = False) -> None:
    """Write a volume (Z, Y, X) in RAS as a gzipped NIfTI file, the same bytes each time.

    Args:
        turned: Store it from right to left and from front to back (LPS), as DICOM does.
    """
    import nibabel

    z, y, x = spacing_mm
    affine = np.diag([x, y, z, 1.0])
    affine[:3, 3] = -FIELD_MM / 2, -FIELD_MM / 2, -HEIGHT_MM / 2
    stored = voxels.transpose(2, 1, 0)
    if turned:
        stored = stored[::-1, ::-1]
        affine[:2] *= -1
    image = nibabel.Nifti1Image(np.ascontiguousarray(stored), affine)
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _write_tables(
    scans: Sequence[Scan], phantom: PhantomSettings, labels: tuple[str, ...], drawn: Mapping[str, Drawn]
) -> None:
    names = [(scan, f"{scan.name}_{k + 1}.nii.gz") for scan in scans for k in range(scan.reconstructions)]
    rows = "".join(f"{name},{','.join(str(int(value)) for value in scan.present)}\n" for scan, name in names)
    write_text(phantom.folder / "labels.csv", f"VolumeName,{','.join(labels)}\n{rows}")
    lines = ""
    for scan, name in names:
        z, y, x = drawn[scan.name].spacing_mm
        lines += f'{name},"[{y}, {x}]",{z}\n'
    write_text(phantom.folder / "metadata.csv", f"VolumeName,XYSpacing,ZSpacing\n{lines}")


DATASETS.register(
    "phantom_ct",
    Reader(
        read=read_phantom_ct,
        summary="drawn chest CT volumes with planted findings and their masks",
        tasks=("multilabel",),
        labels=LABELS,
        drawn=True,
        volumes=True,
    ),
)

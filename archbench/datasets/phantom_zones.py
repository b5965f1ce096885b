"""Chest-like pictures whose six lung zones are congested to a known grade, drawn from a seed, with lung masks.

Haze and fine lines grow with a zone's grade 0 to 3. Some zones lie under an opaque shield: they are ungradable.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

from archbench.artifacts import atomic_path, write_text
from archbench.datasets import DatasetError, PhantomSettings, RawRow, Reader, Source, SourceSettings
from archbench.datasets.chest_picture import Chest, draw_chest, expose, grid
from archbench.datasets.csi_zones import ZONES
from archbench.registry import DATASETS

N_GRADES = 4
HAZE = (0.0, 0.16, 0.34, 0.58)
LINES = (0, 2, 5, 9)
ROWS = {"sup": (0.15, 0.36), "mid": (0.36, 0.56), "inf": (0.56, 0.79)}
UNGRADABLE_SHARE = 0.04
WHOLLY_UNGRADABLE_SHARE = 0.01


def read_phantom_zones(settings: SourceSettings) -> Source:
    """The rows of a zone phantom, whose pictures and lung masks are drawn into its folder first.

    Raises:
        DatasetError: If the settings are missing.
    """
    phantom = settings.phantom
    if phantom is None:
        raise DatasetError(
            "format phantom_zones needs its settings (phantom: {patients, image_size, seed}) and a folder"
        )
    grades = draw_grades(patients=phantom.patients, seed=phantom.seed)
    visits = [(patient, visit) for patient in range(phantom.patients) for visit in range(2)]
    (phantom.folder / "masks").mkdir(parents=True, exist_ok=True)

    def write(which: tuple[int, int]) -> list[dict[str, Any]]:
        patient, visit = which
        image, mask, lesions = draw_picture(
            patient=patient, visit=visit, grades=grades[patient, visit], phantom=phantom
        )
        for name, pixels in ((_file_name(patient, visit), image), (f"masks/{_file_name(patient, visit)}", mask)):
            with atomic_path(phantom.folder / name) as temporary:
                temporary.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        return lesions

    begin = time.monotonic()
    with ThreadPoolExecutor(max_workers=phantom.threads) as pool:
        lesions = list(pool.map(write, visits))
    print(f"drew {len(visits)} phantom images in {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
    rows = tuple(
        RawRow(
            file="labels.csv",
            row=index + 2,
            image=_file_name(patient, visit),
            patient_id=_patient_name(patient),
            label="",
            labels=tuple("" if grade < 0 else str(grade) for grade in grades[patient, visit].tolist()),
            lesions=json.dumps(lesions[index]),
            mask=f"masks/{_file_name(patient, visit)}",
        )
        for index, (patient, visit) in enumerate(visits)
    )
    table = "".join(f"{row.image};{row.patient_id};{';'.join(row.labels)}\n" for row in rows)
    write_text(phantom.folder / "labels.csv", f"FileID;patient;{';'.join(ZONES)}\n" + table)
    return Source(rows=rows, root=phantom.folder, label="", labels=ZONES, phantom=True)


def draw_grades(*, patients: int, seed: int) -> np.ndarray:
    """Grades of both pictures of each patient, shape (patients, 2, zones), -1 where ungradable.

    A patient's congestion moves all zones; the lower ones are worse.
    """
    rng = np.random.default_rng([seed, 0])
    congestion = rng.normal(size=patients)
    lower = np.array([0.35 if zone.endswith("inf") else (0.0 if zone.endswith("mid") else -0.35) for zone in ZONES])
    latent = congestion[:, None, None] + 0.25 * rng.normal(size=(patients, 2, 1)) + lower
    latent = latent + 0.55 * rng.normal(size=(patients, 2, len(ZONES)))
    grades = np.digitize(latent, (-0.25, 0.55, 1.25))
    shielded = rng.random(grades.shape) < UNGRADABLE_SHARE
    shielded |= rng.random((patients, 2, 1)) < WHOLLY_UNGRADABLE_SHARE
    return np.where(shielded, -1, grades)


def draw_picture(
    *, patient: int, visit: int, grades: np.ndarray, phantom: PhantomSettings
) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """One picture (S, S), uint8 gray, its lung mask, and its congested zones: x, y, radius, kind (the name)."""
    person = np.random.default_rng([phantom.seed, 1, patient])
    rng = np.random.default_rng([phantom.seed, 2, patient, visit])
    chest = draw_chest(person, rng, side=phantom.image_size)
    lesions = []
    for zone, grade in zip(ZONES, grades.tolist(), strict=True):
        center, inside = zone_mask(chest, zone)
        if grade < 0:
            chest.canvas[inside] = 0.97
        elif grade > 0:
            _congest(chest, inside, grade=grade, rng=rng)
            radius = 0.11 * chest.side
            x, y = (round(float(value), 1) for value in center)
            lesions.append({"x": x, "y": y, "radius": round(radius, 1), "kind": zone})
    mask = np.where(chest.lungs.any(axis=0), 255, 0).astype(np.uint8)
    return expose(chest, rng), mask, lesions


def zone_mask(chest: Chest, zone: str) -> tuple[np.ndarray, np.ndarray]:
    """Centre (pixels) and mask (S, S) of a zone; the patient's right lung is on the picture's left."""
    top, bottom = ROWS[zone.rpartition("_")[2]]
    lung = 0 if zone.startswith("right") else 1
    _, yy = grid(chest.side)
    height = (yy - chest.shift[1]) / chest.side
    inside = chest.lungs[lung] & (height >= top) & (height < bottom)
    return chest.place(0.31 if lung == 0 else 0.69, (top + bottom) / 2), inside


def _congest(chest: Chest, inside: np.ndarray, *, grade: int, rng: np.random.Generator) -> None:
    side = chest.side
    mottle = cv2.resize(rng.random((10, 10)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    weight = HAZE[grade] * (0.75 + 0.5 * mottle) * inside
    lines: np.ndarray = np.zeros((side, side), dtype=np.float32)
    places = np.argwhere(inside)
    for _ in range(LINES[grade]):
        y, x = places[rng.integers(len(places))].tolist()
        angle, length = rng.uniform(0, np.pi), 0.05 * side
        end = (round(x + length * np.cos(angle)), round(y + length * np.sin(angle)))
        cv2.line(lines, (x, y), end, 0.3, 1, cv2.LINE_AA)
    chest.canvas[...] += ((weight + lines * inside) * (0.75 - chest.canvas)).astype(np.float32)


def _file_name(patient: int, visit: int) -> str:
    return f"{_patient_name(patient)}_{visit + 1}.png"


def _patient_name(patient: int) -> str:
    return f"P{patient + 1:04d}"


DATASETS.register(
    "phantom_zones",
    Reader(
        read=read_phantom_zones,
        summary="drawn chest-like pictures with six graded lung zones and masks",
        tasks=("zones",),
        labels=ZONES,
        n_classes=N_GRADES,
        drawn=True,
    ),
)

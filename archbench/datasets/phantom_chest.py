"""Chest-like pictures with findings that go together, drawn from a seed; each finding's place is recorded.

A latent failing heart makes an enlarged heart, effusion and a device likelier together. A marker in the upper corner
stands for what scanners leave on pictures: with `confounder` it goes with the first label, and a network may
learn the marker instead of the heart.
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
from archbench.datasets.chest_picture import Chest, blob, draw_chest, expose, grid
from archbench.registry import DATASETS

LABELS = ("Cardiomegaly", "Effusion", "Opacity", "Nodule", "Device")
MARKER = "marker"
FAILING = 0.35
# Chance of each label without and with a failing heart.
CHANCES = {
    "Cardiomegaly": (0.10, 0.75),
    "Effusion": (0.10, 0.60),
    "Opacity": (0.30, 0.30),
    "Nodule": (0.22, 0.22),
    "Device": (0.12, 0.45),
}
STAYS = 0.8  # chance that a finding of the first picture is there on the second, or absent likewise
HEART, ENLARGED_HEART = (0.095, 0.125), (0.165, 0.215)


def read_phantom_chest(settings: SourceSettings) -> Source:
    """The rows of a chest phantom, whose pictures are drawn into its folder first.

    Raises:
        DatasetError: If the settings are missing.
    """
    phantom = settings.phantom
    if phantom is None:
        raise DatasetError("format phantom_chest needs its settings (phantom: {patients, image_size}) and a folder")
    found = draw_findings(patients=phantom.patients, seed=phantom.seed)
    recorded = found ^ wrong_labels(found.shape, share=phantom.label_noise, seed=phantom.seed)
    visits = [(patient, visit) for patient in range(phantom.patients) for visit in range(2)]
    phantom.folder.mkdir(parents=True, exist_ok=True)

    def write(which: tuple[int, int]) -> list[dict[str, Any]]:
        patient, visit = which
        image, lesions = draw_picture(patient=patient, visit=visit, present=found[patient, visit], phantom=phantom)
        with atomic_path(phantom.folder / _file_name(patient, visit)) as temporary:
            temporary.write_bytes(cv2.imencode(".png", image)[1].tobytes())
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
            labels=tuple(str(int(value)) for value in recorded[patient, visit]),
            lesions=json.dumps(lesions[index]),
        )
        for index, (patient, visit) in enumerate(visits)
    )
    table = "".join(f"{row.image},{row.patient_id},{','.join(row.labels)}\n" for row in rows)
    write_text(phantom.folder / "labels.csv", f"image,patient,{','.join(LABELS)}\n" + table)
    return Source(rows=rows, root=phantom.folder, label="", labels=LABELS, phantom=True)


def draw_findings(*, patients: int, seed: int) -> np.ndarray:
    """Which findings both pictures of each patient show, boolean, shape (patients, 2, labels)."""
    rng = np.random.default_rng([seed, 0])
    failing = rng.random(patients) < FAILING
    chances = np.array([CHANCES[name] for name in LABELS])
    chance = np.where(failing[:, None], chances[:, 1], chances[:, 0])
    first = rng.random(chance.shape) < chance
    second = np.where(rng.random(chance.shape) < STAYS, first, rng.random(chance.shape) < chance)
    return np.stack([first, second], axis=1)


def wrong_labels(shape: tuple[int, ...], *, share: float, seed: int) -> np.ndarray:
    """Which recorded labels say the opposite of what the picture shows, boolean: a reader who errs at random."""
    return np.asarray(np.random.default_rng([seed, 3]).random(shape) < share)


def draw_picture(
    *, patient: int, visit: int, present: np.ndarray, phantom: PhantomSettings
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One picture (S, S), uint8 gray, and its findings: x, y, radius (source pixels) and kind, the label's name."""
    person = np.random.default_rng([phantom.seed, 1, patient])
    rng = np.random.default_rng([phantom.seed, 2, patient, visit])
    shown = dict(zip(LABELS, present.tolist(), strict=True))
    heart = rng.uniform(*(ENLARGED_HEART if shown["Cardiomegaly"] else HEART))
    chest = draw_chest(person, rng, side=phantom.image_size, heart=heart)
    lesions = []
    if shown["Cardiomegaly"]:
        lesions.append(_lesion(chest.place(0.53, 0.62), heart * chest.side, "Cardiomegaly"))
    for name, draw in (("Effusion", _effusion), ("Opacity", _opacity), ("Nodule", _nodule), ("Device", _device)):
        if shown[name]:
            place, radius = draw(chest, rng)
            lesions.append(_lesion(place, radius, name))
    c = phantom.confounder
    if rng.random() < c * shown["Cardiomegaly"] + (1 - c) * 0.5:
        lesions.append(_lesion(*_marker(chest), MARKER))
    return expose(chest, rng), lesions


def _lesion(place: np.ndarray, radius: float, kind: str) -> dict[str, Any]:
    x, y = (round(float(value), 1) for value in place)
    return {"x": x, "y": y, "radius": round(float(radius), 1), "kind": kind}


def _lung_x(rng: np.random.Generator) -> float:
    return float(rng.choice([0.31, 0.69]))


def _effusion(chest: Chest, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Fluid at the base of one lung, with a curved upper rim."""
    place = chest.place(_lung_x(rng), 0.72)
    xx, yy = grid(chest.side)
    level = 0.64 * chest.side + chest.shift[1] - 1.5 * (xx - place[0]) ** 2 / chest.side
    inside = chest.lungs.any(axis=0) & (np.abs(xx - place[0]) < 0.18 * chest.side)
    weight = inside * np.clip((yy - level) / (0.02 * chest.side), 0, 1)
    chest.canvas[...] += (0.85 * weight * (0.72 - chest.canvas)).astype(np.float32)
    return place, 0.11 * chest.side


def _opacity(chest: Chest, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A patchy brightening in a lung's upper or middle part."""
    place = chest.place(_lung_x(rng) + rng.uniform(-0.03, 0.03), rng.uniform(0.32, 0.5))
    radius = rng.uniform(0.07, 0.1) * chest.side
    for _ in range(5):
        blob(chest, place + rng.normal(0, 0.4 * radius, 2), 0.6 * radius, strength=rng.uniform(0.25, 0.4))
    return place, radius


def _nodule(chest: Chest, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """One small, dense, round spot."""
    place = chest.place(_lung_x(rng) + rng.uniform(-0.08, 0.08), rng.uniform(0.25, 0.6))
    radius = rng.uniform(0.028, 0.042) * chest.side
    blob(chest, place, radius, strength=rng.uniform(0.75, 0.95))
    return place, radius


def _device(chest: Chest, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A bright line from the neck down to the heart."""
    side = chest.side
    x = chest.place(rng.uniform(0.44, 0.56), 0)[0]
    points = np.array([[x, 0], [x + 0.02 * side, 0.2 * side], [x - 0.02 * side, rng.uniform(0.42, 0.55) * side]])
    cv2.polylines(chest.canvas, [points.astype(np.int32)], False, 0.97, max(1, round(0.014 * side)), cv2.LINE_AA)
    return points[1], 0.2 * side


def _marker(chest: Chest) -> tuple[np.ndarray, float]:
    """A bright letter-like mark in the upper left corner, outside the body."""
    side = chest.side
    low, high = round(0.03 * side), round(0.1 * side)
    chest.canvas[low:high, low:high] = 0.95
    chest.canvas[low + (high - low) // 3 : high - (high - low) // 3, low + (high - low) // 3 : high] = 0.1
    return np.array([0.065, 0.065]) * side, 0.05 * side


def _file_name(patient: int, visit: int) -> str:
    return f"{_patient_name(patient)}_{visit + 1}.png"


def _patient_name(patient: int) -> str:
    return f"P{patient + 1:04d}"


DATASETS.register(
    "phantom_chest",
    Reader(
        read=read_phantom_chest,
        summary="drawn chest-like pictures with co-occurring findings",
        tasks=("multilabel",),
        labels=LABELS,
        drawn=True,
    ),
)

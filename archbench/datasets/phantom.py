"""Fundus-like images drawn from a seed; lesions, whose kinds and places are recorded, define the grade.

Grade 0 has no lesion, 1 a few microaneurysms, 2 more of them with some haemorrhages, 3 many haemorrhages with
exudates, 4 in addition tufts of new vessels. Camera, colour, illumination, blur, dust and reflexes vary by
patient and image and say nothing about the grade. Every image has its own random stream, so threads do not
change what is drawn.
"""

from __future__ import annotations

import json
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from archbench.artifacts import atomic_path, write_text
from archbench.datasets import DatasetError, PhantomSettings, RawRow, Reader, Source, SourceSettings
from archbench.registry import DATASETS

N_GRADES = 5
PREVALENCE = (0.36, 0.17, 0.24, 0.12, 0.11)
MIN_PATIENTS_PER_GRADE = 10
EYE_AGREEMENT = 0.75
EYES = ("L", "R")
# Lowest and highest number of each kind of lesion, by grade.
LESION_NUMBERS: dict[str, tuple[tuple[int, int], ...]] = {
    "microaneurysm": ((0, 0), (2, 5), (4, 9), (6, 12), (3, 10)),
    "haemorrhage": ((0, 0), (0, 0), (1, 4), (6, 11), (2, 9)),
    "exudate": ((0, 0), (0, 0), (0, 3), (2, 7), (0, 6)),
    "tuft": ((0, 0), (0, 0), (0, 0), (0, 0), (1, 2)),
}
# Smallest and largest radius as a share of the image's side.
LESION_RADIUS = {
    "microaneurysm": (0.009, 0.014),
    "haemorrhage": (0.020, 0.036),
    "exudate": (0.018, 0.032),
    "tuft": (0.050, 0.075),
}
SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Camera:
    """What the camera and the patient's skin of the eye contribute; lengths in pixels."""

    center: np.ndarray
    radius: float
    colour: np.ndarray
    side: int


def read_phantom(settings: SourceSettings) -> Source:
    """The rows of a phantom dataset, whose images are drawn into its folder first.

    Raises:
        DatasetError: If the settings are missing.
    """
    phantom = settings.phantom
    if phantom is None:
        raise DatasetError("format phantom needs its settings (phantom: {patients, image_size, seed}) and a folder")
    grades = draw_grades(patients=phantom.patients, seed=phantom.seed)
    eyes = [(patient, eye) for patient in range(phantom.patients) for eye in range(2)]
    phantom.folder.mkdir(parents=True, exist_ok=True)

    def write(patient_and_eye: tuple[int, int]) -> list[dict[str, Any]]:
        patient, eye = patient_and_eye
        grade = int(grades[patient, eye])
        image, lesions = draw_fundus(patient=patient, eye=eye, grade=grade, phantom=phantom)
        with atomic_path(phantom.folder / _file_name(patient, eye)) as temporary:
            temporary.write_bytes(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())
        return lesions

    begin = time.monotonic()
    with ThreadPoolExecutor(max_workers=phantom.threads) as pool:
        lesions = list(pool.map(write, eyes))
    print(f"drew {len(eyes)} phantom images in {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
    rows = tuple(
        RawRow(
            file="labels.csv",
            row=index + 2,
            image=_file_name(patient, eye),
            patient_id=_patient_name(patient),
            label=str(grades[patient, eye]),
            lesions=json.dumps(lesions[index]),
        )
        for index, (patient, eye) in enumerate(eyes)
    )
    table = "".join(f"{row.image},{row.patient_id},{row.label}\n" for row in rows)
    write_text(phantom.folder / "labels.csv", "image,patient,grade\n" + table)
    return Source(rows=rows, root=phantom.folder, label="grade", phantom=True)


def draw_grades(*, patients: int, seed: int) -> np.ndarray:
    """Grades of both eyes, shape (patients, 2); from 60 patients on, each grade has at least 10 of them."""
    rng = np.random.default_rng([seed, 0])
    least = min(MIN_PATIENTS_PER_GRADE, patients // 6)
    numbers = np.maximum(np.floor(np.array(PREVALENCE) * patients).astype(int), least)
    numbers[0] += patients - numbers.sum()
    first = rng.permutation(np.repeat(np.arange(N_GRADES), numbers))
    step = np.where(rng.random(patients) < EYE_AGREEMENT, 0, rng.choice([-1, 1], patients))
    return np.stack([first, np.clip(first + step, 0, N_GRADES - 1)], axis=1)


def draw_fundus(
    *, patient: int, eye: int, grade: int, phantom: PhantomSettings
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One image (S, S, 3), uint8 RGB, and its lesions: x, y, radius (source pixels) and kind.

    Args:
        eye: 0 left, 1 right: the optic disc lies on the other side.
    """
    person = np.random.default_rng([phantom.seed, 1, patient])
    rng = np.random.default_rng([phantom.seed, 2, patient, eye])
    camera = _draw_camera(person, rng, side=phantom.image_size)
    disc = camera.center + camera.radius * np.array([(0.55 if eye else -0.55), rng.uniform(-0.1, 0.1)])
    canvas = _draw_retina(camera, disc, rng)
    _draw_vessels(canvas, camera, disc, rng)
    _draw_dust(canvas, camera, rng)
    lesions = _draw_lesions(canvas, camera, disc, grade=grade, rng=rng)
    return _expose(canvas, camera, rng), lesions


def _file_name(patient: int, eye: int) -> str:
    return f"{_patient_name(patient)}_{EYES[eye]}.png"


def _patient_name(patient: int) -> str:
    return f"P{patient + 1:04d}"


def _draw_camera(person: np.random.Generator, rng: np.random.Generator, *, side: int) -> Camera:
    red = person.uniform(0.58, 0.82)
    colour = np.array([red, red * person.uniform(0.42, 0.58), red * person.uniform(0.16, 0.34)])
    center = side * (0.5 + rng.uniform(-0.02, 0.02, 2))
    return Camera(center=center, radius=side * person.uniform(0.43, 0.47), colour=colour, side=side)


def _draw_retina(camera: Camera, disc: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The background in float32 RGB, 0-1: tone, mottling, macula and optic disc."""
    side = camera.side
    yy, xx = np.mgrid[:side, :side].astype(np.float32)
    mottle = cv2.resize(rng.normal(size=(12, 12)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    tone = 1 + 0.05 * mottle
    macula = 2 * camera.center - disc
    far = np.hypot(xx - macula[0], yy - macula[1]) / camera.radius
    tone *= 1 - 0.28 * np.exp(-((far / 0.22) ** 2))
    canvas = camera.colour.astype(np.float32) * tone[:, :, None]
    size = camera.radius * rng.uniform(0.15, 0.19)
    glow = 1 / (1 + np.exp((np.hypot((xx - disc[0]) * 1.1, yy - disc[1]) - size) / (0.012 * side)))
    bright = np.array([0.98, 0.86, 0.58], dtype=np.float32) * rng.uniform(0.88, 1.0)
    return np.asarray(canvas + glow[:, :, None] * (bright - canvas), dtype=np.float32)


def _draw_vessels(canvas: np.ndarray, camera: Camera, disc: np.ndarray, rng: np.random.Generator) -> None:
    """Arcades that leave the disc up and down, bend around the macula, branch and thin out."""
    mask: np.ndarray = np.zeros(canvas.shape[:2], dtype=np.float32)
    inward = float(np.sign(camera.center[0] - disc[0]))
    for vertical in (-1.0, 1.0):
        for lean in (0.15, 0.7, -0.35):
            heading = np.arctan2(vertical, inward * (lean + rng.uniform(-0.15, 0.15)))
            bend = inward * vertical * (-0.045 if lean > 0 else 0.01)
            width = camera.side * rng.uniform(0.014, 0.021)
            _grow_vessel(
                mask,
                camera,
                (float(disc[0]), float(disc[1])),
                heading=heading,
                bend=bend,
                width=width,
                rng=rng,
            )
    mask = cv2.GaussianBlur(mask, (0, 0), 0.004 * camera.side)
    blood = np.array([0.62, 0.38, 0.42], dtype=np.float32)
    canvas *= 1 - mask[:, :, None] * (1 - blood) * rng.uniform(0.65, 0.95)


def _grow_vessel(
    mask: np.ndarray,
    camera: Camera,
    start: tuple[float, float],
    *,
    heading: float,
    bend: float,
    width: float,
    rng: np.random.Generator,
) -> None:
    step, (cx, cy) = 0.035 * camera.side, camera.center.tolist()
    while width > 0.0035 * camera.side and math.hypot(start[0] - cx, start[1] - cy) < camera.radius:
        heading += bend + rng.normal(0, 0.09)
        end = (start[0] + step * math.cos(heading), start[1] + step * math.sin(heading))
        _line(mask, start, end, width=width)
        start, width = end, width * 0.955
        if rng.random() < 0.13:
            fork = float(rng.choice([-1, 1]) * rng.uniform(0.4, 0.9))
            _grow_vessel(mask, camera, end, heading=heading + fork, bend=-bend / 2, width=width * 0.62, rng=rng)


def _line(mask: np.ndarray, start: tuple[float, float], end: tuple[float, float], *, width: float) -> None:
    scale = 2**SUBPIXEL_BITS
    first, last = (
        (round(start[0] * scale), round(start[1] * scale)),
        (round(end[0] * scale), round(end[1] * scale)),
    )
    # OpenCV's lines have whole widths: the fraction goes into their strength.
    whole = max(1, math.ceil(width))
    cv2.line(mask, first, last, min(1.0, width / whole + 0.2), whole, cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_dust(canvas: np.ndarray, camera: Camera, rng: np.random.Generator) -> None:
    """Gray specks on the lens and whitish reflexes: distractors that say nothing about the grade."""
    for _ in range(int(rng.integers(0, 6))):
        place, radius = _place(camera, rng), camera.side * rng.uniform(0.010, 0.03)
        _blend(
            canvas,
            place,
            radius,
            colour=np.full(3, rng.uniform(0.25, 0.45)),
            strength=rng.uniform(0.25, 0.55),
            softness=0.6,
        )
    for _ in range(int(rng.integers(0, 3))):
        place, radius = _place(camera, rng), camera.side * rng.uniform(0.02, 0.05)
        _blend(
            canvas,
            place,
            radius,
            colour=np.array([0.95, 0.9, 0.85]),
            strength=rng.uniform(0.08, 0.2),
            softness=0.9,
        )


def _draw_lesions(
    canvas: np.ndarray, camera: Camera, disc: np.ndarray, *, grade: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    lesions: list[dict[str, Any]] = []
    for kind, numbers in LESION_NUMBERS.items():
        low, high = numbers[grade]
        for _ in range(int(rng.integers(low, high + 1))):
            radius = camera.side * rng.uniform(*LESION_RADIUS[kind])
            place = _free_place(camera, disc, lesions, radius=radius, rng=rng)
            if place is None:
                continue
            _draw_lesion(canvas, place, radius, kind=kind, rng=rng)
            x, y = (round(float(v), 1) for v in place)
            lesions.append({"x": x, "y": y, "radius": round(float(radius), 1), "kind": kind})
    return lesions


def _draw_lesion(canvas: np.ndarray, place: np.ndarray, radius: float, *, kind: str, rng: np.random.Generator) -> None:
    if kind == "microaneurysm":
        _blend(
            canvas,
            place,
            radius,
            colour=np.array([0.42, 0.05, 0.06]),
            strength=rng.uniform(0.55, 0.85),
            softness=0.25,
        )
    elif kind == "haemorrhage":
        strength = rng.uniform(0.5, 0.85)
        for _ in range(3):
            shift = rng.normal(0, 0.35 * radius, 2)
            _blend(
                canvas,
                place + shift,
                radius * rng.uniform(0.5, 0.8),
                colour=np.array([0.36, 0.05, 0.05]),
                strength=strength,
                softness=0.25,
            )
    elif kind == "exudate":
        for _ in range(int(rng.integers(4, 8))):
            shift = rng.normal(0, 0.5 * radius, 2)
            _blend(
                canvas,
                place + shift,
                radius * rng.uniform(0.25, 0.45),
                colour=np.array([0.97, 0.88, 0.5]),
                strength=rng.uniform(0.45, 0.85),
                softness=0.25,
            )
    else:
        _draw_tuft(canvas, place, radius, rng=rng)


def _draw_tuft(canvas: np.ndarray, place: np.ndarray, radius: float, *, rng: np.random.Generator) -> None:
    """A tangle of fine, winding new vessels."""
    mask: np.ndarray = np.zeros(canvas.shape[:2], dtype=np.float32)
    for _ in range(9):
        x, y = (place + rng.normal(0, 0.15 * radius, 2)).tolist()
        point, heading = (x, y), rng.uniform(0, 2 * math.pi)
        for _ in range(9):
            heading += rng.normal(0.35, 0.45)
            end = (point[0] + 0.28 * radius * math.cos(heading), point[1] + 0.28 * radius * math.sin(heading))
            if math.hypot(end[0] - place[0], end[1] - place[1]) > radius:
                break
            _line(mask, point, end, width=0.006 * canvas.shape[0])
            point = end
    alpha = 0.85 * cv2.GaussianBlur(mask, (0, 0), 0.003 * canvas.shape[0])[:, :, None]
    canvas += alpha * (np.array([0.6, 0.04, 0.1], dtype=np.float32) - canvas)


def _place(camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """A place in the retina, uniform over its area."""
    angle, distance = rng.uniform(0, 2 * np.pi), camera.radius * 0.88 * np.sqrt(rng.random())
    return np.asarray(camera.center + distance * np.array([np.cos(angle), np.sin(angle)]))


def _free_place(
    camera: Camera,
    disc: np.ndarray,
    lesions: list[dict[str, Any]],
    *,
    radius: float,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """A place off the optic disc and off the other lesions, None if fifty tries find none."""
    for _ in range(50):
        place = _place(camera, rng)
        off_disc = np.hypot(*(place - disc)) > 0.22 * camera.radius + radius
        if off_disc and all(
            np.hypot(place[0] - other["x"], place[1] - other["y"]) > radius + other["radius"] for other in lesions
        ):
            return place
    return None


def _blend(
    canvas: np.ndarray,
    place: np.ndarray,
    radius: float,
    *,
    colour: np.ndarray,
    strength: float,
    softness: float,
) -> None:
    """Mix `colour` into a round spot; `softness` is the share of the radius over which its rim fades."""
    reach = int(np.ceil(radius * (1 + softness))) + 2
    x0, y0 = (max(int(v) - reach, 0) for v in place)
    patch = canvas[y0 : int(place[1]) + reach + 1, x0 : int(place[0]) + reach + 1]
    yy, xx = np.mgrid[y0 : y0 + patch.shape[0], x0 : x0 + patch.shape[1]]
    rim = (radius - np.hypot(xx - place[0], yy - place[1])) / max(softness * radius, 0.5)
    alpha = strength * np.clip(rim + 0.5, 0, 1)[:, :, None]
    patch += (alpha * (colour - patch)).astype(np.float32)


def _expose(canvas: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """The photograph: uneven light, vignette, blur, contrast, noise, and the black frame, as uint8 RGB."""
    side = camera.side
    yy, xx = np.mgrid[:side, :side].astype(np.float32)
    dx, dy = (xx - camera.center[0]) / camera.radius, (yy - camera.center[1]) / camera.radius
    angle, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.22)
    light = 1 + tilt * (dx * np.cos(angle) + dy * np.sin(angle)) - rng.uniform(0.1, 0.3) * (dx**2 + dy**2)
    image = canvas * light[:, :, None] * rng.uniform(0.85, 1.12)
    image = cv2.GaussianBlur(image, (0, 0), side * rng.uniform(0.0015, 0.0042))
    image += rng.uniform(0.008, 0.022) * rng.standard_normal(image.shape, dtype=np.float32)
    frame = np.clip((1 - np.hypot(dx, dy)) * camera.radius + 0.5, 0, 1)
    image = np.clip(image, 0, 1) * frame[:, :, None] + 0.012
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), dtype=np.uint8)


DATASETS.register(
    "phantom",
    Reader(
        read=read_phantom,
        summary="drawn fundus-like images with known lesions",
        tasks=("ordinal", "multiclass"),
        n_classes=N_GRADES,
        drawn=True,
    ),
)

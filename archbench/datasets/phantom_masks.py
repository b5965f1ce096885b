"""Chest-like pictures with the masks of lungs, heart and, in about half of them, a nodule, drawn from a seed."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from archbench.artifacts import atomic_path
from archbench.datasets import DatasetError, PhantomSettings, RawRow, Reader, Source, SourceSettings
from archbench.datasets.chest_picture import blob, draw_chest, ellipse, expose
from archbench.registry import DATASETS

STRUCTURES = ("lungs", "heart", "nodule")
HEART = (0.09, 0.15)  # half width, share of the side
NODULE = (0.035, 0.07)  # radius, share of the side
NODULE_SHARE = 0.5
PIXELS_PER_MM = 0.5  # of a picture of 128 pixels: a chest of 256 mm


def read_phantom_masks(settings: SourceSettings) -> Source:
    """The rows of a phantom with masks, whose pictures and masks are drawn into its folder first.

    Raises:
        DatasetError: If the settings are missing.
    """
    phantom = settings.phantom
    if phantom is None:
        raise DatasetError(
            "format phantom_masks needs its settings (phantom: {patients, image_size, seed}) and a folder"
        )
    visits = [(patient, visit) for patient in range(phantom.patients) for visit in range(2)]
    (phantom.folder / "masks").mkdir(parents=True, exist_ok=True)
    folder = phantom.folder

    def write(which: tuple[int, int]) -> tuple[str, ...]:
        image, mask = draw_picture(*which, phantom=phantom)
        _save(folder / _file_name(*which), image)
        _save(folder / "masks" / _file_name(*which), mask)
        return tuple(str(int((mask == index).any())) for index in range(1, len(STRUCTURES) + 1))

    begin = time.monotonic()
    with ThreadPoolExecutor(max_workers=phantom.threads) as pool:
        present = list(pool.map(write, visits))
    print(f"drew {len(visits)} phantom images in {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
    step = 128 / phantom.image_size / PIXELS_PER_MM
    rows = tuple(
        RawRow(
            file="images",
            row=index + 1,
            image=_file_name(*visit),
            patient_id=f"patient{visit[0]:04d}",
            label="",
            labels=present[index],
            mask=f"masks/{_file_name(*visit)}",
            spacing_mm=(step, step),
        )
        for index, visit in enumerate(visits)
    )
    return Source(rows=rows, root=phantom.folder, label="", labels=STRUCTURES, phantom=True)


def draw_picture(patient: int, visit: int, *, phantom: PhantomSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture (S, S), uint8 gray, and its mask: 0 background, 1 lungs, 2 heart, 3 nodule."""
    person = np.random.default_rng([phantom.seed, 1, patient])
    rng = np.random.default_rng([phantom.seed, 2, patient, visit])
    side, width = phantom.image_size, person.uniform(*HEART)
    chest = draw_chest(person, rng, side=side, heart=width)
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[chest.lungs.any(axis=0)] = 1
    mask[ellipse(side, np.array([0.53, 0.62]) * side + chest.shift, (width * side, 0.14 * side)) > 0.5] = 2
    if rng.random() < NODULE_SHARE:
        x, y = rng.choice([0.26, 0.72]) + rng.uniform(-0.05, 0.05), rng.uniform(0.3, 0.5)
        radius, center = rng.uniform(*NODULE) * side, chest.place(x, y)
        blob(chest, center, radius, strength=0.85)
        yy, xx = np.mgrid[:side, :side]
        mask[np.hypot(xx - center[0], yy - center[1]) <= radius] = 3
    return expose(chest, rng), mask


def _file_name(patient: int, visit: int) -> str:
    return f"patient{patient:04d}_{visit}.png"


def _save(path: Path, pixels: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


DATASETS.register(
    "phantom_masks",
    Reader(
        read=read_phantom_masks,
        summary="drawn chest pictures with masks of lungs, heart and nodules",
        tasks=("segmentation",),
        labels=STRUCTURES,
        drawn=True,
    ),
)

"""Phantoms: the same seed draws the same bytes, lesions define the grade, and their places are right."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from archbench.datasets import PhantomSettings, Source, SourceSettings
from archbench.datasets.phantom import LESION_NUMBERS, draw_fundus, draw_grades
from archbench.registry import DATASETS


def draw(folder: Path, *, patients: int = 12, seed: int = 5, threads: int = 2) -> Source:
    phantom = PhantomSettings(folder=folder, patients=patients, image_size=96, seed=seed, threads=threads)
    return DATASETS.get("phantom").read(SourceSettings(root=folder, phantom=phantom))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_seed_decides_every_byte_and_threads_do_not(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    assert draw(first, threads=1).rows == draw(second, threads=4).rows
    draw(other, seed=6)
    assert hashes(first) == hashes(second)
    assert set(hashes(first).values()).isdisjoint(hashes(other).values())
    assert len(hashes(first)) == 25  # two eyes of 12 patients and labels.csv


def test_lesion_numbers_follow_the_grade(tmp_path: Path) -> None:
    for row in draw(tmp_path, patients=20).rows:
        kinds = [lesion["kind"] for lesion in json.loads(row.lesions or "[]")]
        for kind, numbers in LESION_NUMBERS.items():
            assert kinds.count(kind) <= numbers[int(row.label)][1]
        assert bool(kinds) == (row.label != "0")
        assert ("tuft" in kinds) == (row.label == "4")


def test_a_lesion_is_where_the_record_says(tmp_path: Path) -> None:
    phantom = PhantomSettings(folder=tmp_path, image_size=160, seed=3)
    image, lesions = draw_fundus(patient=0, eye=0, grade=3, phantom=phantom)
    green = cv2.GaussianBlur(image[:, :, 1].astype(np.float32), (0, 0), 1)
    background = cv2.medianBlur(image[:, :, 1], 31).astype(np.float32)
    dark = [kind["kind"] in ("microaneurysm", "haemorrhage") for kind in lesions]
    contrast = [
        green[round(item["y"]), round(item["x"])] - background[round(item["y"]), round(item["x"])] for item in lesions
    ]
    assert np.mean([value < -5 for value, is_dark in zip(contrast, dark, strict=True) if is_dark]) > 0.9
    assert all(0 <= item["x"] < 160 and 0 <= item["y"] < 160 for item in lesions)


@pytest.mark.parametrize("patients", [60, 300])
def test_every_grade_has_patients_enough_and_eyes_correlate(patients: int) -> None:
    grades = draw_grades(patients=patients, seed=0)
    assert grades.shape == (patients, 2)
    for grade in range(5):
        assert (grades[:, 0] == grade).sum() >= 10
    assert np.corrcoef(grades.T)[0, 1] > 0.7


def test_small_studies_have_every_grade() -> None:
    assert set(draw_grades(patients=20, seed=1)[:, 0].tolist()) == set(range(5))


def test_eyes_are_mirrored(tmp_path: Path) -> None:
    """The optic disc, the brightest place, lies on opposite sides."""
    phantom = PhantomSettings(folder=tmp_path, image_size=128, seed=1)
    places = []
    for eye in range(2):
        image, _ = draw_fundus(patient=0, eye=eye, grade=0, phantom=phantom)
        blurred = cv2.GaussianBlur(image[:, :, 1], (0, 0), 6)
        places.append(int(np.unravel_index(blurred.argmax(), blurred.shape)[1]))
    assert places[0] < 64 < places[1]

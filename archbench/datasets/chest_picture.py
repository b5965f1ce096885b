"""A chest-like picture without findings: what the chest phantoms draw on. Lengths are shares of the image's side."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

LUNG_CENTERS = ((0.31, 0.47), (0.69, 0.47))  # x, y; the patient's right lung is on the picture's left
LUNG_AXES = (0.155, 0.315)
BRIGHTNESS = {"air": 0.06, "body": 0.62, "lung": 0.22, "heart": 0.66}


@dataclass(frozen=True)
class Chest:
    """A drawn chest.

    Attributes:
        canvas: Gray float32, 0-1, shape (S, S).
        lungs: Boolean mask of each lung, shape (2, S, S); the patient's right one first.
        shift: Displacement of the body in pixels, x and y.
    """

    canvas: np.ndarray
    lungs: np.ndarray
    shift: np.ndarray

    @property
    def side(self) -> int:
        """Side of the picture, pixels."""
        return int(self.canvas.shape[0])

    def place(self, x: float, y: float) -> np.ndarray:
        """Pixel coordinates of a place given in shares of the side."""
        return np.array([x, y]) * self.side + self.shift


def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates x and y, each of shape (S, S)."""
    yy, xx = np.mgrid[:side, :side].astype(np.float32)
    return xx, yy


def ellipse(side: int, center: np.ndarray, axes: tuple[float, float], *, soft: float = 1.5) -> np.ndarray:
    """Mask 0-1 of an ellipse with a soft rim; centre, half axes and rim in pixels."""
    xx, yy = grid(side)
    reach = np.hypot((xx - center[0]) / axes[0], (yy - center[1]) / axes[1])
    return np.asarray(np.clip((1 - reach) * min(axes) / soft + 0.5, 0, 1), dtype=np.float32)


def draw_chest(person: np.random.Generator, rng: np.random.Generator, *, side: int, heart: float = 0.12) -> Chest:
    """A chest: body, lungs, ribs, heart; build and exposure vary by patient and picture and say nothing.

    Args:
        person: Stream of the patient, so that two pictures of one show the same build.
        rng: Stream of the picture.
        heart: Half width of the heart, share of the side.
    """
    shift = side * rng.uniform(-0.02, 0.02, 2)
    build = person.uniform(0.94, 1.06)
    canvas: np.ndarray = np.full((side, side), BRIGHTNESS["air"], dtype=np.float32)
    body = ellipse(side, np.array([0.5, 0.56]) * side + shift, (0.47 * side * build, 0.56 * side))
    canvas += body * (BRIGHTNESS["body"] - canvas)
    lungs = []
    for x, y in LUNG_CENTERS:
        mask = ellipse(side, np.array([x, y]) * side + shift, (LUNG_AXES[0] * side * build, LUNG_AXES[1] * side))
        canvas += 0.95 * mask * (BRIGHTNESS["lung"] - canvas)
        lungs.append(mask > 0.5)
    _draw_ribs(canvas, person, shift)
    center = np.array([0.53, 0.62]) * side + shift
    canvas += 0.9 * ellipse(side, center, (heart * side, 0.14 * side), soft=3) * (BRIGHTNESS["heart"] - canvas)
    return Chest(canvas=canvas, lungs=np.stack(lungs), shift=shift)


def _draw_ribs(canvas: np.ndarray, person: np.random.Generator, shift: np.ndarray) -> None:
    side = canvas.shape[0]
    xx, yy = grid(side)
    slope = person.uniform(0.1, 0.25)
    for row in np.linspace(0.2, 0.74, 7):
        height = row * side + shift[1] + slope * np.abs(xx - side / 2 - shift[0])
        canvas += 0.07 * np.exp(-(((yy - height) / (0.012 * side)) ** 2)).astype(np.float32)


def blob(chest: Chest, center: np.ndarray, radius: float, *, strength: float) -> None:
    """Brighten a round, soft spot; centre and radius in pixels."""
    xx, yy = grid(chest.side)
    weight = np.exp(-((np.hypot(xx - center[0], yy - center[1]) / radius) ** 4))
    chest.canvas[...] += (strength * weight * (0.9 - chest.canvas)).astype(np.float32)


def expose(chest: Chest, rng: np.random.Generator) -> np.ndarray:
    """The picture as uint8 gray (S, S): exposure, blur and noise."""
    image = chest.canvas * rng.uniform(0.85, 1.1) + rng.uniform(-0.03, 0.03)
    image = cv2.GaussianBlur(image, (0, 0), chest.side * rng.uniform(0.002, 0.005))
    image = image + rng.uniform(0.01, 0.025) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), dtype=np.uint8)

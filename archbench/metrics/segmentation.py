"""Metrics of one predicted mask against the true one: overlap from counts, surfaces in mm from MONAI."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from archbench.metrics.metric import Array

BOTH_EMPTY = "truth and prediction are empty"
TRUTH_EMPTY = "the truth is empty, the prediction is not: counted as a false positive, see the detection table"
NO_BACKGROUND = "the truth fills the whole image"
SLAB = 32  # slices of a volume whose boundary elements are found at once
TIE = 1e-5  # relative: a distance equal to the tolerance counts as within it, whatever the rounding to 32 bits


@dataclass(frozen=True)
class MaskMetric:
    """Direction and range of a mask metric."""

    name: str
    greater_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)


MASK_METRICS = {
    metric.name: metric
    for metric in (
        MaskMetric("dice"),
        MaskMetric("iou"),
        MaskMetric("sensitivity"),
        MaskMetric("specificity"),
        MaskMetric("hd95_mm", greater_is_better=False, bounds=(0.0, math.inf)),
        MaskMetric("surface_dice"),
    )
}


@dataclass(frozen=True)
class MaskScores:
    """Metrics of one structure in one case.

    Attributes:
        values: By name; NaN where undefined.
        reasons: Why a value is undefined, by name.
        truth_size: Area in mm² or volume in mm³ of the truth.
        predicted_size: The same of the prediction.
    """

    values: Mapping[str, float]
    reasons: Mapping[str, str]
    truth_size: float
    predicted_size: float


@dataclass
class _Found:
    values: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float, reason: str) -> None:
        self.values[name] = value
        if math.isnan(value):
            self.reasons[name] = reason


def score_mask(truth: Array, prediction: Array, *, spacing_mm: Sequence[float], tolerance_mm: float) -> MaskScores:
    """Return the metrics of a structure.

    With an empty prediction Dice, IoU, sensitivity and surface Dice are 0 and HD95 is the diagonal of the image.
    With an empty truth all of them are undefined; the detection table counts such cases.

    Args:
        truth: Boolean, two or three axes.
        prediction: Boolean, the same shape.
        spacing_mm: Voxel spacing along each axis.
        tolerance_mm: Surfaces closer than this agree (surface Dice).
    Raises:
        ValueError: If shapes differ.
    """
    if truth.shape != prediction.shape or len(spacing_mm) != truth.ndim:
        raise ValueError(f"shapes {truth.shape} and {prediction.shape} with {len(spacing_mm)} spacings")
    n_true, n_said = int(np.count_nonzero(truth)), int(np.count_nonzero(prediction))
    both, voxel = int(np.count_nonzero(truth & prediction)), math.prod(spacing_mm)
    rest = truth.size - n_true
    reason = TRUTH_EMPTY if n_said else BOTH_EMPTY
    found = _Found()
    found.add("dice", 2 * both / (n_true + n_said) if n_true else math.nan, reason)
    found.add("iou", both / (n_true + n_said - both) if n_true else math.nan, reason)
    found.add("sensitivity", both / n_true if n_true else math.nan, reason)
    found.add("specificity", (rest - (n_said - both)) / rest if rest else math.nan, NO_BACKGROUND)
    hd95, surface = math.nan, math.nan
    if n_true:
        hd95, surface = _surfaces(truth, prediction, spacing_mm, tolerance_mm) if n_said else (math.inf, 0.0)
        hd95 = diagonal_mm(truth.shape, spacing_mm) if math.isinf(hd95) else hd95
    found.add("hd95_mm", hd95, reason)
    found.add("surface_dice", surface, reason)
    return MaskScores(found.values, found.reasons, n_true * voxel, n_said * voxel)


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Length of the image's diagonal from edge to edge: the HD95 of a prediction that finds nothing."""
    return math.hypot(*(size * step for size, step in zip(shape, spacing_mm, strict=True)))


def _surfaces(truth: Array, prediction: Array, spacing_mm: Sequence[float], tolerance_mm: float) -> tuple[float, float]:
    """HD95 and surface Dice of two masks that are not empty.

    Source:
        MONAI: HD95 is the larger of the two directed 95 % quantiles over the boundary voxels; boundary elements and
        their areas are those of Nikolov et al., 2018. Its surface Dice itself took 6.9 GB for 512 x 512 x 300 voxels,
        so that the sum over the elements is ours; a test compares the two.
    """
    import torch
    from monai.metrics import compute_hausdorff_distance

    box = _box(truth | prediction)
    true, said = (torch.from_numpy(np.pad(mask[box], 1)) for mask in (truth, prediction))
    spacing = [float(step) for step in spacing_mm]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)  # its own call
        distance = compute_hausdorff_distance(
            said[None, None], true[None, None], include_background=True, percentile=95, spacing=spacing
        )
    return float(distance), _surface_dice(_elements(true, said, spacing), tolerance_mm * (1 + TIE))


def _elements(true: Any, said: Any, spacing: list[float]) -> list[tuple[Array, Array]]:
    """Places in mm (N, axes) and areas (N,) of the boundary elements of both masks, slab by slab: memory is bounded."""
    from monai.metrics.utils import get_mask_edges

    found: list[list[tuple[Array, Array]]] = [[], []]
    for start in range(0, len(true) - 1, SLAB):
        part = slice(start, start + SLAB + 1)  # an element lies between two voxels
        edges = get_mask_edges(said[part], true[part], crop=False, spacing=spacing)
        said_edges, true_edges, said_areas, true_areas = (np.asarray(values) for values in edges)
        for places, where, areas in ((found[0], true_edges, true_areas), (found[1], said_edges, said_areas)):
            index = np.argwhere(where)
            index[:, 0] += start
            places.append((index * np.array(spacing), areas[where]))
    return [tuple(np.concatenate(parts) for parts in zip(*mask, strict=True)) for mask in found]  # type: ignore[misc]


def _surface_dice(elements: list[tuple[Array, Array]], tolerance_mm: float) -> float:
    """Share of the area of both surfaces that lies within the tolerance of the other one."""
    from scipy.spatial import KDTree

    near = total = 0.0
    for (places, areas), (others, _) in (elements, elements[::-1]):
        beyond = tolerance_mm * (1 + TIE) + TIE  # farther ones needn't be found
        distances = KDTree(others).query(places, distance_upper_bound=beyond)[0]
        near += float(areas[distances <= tolerance_mm].sum(dtype=np.float64))
        total += float(areas.sum(dtype=np.float64))
    return near / total


def _box(mask: Array) -> tuple[slice, ...]:
    """Smallest box around a mask that is not empty: surfaces depend on nothing outside it."""
    box = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)

"""Mask metrics against hand-computed values, an independent reference, and the rules for empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from archbench.metrics.segmentation import BOTH_EMPTY, TRUTH_EMPTY, score_mask


def scores(truth, prediction, spacing_mm=(1.0, 1.0), tolerance_mm=1.0):
    return score_mask(truth, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)


def square(left, shape=(20, 30)):
    mask = np.zeros(shape, bool)
    mask[5:15, left : left + 10] = True
    return mask


def test_overlap_of_two_squares():
    found = scores(square(8), square(12), spacing_mm=(0.5, 2.0))
    # 60 of 100 voxels overlap, 500 of 600 background voxels stay free but for 40
    assert found.values["dice"] == pytest.approx(120 / 200)
    assert found.values["iou"] == pytest.approx(60 / 140)
    assert found.values["sensitivity"] == pytest.approx(60 / 100)
    assert found.values["specificity"] == pytest.approx(460 / 500)
    assert found.truth_size == found.predicted_size == pytest.approx(100.0)
    assert not found.reasons


def test_surfaces_of_a_shifted_square_by_hand():
    step = 0.8
    near = scores(square(8), square(9), (step, step), tolerance_mm=step)
    assert near.values["surface_dice"] == pytest.approx(1.0)
    # top and bottom still coincide but for one corner each, left and right are a step away: half of each contour
    below = scores(square(8), square(9), (step, step), tolerance_mm=0.9 * step)
    assert below.values["surface_dice"] == pytest.approx(0.5)
    assert near.values["hd95_mm"] == pytest.approx(step)


def test_a_distance_equal_to_the_tolerance_is_within_it():
    # 3 * 0.8 is more than 2.4 in 32-bit numbers read from a header
    step = float(np.float32(0.8))
    found = scores(square(8), square(11), (step, step), tolerance_mm=2.4)
    assert found.values["surface_dice"] == pytest.approx(1.0)


def test_a_tolerance_of_zero_asks_for_the_same_surface():
    assert scores(square(8), square(8), tolerance_mm=0.0).values["surface_dice"] == 1
    assert scores(square(8), square(9), tolerance_mm=0.0).values["surface_dice"] == pytest.approx(0.5)


def test_distances_are_in_mm_of_each_axis():
    truth, prediction = np.zeros((2, 9, 9, 9), bool)
    truth[1, 2, 3] = prediction[3, 5, 3] = True
    found = scores(truth, prediction, (3.0, 0.5, 1.0))
    assert found.values["hd95_mm"] == pytest.approx(math.hypot(2 * 3.0, 3 * 0.5))
    assert found.values["dice"] == 0 and found.values["surface_dice"] == 0


def boundary(mask):
    """Voxels with a face neighbour outside the mask, beyond the image included."""
    inner = ndimage.binary_erosion(np.pad(mask, 1), ndimage.generate_binary_structure(mask.ndim, 1))
    return mask & ~inner[tuple(slice(1, -1) for _ in mask.shape)]


@pytest.mark.parametrize("shape", [(40, 30), (18, 15, 12)])
@pytest.mark.parametrize("seed", range(3))
def test_hd95_agrees_with_all_distances_of_all_boundary_voxels(shape, seed):
    generator = np.random.default_rng(seed)
    spacing = generator.uniform(0.4, 3.0, size=len(shape))
    truth, prediction = (ndimage.gaussian_filter(generator.normal(size=shape), 2) > 0.02 for _ in range(2))
    points = [np.argwhere(boundary(mask)) * spacing for mask in (truth, prediction)]
    distances = cdist(*points)
    expected = max(np.quantile(distances.min(axis=axis), 0.95) for axis in (0, 1))
    found = scores(truth, prediction, tuple(spacing))
    back = scores(prediction, truth, tuple(spacing))
    assert found.values["hd95_mm"] == pytest.approx(expected, rel=1e-5)
    for name in ("dice", "iou", "hd95_mm", "surface_dice"):
        assert back.values[name] == pytest.approx(found.values[name], rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("shape", [(80, 30), (70, 15, 12)])  # several slabs
def test_surfaces_are_those_of_monai(shape, monkeypatch):
    import monai.metrics.utils
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    monkeypatch.setattr(monai.metrics.utils, "has_scipy_kdtree", False)  # its distance transform: trees have crashed

    generator = np.random.default_rng(len(shape))
    spacing = [1.5, 0.7, 1.0][: len(shape)]
    truth, prediction = (ndimage.gaussian_filter(generator.normal(size=shape), 2) > 0.02 for _ in range(2))
    masks = [torch.from_numpy(mask[None, None]).float() for mask in (prediction, truth)]
    expected = compute_surface_dice(
        *masks, class_thresholds=[1.6], include_background=True, spacing=spacing, use_subvoxels=True
    )
    distance = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing)
    found = scores(truth, prediction, tuple(spacing), tolerance_mm=1.6).values
    assert 0.1 < found["surface_dice"] < 0.95
    assert found["surface_dice"] == pytest.approx(float(expected), rel=1e-5)
    assert found["hd95_mm"] == pytest.approx(float(distance), rel=1e-5)


def test_no_tree_of_points_is_built(monkeypatch):
    import scipy.spatial

    def crash(*_, **__):
        raise AssertionError("building SciPy's tree of points has crashed processes with torch and OpenCV loaded")

    for name in ("KDTree", "cKDTree"):
        monkeypatch.setattr(scipy.spatial, name, crash)
    monkeypatch.setattr("monai.metrics.utils.KDTree", crash)
    assert scores(square(8), square(12)).values["hd95_mm"] == pytest.approx(4.0)


def test_masks_at_the_border_have_a_surface_there():
    whole = np.ones((6, 6), bool)
    found = scores(whole, whole.copy())
    assert found.values["surface_dice"] == 1 and found.values["hd95_mm"] == 0
    assert math.isnan(found.values["specificity"]) and "specificity" in found.reasons


def test_what_lies_outside_the_masks_changes_no_surface():
    small = scores(square(8), square(12), (0.7, 1.3))
    padded = scores(np.pad(square(8), 25), np.pad(square(12), 25), (0.7, 1.3))
    for name in ("hd95_mm", "surface_dice"):
        assert small.values[name] == padded.values[name]


def test_both_empty_is_undefined_and_no_zero():
    empty = np.zeros((20, 30), bool)
    found = scores(empty, empty.copy())
    for name in ("dice", "iou", "sensitivity", "hd95_mm", "surface_dice"):
        assert math.isnan(found.values[name]) and found.reasons[name] == BOTH_EMPTY
    assert found.values["specificity"] == 1


def test_a_false_positive_is_undefined_with_its_size():
    found = scores(np.zeros((20, 30), bool), square(3), (0.5, 2.0))
    for name in ("dice", "iou", "sensitivity", "hd95_mm", "surface_dice"):
        assert math.isnan(found.values[name]) and found.reasons[name] == TRUTH_EMPTY
    assert found.values["specificity"] == pytest.approx(500 / 600)
    assert (found.truth_size, found.predicted_size) == (0, 100)


def test_a_miss_is_zero_at_the_diagonal_of_the_image():
    found = scores(square(3), np.zeros((20, 30), bool), (0.5, 2.0))
    for name in ("dice", "iou", "sensitivity", "surface_dice"):
        assert found.values[name] == 0
    assert found.values["hd95_mm"] == pytest.approx(math.hypot(20 * 0.5, 30 * 2.0))
    assert not found.reasons


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shapes"):
        scores(square(3), square(3)[:-1])

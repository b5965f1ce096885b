"""Grad-CAM of volumes: one scale for all slices, weights beside them, and the sheet that shows both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from archbench.explain import _lesion_hit, _slice_hit
from archbench.image_cache import ImageCache, VolumeGeometry
from archbench.models.building import VolumeNetwork, build_network, cam_layer
from archbench.volume_maps import BAR, GAP, STRIP, TILE, VolumeMap, slice_sheet, slices_of, volume_map

CPU = torch.device("cpu")
SIDE, SLICES = 48, 6


def network(architecture: str = "custom1", **changes: Any) -> VolumeNetwork:
    torch.manual_seed(0)
    volume = {"hu_window": [-1000, 400], "slices": SLICES, "pooling": "attention", "slice_input": "single", **changes}
    built = build_network(architecture, num_classes=2, image_size=SIDE, volume=volume)
    assert isinstance(built, VolumeNetwork)
    with torch.no_grad():
        for parameter in built.head.parameters():
            parameter.normal_(std=0.3)
        built.head.weight[1].copy_(-built.head.weight[0])  # where one map is empty, the other is not
    return built.eval()


def strongest(net: VolumeNetwork, volume: np.ndarray) -> VolumeMap:
    """The map of the output that anything speaks for."""
    maps = [volume_map(net, volume, output, device=CPU) for output in (0, 1)]
    return max(maps, key=lambda found: float(found.heatmap.max()))


def one_volume() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(-1100, 500, size=(SLICES, SIDE, SIDE)).astype(np.int16)


@pytest.mark.parametrize("output", [0, 1])
def test_maps_are_gradcam_slice_by_slice_on_one_scale(output: int) -> None:
    net, volume = network(), one_volume()
    kept: list[torch.Tensor] = []
    handle = cam_layer(net).register_forward_hook(lambda module, inputs, out: kept.append(out))
    logit = net(torch.from_numpy(volume)[None])[0, output]
    (gradient,) = torch.autograd.grad(logit, kept[0])
    handle.remove()
    by_hand = torch.stack(
        [(g.mean(dim=(1, 2))[:, None, None] * a).sum(0).relu() for g, a in zip(gradient, kept[0], strict=True)]
    )
    full = functional.interpolate(by_hand[:, None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    found = volume_map(net, volume, output, device=CPU)
    expected = full / full.max() if full.max() > 0 else full
    np.testing.assert_allclose(found.heatmap, expected.detach(), atol=1e-5)
    assert found.heatmap.shape == (SLICES, SIDE, SIDE)
    if found.heatmap.any():
        assert found.heatmap.max() == found.heatmap[found.key_slice].max() == 1
        assert min(found.heatmap.max(axis=(1, 2))) < 0.99, "slices are compared, not each scaled to its own best"
    else:
        assert found.weights is not None and found.key_slice == found.weights.argmax()


def test_one_of_two_opposite_outputs_has_a_map() -> None:
    found = strongest(network(), one_volume())
    assert found.heatmap.max() == 1 and found.heatmap.std() > 0.01


def test_weights_and_pixels_are_those_of_the_network() -> None:
    net, volume = network(), one_volume()
    found = volume_map(net, volume, 0, device=CPU)
    with torch.no_grad():
        features = net.network.features(torch.from_numpy(volume)[None].float())
        expected = net.network.pooling.weights(features)[0]  # type: ignore[operator]
    assert found.weights is not None
    np.testing.assert_allclose(found.weights, expected, rtol=1e-5)
    assert found.weights.sum() == pytest.approx(1, abs=1e-5)
    by_hand = np.round(255 * (volume.clip(-1000, 400) + 1000.0) / 1400).astype(np.uint8)
    assert np.abs(found.pixels.astype(int) - by_hand).max() <= 1


def test_a_network_of_the_whole_volume_has_a_map_and_no_weights() -> None:
    found = strongest(network("r3d_10"), one_volume())
    assert found.weights is None and found.heatmap.shape == (SLICES, SIDE, SIDE)
    assert np.isfinite(found.heatmap).all() and found.heatmap.std() > 0.01


def test_tokens_of_a_vit_become_maps_of_slices() -> None:
    found = strongest(network("vit_tiny_patch16_224"), one_volume())
    assert found.heatmap.shape == (SLICES, SIDE, SIDE) and found.heatmap.std() > 0.01


def test_the_sheet_draws_every_slice_and_a_bar_for_its_weight(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels, heat = rng.integers(0, 256, (8, 32, 32), np.uint8), rng.random((8, 32, 32), np.float32)
    weights = np.array([0.02, 0.02, 0.4, 0.2, 0.02, 0.3, 0.02, 0.02])
    sheet = slice_sheet(VolumeMap(pixels, heat, weights))
    columns, rows = 4, 2
    assert sheet.shape == (rows * (TILE + STRIP + GAP) + GAP, columns * (TILE + GAP) + GAP, 3)
    lengths = []
    for index in range(8):
        top, left = GAP + index // columns * (TILE + STRIP + GAP), GAP + index % columns * (TILE + GAP)
        strip = sheet[top + TILE : top + TILE + STRIP, left : left + TILE]
        lengths.append(int((strip == BAR).all(axis=2).any(axis=0).sum()))
        assert sheet[top : top + TILE, left : left + TILE].std() > 5
    np.testing.assert_allclose(np.array(lengths) / max(lengths), weights / 0.4, atol=0.02)
    assert cv2.imwrite(str(tmp_path / "sheet.png"), sheet)


def test_a_long_volume_is_thinned_but_keeps_its_key_slice() -> None:
    pixels, heat = np.zeros((101, 16, 16), np.uint8), np.zeros((101, 16, 16), np.float32)
    heat[37, 4:9, 4:9] = 1
    shown = VolumeMap(pixels, heat, None)
    sheet = slice_sheet(shown)
    assert shown.key_slice == 37
    assert sheet.shape[0] * sheet.shape[1] < 26 * (TILE + STRIP + GAP + 8) * (TILE + GAP + 8)
    yellow = (sheet[:, :, 0] > 90) & (sheet[:, :, 2] < 60)  # the strongest colour, over black
    assert yellow.any()
    heat[37] = 0
    blank = slice_sheet(VolumeMap(pixels, heat, None))
    assert not ((blank[:, :, 0] > 90) & (blank[:, :, 2] < 60)).any()


SLICE_MM = np.array([10.0, 30.0, 50.0, 70.0, 90.0, 110.0])
LESION = {"kind": "nodule", "x": 40.0, "y": 16.0, "radius": 4.0, "z_mm": 52.0, "z_reach_mm": 8.0}


def cache_of_one() -> ImageCache:
    """One volume of six slices, whose 96 source pixels are shown as 48."""
    geometry = VolumeGeometry((-1000.0, 400.0), SLICE_MM[None], "all")
    box = np.array([[0, 0, 96, 96]], np.float32)
    return ImageCache(one_volume()[None], None, box, ("a",), SIDE, geometry)


def test_a_lesion_is_in_the_slices_that_cut_it_and_in_the_nearest() -> None:
    tall = {**LESION, "z_reach_mm": 25.0}
    between = {**LESION, "z_mm": 62.0, "z_reach_mm": 3.0}
    shows = slices_of([LESION, tall, between], SLICE_MM)
    assert [np.flatnonzero(row).tolist() for row in shows] == [[2], [1, 2, 3], [3]]


@pytest.mark.parametrize(
    ("place", "hit"), [((2, 8, 20), True), ((2, 8, 30), False), ((3, 8, 20), False), ((1, 8, 20), False)]
)
def test_the_strongest_point_of_a_volume_hits_in_all_three_directions(place: tuple[int, int, int], hit: bool) -> None:
    heat = np.full((SLICES, SIDE, SIDE), 0.1, np.float32)
    heat[place] = 1
    inside, area = _lesion_hit(heat, [LESION], cache_of_one(), 0)
    radius = 4 * 48 / 96 + 48 / 28
    assert inside is hit
    assert area == pytest.approx(np.pi * radius**2 / (SIDE * SIDE * SLICES), rel=0.1)


def test_the_heaviest_slice_is_held_against_the_planted_ones() -> None:
    pixels, heat = np.zeros((6, 8, 8), np.uint8), np.zeros((6, 8, 8), np.float32)
    right, wrong, even = (
        VolumeMap(pixels, heat, np.array(weights))
        for weights in ([0.1, 0.1, 0.5, 0.1, 0.1, 0.1], [0.5, 0.1, 0.1, 0.1, 0.1, 0.1], [1 / 6] * 6)
    )
    cache = cache_of_one()
    assert _slice_hit(right, [LESION], cache, 0) == (True, pytest.approx(1 / 6))
    assert _slice_hit(wrong, [LESION], cache, 0) == (False, pytest.approx(1 / 6))
    assert _slice_hit(even, [LESION], cache, 0) == (None, None), "no slice is the heaviest"
    assert _slice_hit(right, None, cache, 0) == (None, None)
    assert _slice_hit(VolumeMap(pixels, heat, None), [LESION], cache, 0) == (None, None)

"""Grad-CAM of volumes: a map for each slice, how much each slice counted, and a sheet that shows both.

pytorch-grad-cam scales the map of every slice to its own maximum, so that a slice that says nothing looks like one
that decides; here all slices of a volume share one scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional

from archbench.models.building import VolumeNetwork, cam_layer, cam_maps

TILE, STRIP, GAP = 160, 18, 6
MOST_SLICES = 24
OVERLAY_WEIGHT = 0.45
BAR, INK = (230, 159, 0), (235, 235, 235)  # Okabe-Ito orange


@dataclass(frozen=True)
class VolumeMap:
    """What a network looks at in one volume.

    Attributes:
        pixels: The slices in the network's window, uint8, shape (D, S, S).
        heatmap: Grad-CAM, float32 in 0..1, shape (D, S, S); one scale for all slices.
        weights: How much each slice counts in the pooling, shape (D,), sum 1; None of a network that pools none.
    """

    pixels: np.ndarray
    heatmap: np.ndarray
    weights: np.ndarray | None

    @property
    def key_slice(self) -> int:
        """The slice to show alone: where the map is strongest; of an empty map, the one that weighs most."""
        if self.weights is not None and not self.heatmap.any():
            return int(self.weights.argmax())
        return int(self.heatmap.max(axis=(1, 2)).argmax())


def volume_map(network: VolumeNetwork, volume: np.ndarray, output: int, *, device: torch.device) -> VolumeMap:
    """Return the Grad-CAM of one output for one volume.

    Args:
        volume: Hounsfield units, int16, shape (D, S, S).
        output: Logit column.
    Source:
        Selvaraju et al., Grad-CAM, ICCV 2017. Channels are weighed slice by slice, since each slice is an image of
        its own to the backbone; a network that reads the volume whole weighs them over all of it.
    """
    kept: list[torch.Tensor] = []
    read: list[torch.Tensor] = []
    hooks = [
        cam_layer(network).register_forward_hook(lambda module, inputs, out: kept.append(out)),
        network.feature_reader.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0])),
    ]
    batch = torch.from_numpy(np.ascontiguousarray(volume))[None].to(device)
    try:
        with torch.enable_grad():
            logit = network.eval()(batch)[0, output]
            (gradient,) = torch.autograd.grad(logit, kept[0])
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        maps, slopes = cam_maps(network, kept[0]), cam_maps(network, gradient)
        over = tuple(range(2, maps.ndim))
        heat = (slopes.mean(dim=over, keepdim=True) * maps).sum(dim=1, keepdim=True).clamp_min(0).float()
        pixels = network.network.windowed(batch.float())[0]
        pooling = network.network.pooling
        weights = None if network.network.whole else pooling.weights(read[0])[0].cpu().numpy()  # type: ignore[operator]
    return VolumeMap(pixels.round().byte().cpu().numpy(), _enlarged(heat, batch.shape), weights)


def _enlarged(heat: torch.Tensor, shape: torch.Size) -> np.ndarray:
    """Return maps (D, 1, h, w) or (1, 1, d, h, w) at the size of the volume (1, D, S, S), scaled to their maximum."""
    if heat.ndim == 5:
        full = functional.interpolate(heat, size=tuple(shape[1:]), mode="trilinear", align_corners=False)[0, 0]
    else:
        full = functional.interpolate(heat, size=tuple(shape[2:]), mode="bilinear", align_corners=False)[:, 0]
    scaled: np.ndarray = (full / full.max().clamp_min(1e-12)).cpu().numpy()
    return scaled


def slices_of(lesions: Sequence[Mapping[str, Any]], slice_mm: np.ndarray) -> np.ndarray:
    """Return which slices show each lesion, shape (L, D): those that cut it, and the nearest one.

    Args:
        lesions: With z_mm, and z_reach_mm either way, above the lower face of the volume.
        slice_mm: Where the slices were cut, shape (D,).
    """
    middle, reach = (np.array([lesion[key] for lesion in lesions])[:, None] for key in ("z_mm", "z_reach_mm"))
    gap = np.abs(slice_mm[None] - middle)
    return (gap <= reach) | (gap == gap.min(axis=1, keepdims=True))


def colours(heatmap: np.ndarray) -> np.ndarray:
    """Return a map of 0..1, shape (H, W), in viridis, RGB."""
    painted = cv2.applyColorMap(np.uint8(255 * np.clip(heatmap, 0, 1)), cv2.COLORMAP_VIRIDIS)  # type: ignore[call-overload]
    return cv2.cvtColor(painted, cv2.COLOR_BGR2RGB)


def slice_sheet(shown: VolumeMap) -> np.ndarray:
    """Return all slices with their maps over them, RGB; below each its number, and a bar for its weight.

    Of more than 24 slices every n-th is drawn, and the key slice always.
    """
    n = len(shown.pixels)
    chosen = range(n) if n <= MOST_SLICES else _thinned(n, shown.key_slice)
    columns = math.ceil(math.sqrt(len(chosen) * 4 / 3))
    rows = math.ceil(len(chosen) / columns)
    height, width = TILE + STRIP + GAP, TILE + GAP
    sheet = np.zeros((rows * height + GAP, columns * width + GAP, 3), np.uint8)
    for place, index in enumerate(chosen):
        top, left = GAP + place // columns * height, GAP + place % columns * width
        sheet[top : top + TILE + STRIP, left : left + TILE] = _tile(shown, index)
    return sheet


def _thinned(n: int, key: int) -> list[int]:
    return sorted({key, *np.linspace(0, n - 1, MOST_SLICES - 1).round().astype(int).tolist()})


def _tile(shown: VolumeMap, index: int) -> np.ndarray:
    gray = cv2.resize(shown.pixels[index], (TILE, TILE), interpolation=cv2.INTER_LINEAR)
    heat = colours(cv2.resize(shown.heatmap[index], (TILE, TILE), interpolation=cv2.INTER_LINEAR))
    tile = np.zeros((TILE + STRIP, TILE, 3), np.uint8)
    tile[:TILE] = cv2.addWeighted(np.repeat(gray[:, :, None], 3, axis=2), 1 - OVERLAY_WEIGHT, heat, OVERLAY_WEIGHT, 0)
    text = f"{index + 1}"
    if shown.weights is not None:
        share, largest = float(shown.weights[index]), float(shown.weights.max())
        room = TILE - 62
        tile[TILE + 5 : TILE + 14, 60 : 60 + round(room * share / max(largest, 1e-12))] = BAR
        text += f"  {share:.2f}".replace("0.", ".", 1)
    cv2.putText(tile, text, (2, TILE + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
    return tile

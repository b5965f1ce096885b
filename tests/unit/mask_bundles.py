"""Small bundles of masks for tests of the runner: a real network of pixels, exported, with any preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from runner_bundles import LIMIT, SIDE, export, normalization_of

from archbench.bundle_files import Images, add_example, library_versions, write_content, write_sums
from archbench.mask_bundle import mask_content, write_example_mask
from archbench.models.building import NormalizedNetwork
from archbench_predict.description import describe_steps
from archbench_predict.images import Preprocessing
from archbench_predict.scans import SliceSettings, describe_slices

CLASSES = ("background", "bright", "dark")


def pixel_network(*, channels: int) -> NormalizedNetwork:
    """Two convolutions whose classes depend on the image: bright is class 1, dark class 2, between them lies 0."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(channels, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(6, len(CLASSES), 1)
    )
    with torch.no_grad():
        layers[0].weight[:, :] = (
            torch.rand(6, channels, 3, 3) / (9 * channels) * torch.tensor([1.0, 1, 1, -1, -1, -1]).view(6, 1, 1, 1)
        )
        layers[2].weight[0] = 0.0
        layers[2].weight[1, :, 0, 0] = torch.tensor([4.0, 4, 4, -4, -4, -4])
        layers[2].weight[2] = -layers[2].weight[1]
        layers[2].bias[:] = torch.tensor([1.0, 0.0, 0.0])
    sizes: dict[str, Any] = {"architecture": "unet", "image_size": SIDE, "in_channels": channels}
    return NormalizedNetwork(layers, normalization="half", **sizes).eval()


def make_mask_bundle(
    folder: Path,
    onnx: Path,
    network: NormalizedNetwork,
    *,
    settings: Preprocessing | None = None,
    slices: SliceSettings | None = None,
) -> Path:
    """Write a bundle around an ONNX file; its expected mask comes from the runner."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(onnx.read_bytes())
    member = {
        "name": "small",
        "file": "model.onnx",
        "precision": "fp32",
        "input": {"normalized": True, "batch": "dynamic"},
        "preprocessing": describe_steps(settings or Preprocessing(size=SIDE, crop_border=False), max_pixels=LIMIT),
        "normalization": normalization_of(network),
    }
    content = mask_content(
        name="test-masks",
        task="segmentation",
        classes=CLASSES,
        member=member,
        slices=None if slices is None else describe_slices(slices),
        provenance={},
    )
    example = add_example(folder, None, Images(folder, {}, {}), size=SIDE, masked=False, volume=slices is not None)
    example["mask"] = "example/mask" + (".png" if slices is None else ".nii.gz")
    (folder / example["mask"]).touch()
    write_content(folder, {**content, "example": example, "versions": library_versions()})
    write_sums(folder)
    write_example_mask(folder)
    write_sums(folder)
    return folder


def export_pixels(folder: Path, *, channels: int) -> Path:
    """Export the network for gray or colour images; return the file."""
    export(pixel_network(channels=channels), folder / f"pixels{channels}.onnx")
    return folder / f"pixels{channels}.onnx"


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Mean Dice over the classes that one of two masks holds, the background left out; 1 where both are empty."""
    values = [
        2 * ((first == k) & (second == k)).sum() / ((first == k).sum() + (second == k).sum())
        for k in range(1, len(CLASSES))
        if (first == k).any() or (second == k).any()
    ]
    return float(np.mean(values)) if values else 1.0

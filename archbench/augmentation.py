"""Random changes of whole batches, drawn anew for each image, on the device of the batch.

torchvision's transforms draw one set of numbers for a whole batch; here one affine resampling and one
colour step serve all images at once, each with its own numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional


@dataclass(frozen=True)
class Strength:
    """Bounds of the random changes.

    Attributes:
        rotation_deg: Largest rotation either way, degrees.
        scale: Largest relative zoom either way.
        shift: Largest shift either way, share of the side.
        brightness, contrast, saturation: Largest relative change either way.
        erase: Probability that a rectangle is blanked.
    """

    rotation_deg: float
    scale: float
    shift: float
    brightness: float
    contrast: float
    saturation: float
    erase: float


STRENGTHS = {
    "light": Strength(rotation_deg=15, scale=0.05, shift=0.03, brightness=0.1, contrast=0.1, saturation=0.0, erase=0.0),
    "strong": Strength(
        rotation_deg=45, scale=0.15, shift=0.08, brightness=0.25, contrast=0.25, saturation=0.2, erase=0.25
    ),
}


def augment(images: torch.Tensor, *, strength: str, flips: str, generator: torch.Generator) -> torch.Tensor:
    """Return changed images.

    Args:
        images: Pixels 0-255, float32, shape (B, 3, H, W).
        strength: none, light or strong.
        flips: none, horizontal or both.
        generator: CPU generator; equal states give equal changes on every device.
    """
    if strength == "none":
        return images
    bounds = STRENGTHS[strength]
    images = _move(images, bounds, flips, generator)
    images = _recolour(images, bounds, generator)
    return _erase(images, bounds.erase, generator) if bounds.erase else images


def augment_with_masks(
    images: torch.Tensor, masks: torch.Tensor, *, strength: str, flips: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images as `augment` changes them, and their masks moved along; what comes from outside is background.

    Args:
        masks: Class indices, shape (B, H, W), any integer type; they are taken from the nearest pixel.
    """
    if strength == "none":
        return images, masks
    bounds = STRENGTHS[strength]
    grid = _draw_grid(images, bounds, flips, generator)
    images = _resample(images, grid, mode="bilinear")
    moved = _resample(masks[:, None].float(), grid, mode="nearest")
    images = _recolour(images, bounds, generator)
    images = _erase(images, bounds.erase, generator) if bounds.erase else images
    return images, moved[:, 0].round().to(masks.dtype)


def augment_volumes(
    volumes: torch.Tensor, *, hu_window: tuple[float, float], strength: str, flips: str, generator: torch.Generator
) -> torch.Tensor:
    """Return changed volumes: all slices of one are moved, mirrored, brightened and blanked alike.

    Contrast is that about the middle of the window, brightness a share of its width; what is moved in or blanked is
    as dark as the window goes.

    Args:
        volumes: Hounsfield units, float32, shape (B, D, H, W).
        hu_window: Lower and upper end of the window that the network applies later.
        strength, flips, generator: As of `augment`; mirroring is in the plane of the slices.
    """
    low, high = hu_window
    volumes = volumes.clamp(low, high)  # what lies outside shows in no network, and must not in a mixture either
    if strength == "none":
        return volumes
    bounds, n, middle = STRENGTHS[strength], len(volumes), (high - low) / 2
    volumes = _move(volumes - low, bounds, flips, generator)
    contrast, brightness = (
        _uniform(n, bound, generator).view(n, 1, 1, 1).to(volumes.device)
        for bound in (bounds.contrast, bounds.brightness)
    )
    volumes.sub_(middle).mul_(1 + contrast).add_(middle + brightness * (high - low)).clamp_(0, high - low)
    return (_erase(volumes, bounds.erase, generator) if bounds.erase else volumes) + low


def _move(images: torch.Tensor, bounds: Strength, flips: str, generator: torch.Generator) -> torch.Tensor:
    return _resample(images, _draw_grid(images, bounds, flips, generator), mode="bilinear")


def _resample(images: torch.Tensor, grid: torch.Tensor, *, mode: str) -> torch.Tensor:
    return functional.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


def _uniform(n: int, bound: float, generator: torch.Generator) -> torch.Tensor:
    return (2 * torch.rand(n, generator=generator) - 1) * bound


def _draw_grid(images: torch.Tensor, bounds: Strength, flips: str, generator: torch.Generator) -> torch.Tensor:
    """Draw where each pixel of each image is taken from, shape (B, H, W, 2)."""
    n = len(images)
    draws = torch.rand(6, n, generator=generator).numpy()  # on so few numbers NumPy is quicker than torch
    angle = (2 * draws[0] - 1) * np.float32(math.radians(bounds.rotation_deg))
    zoom = 1 + (2 * draws[1] - 1) * np.float32(bounds.scale)
    horizontal, vertical = (np.where(draw < 0.5, np.float32(-1), np.float32(1)) for draw in draws[2:4])
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    matrices = np.empty((n, 2, 3), dtype=np.float32)
    matrices[:, 0, 0], matrices[:, 0, 1] = cos, -sin
    matrices[:, 1, 0], matrices[:, 1, 1] = sin, cos
    if flips in ("horizontal", "both"):
        matrices[:, 0] *= horizontal[:, None]
    if flips == "both":
        matrices[:, 1] *= vertical[:, None]
    matrices[:, :, 2] = ((2 * draws[4:6] - 1) * np.float32(2 * bounds.shift)).T
    grid = torch.from_numpy(matrices).to(images.device)
    return _affine_grid(grid, height=images.shape[2], width=images.shape[3])


def _affine_grid(matrices: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    """Return where each pixel is taken from, shape (B, H, W, 2), of matrices (B, 2, 3).

    torch's affine_grid multiplies every pixel's place by the matrix; here its row's and its column's part are added,
    and x and y lie apart in memory, which is faster to make and to sample by.
    """
    rows, columns = (
        (torch.arange(n, device=matrices.device, dtype=matrices.dtype) * 2 + 1) / n - 1 for n in (height, width)
    )
    parts = matrices[:, :, None, None]
    of_row = rows.view(1, 1, -1, 1) * parts[..., 1] + parts[..., 2]
    of_column = columns.view(1, 1, 1, -1) * parts[..., 0]
    return (of_row + of_column).permute(0, 2, 3, 1)


def _recolour(images: torch.Tensor, bounds: Strength, generator: torch.Generator) -> torch.Tensor:
    """Change the images in place: they are the fresh ones of the resampling."""
    n = len(images)

    def factor(bound: float) -> torch.Tensor:
        return (1 + _uniform(n, bound, generator)).view(n, 1, 1, 1).to(images.device)

    brightness, contrast, saturation = (
        factor(bounds.brightness),
        factor(bounds.contrast),
        factor(bounds.saturation),
    )
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images.mul_(contrast).add_(mean * (brightness - contrast))  # (image - mean) * contrast + mean * brightness
    if bounds.saturation:
        gray = images.mean(dim=1, keepdim=True)
        images.mul_(saturation).add_(gray * (1 - saturation))
    return images.clamp_(0, 255)


def _erase(images: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    n, _, height, width = images.shape
    chosen = torch.rand(n, generator=generator) < probability
    sides = 0.1 + 0.15 * torch.rand(n, 2, generator=generator)
    corner = torch.rand(n, 2, generator=generator) * (1 - sides)
    for k in torch.nonzero(chosen)[:, 0].tolist():
        top, left = int(corner[k, 0] * height), int(corner[k, 1] * width)
        bottom, right = top + int(sides[k, 0] * height), left + int(sides[k, 1] * width)
        images[k, :, top:bottom, left:right] = 0
    return images

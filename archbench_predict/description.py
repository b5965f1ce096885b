"""Preprocessing as data: every step with its numbers and its exact interpolation, and back.

What the runner reads must be what it does: a description with another number, another interpolation or an unknown
step than this code would give is refused instead of being rounded to the nearest thing it can do.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from archbench_predict.images import CLAHE_TILES, Preprocessing, border_box, mask_box

BORDER = {name: inspect.signature(border_box).parameters[name].default for name in ("threshold", "pad")}
MASK_PAD = inspect.signature(mask_box).parameters["pad"].default


class DescriptionError(ValueError):
    """A description of preprocessing that this code can't follow to the letter."""


@dataclass(frozen=True)
class Normalization:
    """Input = (pixel - mean) / std, per channel; pixels 0-255, shapes (C,)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return normalised pixels, (H, W, C) uint8 -> (C, H, W) float32."""
        mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (self.mean, self.std))
        planes = np.empty((pixels.shape[2], *pixels.shape[:2]), np.float32)  # in the order in which it is stacked
        np.subtract(pixels.transpose(2, 0, 1), mean, out=planes)
        planes /= std
        return planes


def describe_steps(settings: Preprocessing, *, max_pixels: int) -> dict[str, Any]:
    """Return what is done to an image, in this order, as plain data.

    Args:
        settings: `clahe` is the clip limit of an equalisation that prediction applies (training alone doesn't count).
        max_pixels: Size in the header from which an image is refused.
    """
    return {
        "decode": {
            "max_pixels": max_pixels,
            "orientation": "exif",
            "transparent": "black",
            "channels": "RGB, gray repeated",
            "deeper_than_8_bit": settings.intensity,
        },
        "crop_border": {**BORDER, "share_of_bright_pixels": 0.01} if settings.crop_border else None,
        "mask": {"focus": settings.mask_focus, "pad": MASK_PAD} if settings.mask_focus != "none" else None,
        "center_crop": settings.center_crop,
        "resize": {
            "width": settings.size,
            "height": settings.size,
            "shrinking": "area (OpenCV INTER_AREA)",
            "growing": "cubic (OpenCV INTER_CUBIC) where either side is shorter than the target",
        },
        "clahe": None
        if settings.clahe is None
        else {"clip": settings.clahe, "tiles": list(CLAHE_TILES), "on": "L of L*a*b*"},
        "channels": settings.channels,
    }


def described_steps(description: Mapping[str, Any]) -> tuple[Preprocessing, int]:
    """Return the settings, and the largest number of pixels, that a description states.

    Raises:
        DescriptionError: If this code would do anything else than what is described.
    """
    try:
        max_pixels = int(description["decode"]["max_pixels"])
        clahe, mask = description["clahe"], description["mask"]
        settings = Preprocessing(
            size=int(description["resize"]["width"]),
            crop_border=description["crop_border"] is not None,
            clahe=None if clahe is None else float(clahe["clip"]),
            intensity=str(description["decode"]["deeper_than_8_bit"]),
            center_crop=description["center_crop"],
            mask_focus="none" if mask is None else str(mask["focus"]),
            channels=str(description["channels"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DescriptionError(f"the description of the preprocessing lacks something: {error!r}") from error
    done = describe_steps(settings, max_pixels=max_pixels)
    differing = [step for step in {**done, **description} if done.get(step) != description.get(step)]
    known = settings.intensity in ("full_range", "min_max") and settings.channels in ("rgb", "gray")
    if differing or not known or settings.mask_focus not in ("none", "crop", "blank"):
        raise DescriptionError(
            f"the preprocessing step {', '.join(differing) or 'decode'!r} asks for something that this version of "
            "archbench-predict doesn't do: install the runner of the archbench that wrote the bundle"
        )
    return settings, max_pixels


def described_normalization(description: Mapping[str, Any]) -> Normalization:
    """Return the normalisation that a description states.

    Raises:
        DescriptionError: If it has no mean and standard deviation per channel.
    """
    try:
        found = Normalization(tuple(map(float, description["mean"])), tuple(map(float, description["std"])))
    except (KeyError, TypeError, ValueError) as error:
        raise DescriptionError(f"the normalisation lacks something: {error!r}") from error
    if len(found.mean) != len(found.std) or not found.mean or min(found.std) <= 0:
        raise DescriptionError("the normalisation needs one mean and one standard deviation above 0 per channel")
    return found

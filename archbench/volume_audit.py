"""What a volume's file is, read once for the audit: hash, size, spacing, orientation, what is odd, a small picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from archbench.near_duplicates import THUMBNAIL_SIDE, FileFacts, detail, perceptual_hash
from archbench_predict.hounsfield import Declared
from archbench_predict.volumes import Volume, VolumeSettings, prepare_volume, read_volume, volume_sha256

PICTURE = VolumeSettings(strategy="all", count=4)
PICTURE_WINDOW = (-1000.0, 400.0)


@dataclass(frozen=True, kw_only=True)
class VolumeFacts(FileFacts):
    """Beside a file's facts: slices, spacing (z, y, x) in mm, the file's axes, and what `read_volume` found.

    `width` and `height` are those of a slice; hash and detail are of a picture of four slices.
    """

    depth: int
    spacing_mm: tuple[float, float, float]
    orientation: str
    was_rescaled: bool


def inspect_volume(path: Path, *, declared: Declared, rescale: str, max_voxels: int) -> VolumeFacts:
    """The facts of a volume's file.

    Raises:
        ImageError: As `read_volume` does.
    """
    sha256 = volume_sha256(path)
    volume = read_volume(path, declared=declared, rescale=rescale, max_voxels=max_voxels)
    picture = _picture(volume)
    depth, height, width = volume.voxels.shape
    return VolumeFacts(
        sha256=sha256,
        width=width,
        height=height,
        perceptual_hash=perceptual_hash(picture),
        detail=detail(picture),
        depth=depth,
        spacing_mm=volume.spacing_mm,
        orientation=volume.orientation,
        was_rescaled=volume.was_rescaled,
        notes=volume.notes,
    )


def _picture(volume: Volume) -> Image.Image:
    """Four slabs that together are the whole volume, two by two: one slice of two people may look alike."""
    slices = prepare_volume(volume, PICTURE, size=THUMBNAIL_SIDE)
    low, high = PICTURE_WINDOW
    gray = np.rint((np.clip(slices, low, high) - low) * (255.0 / (high - low))).astype(np.uint8)
    return Image.fromarray(np.block([[gray[0], gray[1]], [gray[2], gray[3]]]))


def volume_summary(facts: Sequence[FileFacts]) -> dict[str, Any]:
    """Sizes, spacings and orientations of the volumes among the files; empty where there are none."""
    volumes = [fact for fact in facts if isinstance(fact, VolumeFacts)]
    if not volumes:
        return {}
    spacing = np.array([fact.spacing_mm for fact in volumes])
    slices = [fact.depth for fact in volumes]
    return {
        "n_volumes": len(volumes),
        "slices": [min(slices), max(slices)],
        "spacing_mm": [spacing.min(axis=0).round(4).tolist(), spacing.max(axis=0).round(4).tolist()],
        "orientations": dict(sorted(Counter(fact.orientation for fact in volumes).items())),
        "already_rescaled": sum(fact.was_rescaled for fact in volumes),
    }


def volume_warnings(summary: dict[str, Any]) -> list[str]:
    """What the summary says that a reader of the report has to know."""
    found = []
    if summary.get("already_rescaled"):
        found.append(
            f"{summary['already_rescaled']} of {summary['n_volumes']} volumes hold Hounsfield units already: the slope "
            "and intercept of the metadata were not applied to them a second time"
        )
    if len(summary.get("orientations", ())) > 1:
        listed = ", ".join(f"{number} x {name}" for name, number in summary["orientations"].items())
        found.append(f"the files' axes differ ({listed}); all volumes were turned to one orientation")
    return found

"""What is done to a CT volume before the network, as data and back; refused where this code would do anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archbench_predict.description import DescriptionError
from archbench_predict.hounsfield import RESCALES
from archbench_predict.volumes import AIR_HU, ANATOMICAL, LUNG_HU, OUTER_SHARE, VolumeSettings

KIND = "volume"


@dataclass(frozen=True)
class VolumePreparation:
    """How a volume becomes the network's input: its slices, their side in pixels, and how declared slopes count."""

    settings: VolumeSettings
    size: int
    rescale: str = "auto"

    @property
    def mask_focus(self) -> str:
        """Volumes are never cut by a mask."""
        return "none"


def describes_volume(description: Mapping[str, Any]) -> bool:
    """Whether a description of preprocessing is that of volumes."""
    return description.get("kind") == KIND


def describe_volume_steps(preparation: VolumePreparation, *, max_voxels: int) -> dict[str, Any]:
    """Return what is done to a volume, in this order, as plain data.

    Args:
        max_voxels: Size in the header from which a volume is refused.
    """
    settings, spacing = preparation.settings, preparation.settings.spacing_mm
    fixed: dict[str, dict[str, Any]] = {
        "multi": {"share_of_outer_thirds": OUTER_SHARE},
        "anatomical": {"shares_of_height": list(ANATOMICAL)},
        "best": {"most_voxels_between_hu": list(LUNG_HU)},
    }
    return {
        "kind": KIND,
        "read": {
            "max_voxels": max_voxels,
            "units": "Hounsfield, int16",
            "declared_slopes": preparation.rescale,
            "axes": "slices from feet to head, front at the top, right side on the left",
        },
        "slices": {"strategy": settings.strategy, "count": settings.depth, **fixed.get(settings.strategy, {})},
        "spacing_mm": None if spacing is None else list(spacing),
        "between_slices": "mean over a slab as thick as the spacing asks, at least one slice; linear between slices",
        "resize": {
            "width": preparation.size,
            "height": preparation.size,
            "shrinking": "area (OpenCV INTER_AREA)",
            "growing": "linear (OpenCV INTER_LINEAR) where either side is shorter than the target",
        },
        "field_of_view": None if spacing is None else {"centre": "of the slice", "beyond_it": AIR_HU},
    }


def described_volume_steps(description: Mapping[str, Any]) -> tuple[VolumePreparation, int]:
    """Return the preparation, and the largest number of voxels, that a description states.

    Raises:
        DescriptionError: If this code would do anything else than what is described.
    """
    try:
        spacing, slices = description["spacing_mm"], description["slices"]
        settings = VolumeSettings(
            strategy=str(slices["strategy"]),
            count=int(slices["count"]),
            spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        )
        read = description["read"]
        found = VolumePreparation(settings, int(description["resize"]["width"]), str(read["declared_slopes"]))
        max_voxels = int(read["max_voxels"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DescriptionError(f"the description of the preprocessing lacks something: {error!r}") from error
    done = describe_volume_steps(found, max_voxels=max_voxels)
    differing = [step for step in {**done, **description} if done.get(step) != description.get(step)]
    known = settings.strategy in ("multi", "anatomical", "all", "best") and found.rescale in RESCALES
    if differing or not known:
        raise DescriptionError(
            f"the preprocessing step {', '.join(differing) or 'slices'!r} asks for something that this version of "
            "archbench-predict doesn't do: install the runner of the archbench that wrote the bundle"
        )
    return found, max_voxels

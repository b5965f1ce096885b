"""The cache of CT volumes: Hounsfield units of the chosen slices, before windowing, each volume read once.

Windows and slice triplets are formed by the networks, so recipes that differ in them share one cache.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import ArtifactError
from archbench.cache_folder import build_folder
from archbench.image_cache import VOLUMES

if TYPE_CHECKING:
    from archbench_predict.volumes import VolumeSettings


def build_volume_cache(
    *,
    cache_dir: Path,
    root: Path,
    case_ids: Sequence[str],
    images: Sequence[str],
    sha256s: Sequence[str],
    declared: Sequence[Mapping[str, Any] | None],
    settings: VolumeSettings,
    size: int,
    hu_window: tuple[float, float],
    rescale: str,
    max_voxels: int,
    threads: int,
    code: str,
) -> Path:
    """The folder of the finished cache, built if it is not there; a second job waits and finds it done.

    Args:
        images: Volume paths relative to `root`, in the order of `case_ids`.
        sha256s: Hashes of the files' content from the manifest; a file that has changed since is refused.
        declared: What a table says of each volume, see `archbench_predict.hounsfield.Declared`.
        size: Side of the square slices, pixels.
        hu_window: Kept for those who open the folder itself; it changes no voxel.
        rescale: auto, always or never, see `archbench_predict.volumes.read_volume`.
        code: Fingerprint of the code, part of the cache's name.
    Raises:
        ArtifactError: If a volume is unreadable or has changed since the audit, or the disk is too small.
    """
    made_from = {**asdict(settings), "size": size, "rescale": rescale, "code": code}
    content = json.dumps([list(case_ids), list(sha256s), list(declared), made_from])
    n = len(case_ids)
    index = {"kind": VOLUMES, "case_ids": list(case_ids), "images": list(images), "sha256": list(sha256s)}
    return build_folder(
        Path(cache_dir) / hashlib.sha256(content.encode()).hexdigest()[:20],
        shapes={
            "images": ((n, settings.depth, size, size), "<i2"),
            "geometry": ((n, 4), "<f4"),
            "slice_mm": ((n, settings.depth), "<f4"),
        },
        make=_maker(root, images, sha256s, declared, settings, size=size, rescale=rescale, max_voxels=max_voxels),
        index={**index, **made_from, "hu_window": list(hu_window)},
        listed=("slice_mm",),
        threads=threads,
        unit="volume",
    )


def _maker(
    root: Path,
    images: Sequence[str],
    sha256s: Sequence[str],
    declared: Sequence[Mapping[str, Any] | None],
    settings: VolumeSettings,
    *,
    size: int,
    rescale: str,
    max_voxels: int,
) -> Callable[[int], dict[str, Any]]:
    """A function that reads and prepares the i-th volume."""
    import cv2

    from archbench_predict.hounsfield import Declared
    from archbench_predict.images import ImageError
    from archbench_predict.volumes import (
        field_of_view_cut,
        prepare_volume,
        read_volume,
        slice_heights,
        source_box,
        volume_sha256,
    )

    cv2.setNumThreads(1)  # the pool is the parallelism

    def make(index: int) -> dict[str, Any]:
        path = Path(root) / images[index]
        try:
            if volume_sha256(path) != sha256s[index]:
                raise ArtifactError(f"{path} has changed since the audit: run the rule prepare_dataset again")
            facts = Declared.of(declared[index])
            volume = read_volume(path, declared=facts, rescale=rescale, max_voxels=max_voxels)
        except ImageError as error:
            raise ArtifactError(f"{error}. The audit found nothing here; run the rule prepare_dataset again") from error
        if field_of_view_cut(volume, settings, size=size):
            print(
                f"{images[index]}: wider than the field of view of {size} pixels at the declared spacing, cut at its "
                "edges; a larger image_size or a coarser volumes.spacing keeps it whole",
                file=sys.stderr,
                flush=True,
            )
        heights = slice_heights(volume, settings)
        return {
            "images": prepare_volume(volume, settings, size=size, heights_mm=heights),
            "geometry": source_box(volume, settings, size=size),
            "slice_mm": heights,
        }

    return make

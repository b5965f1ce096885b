"""Decode and preprocess every image of a dataset once, at one size, into the cache that all models share.

python scripts/cache_images.py --study study.yaml --dataset dr600 --manifest … --size 224 …
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from archbench.artifacts import provenance, read_table, write_json
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import Study, load_study
from archbench.image_cache import build_cache
from archbench.volume_cache import build_volume_cache
from archbench_predict.images import Preprocessing
from archbench_predict.volumes import VolumeSettings

if TYPE_CHECKING:
    import argparse

    import pyarrow as pa


def main(argv: list[str] | None = None) -> int:
    """Parse, build the cache or find it, write the pointer file that names it."""
    arguments = _parse(argv)
    label_progress(f"cache {arguments.dataset} {arguments.size} px")
    study = load_study(arguments.study)
    manifest, metadata = read_table(arguments.manifest)
    dataset = study.datasets[arguments.dataset]
    build = _volume_cache if dataset.volumes is not None else _image_cache
    folder = build(study, arguments, manifest, Path(metadata["root"]))
    origin = provenance(
        study=study.study, dataset=arguments.dataset, model=None, config_hash=study.hash, code=arguments.code
    )
    window = {} if dataset.volumes is None else {"hu_window": dataset.volumes.hu_window}
    pointer = {"provenance": origin, "path": folder, "key": folder.name, "n": manifest.num_rows, **window}
    write_json(arguments.output, pointer)
    return 0


def _image_cache(study: Study, arguments: argparse.Namespace, manifest: pa.Table, root: Path) -> Path:
    settings = study.datasets[arguments.dataset].preprocessing
    return build_cache(
        cache_dir=Path(arguments.cache_dir),
        root=root,
        case_ids=manifest["case_id"].to_pylist(),
        images=manifest["image"].to_pylist(),
        sha256s=manifest["sha256"].to_pylist(),
        preprocessing=Preprocessing(
            size=arguments.size,
            crop_border=settings.crop_border,
            clahe=settings.clahe,
            intensity=settings.intensity,
            channels=settings.channels,
            center_crop=settings.center_crop,
            mask_focus=settings.mask_focus,
        ),
        masks=manifest["mask"].to_pylist() if "mask" in manifest.column_names else None,
        learned=study.datasets[arguments.dataset].task == "segmentation",
        max_pixels=study.audit.max_pixels,
        threads=arguments.threads,
        code=arguments.code,
    )


def _volume_cache(study: Study, arguments: argparse.Namespace, manifest: pa.Table, root: Path) -> Path:
    settings = study.datasets[arguments.dataset].volumes
    assert settings is not None
    z, y, x = settings.spacing or (None, None, None)
    low, high = settings.hu_window
    return build_volume_cache(
        cache_dir=Path(arguments.cache_dir),
        root=root,
        case_ids=manifest["case_id"].to_pylist(),
        images=manifest["image"].to_pylist(),
        sha256s=manifest["sha256"].to_pylist(),
        declared=[text and json.loads(text) for text in manifest["declared"].to_pylist()],
        settings=VolumeSettings(
            strategy=settings.slices.strategy,
            count=settings.slices.count,
            spacing_mm=None if z is None or y is None or x is None else (z, y, x),
        ),
        size=arguments.size,
        hu_window=(low, high),
        rescale=settings.rescale,
        max_voxels=study.audit.max_pixels,
        threads=arguments.threads,
        code=arguments.code,
    )


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--size", type=int, required=True, help="side of the cached images, pixels")
    parser.add_argument("--cache-dir", required=True, help="folder of all image caches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", required=True, help="pointer file to write (JSON)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)

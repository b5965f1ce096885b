"""Decode and preprocess every image of a dataset once, at one size, into the cache that all models share.

python scripts/cache_images.py --study study.yaml --dataset dr600 --manifest … --size 224 …
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from archbench.artifacts import provenance, read_table, write_json
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import load_study
from archbench.image_cache import build_cache
from archbench_predict.images import Preprocessing

if TYPE_CHECKING:
    import argparse


def main(argv: list[str] | None = None) -> int:
    """Parse, build the cache or find it, write the pointer file that names it."""
    arguments = _parse(argv)
    label_progress(f"cache {arguments.dataset} {arguments.size} px")
    study = load_study(arguments.study)
    settings = study.datasets[arguments.dataset].preprocessing
    manifest, metadata = read_table(arguments.manifest)
    folder = build_cache(
        cache_dir=Path(arguments.cache_dir),
        root=Path(metadata["root"]),
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
    origin = provenance(
        study=study.study, dataset=arguments.dataset, model=None, config_hash=study.hash, code=arguments.code
    )
    pointer = {"provenance": origin, "path": folder, "key": folder.name, "n": manifest.num_rows}
    write_json(arguments.output, pointer)
    return 0


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

"""Score the masks of all models of a study against the truth: metrics per case and patient, tests, overlays.

    python scripts/score_masks.py --study study.yaml --dataset chest --models unet segformer \\
        --masks unet/masks segformer/masks --manifest … --audit … --output masks
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from archbench.artifacts import provenance, read_json, write_text
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import Study, load_study
from archbench.mask_measurement import case_table, measure
from archbench.mask_results import study_summary
from archbench.mask_summary import Resampling
from archbench.report.mask_pictures import write_overlays
from archbench.report.mask_tables import to_text, write_summary
from archbench.slice_scores import slice_dice, slice_table
from archbench.tested_masks import Tested, read_tested

if TYPE_CHECKING:
    import argparse

PROGRESS_CASES = 50


def main(argv: list[str] | None = None) -> int:
    """Parse, score, compare, draw, write."""
    arguments = _parse(argv)
    label_progress(f"score {arguments.dataset}")
    study, output = load_study(arguments.study), Path(arguments.output)
    folders = dict(zip(arguments.models, arguments.masks, strict=True))
    with tempfile.TemporaryDirectory(prefix="archbench-masks-") as scratch:
        tested = read_tested(Path(arguments.manifest), folders, Path(scratch))
        tolerance = _tolerance(study, arguments.dataset)
        scored = {name: index for index, name in enumerate(tested.structures, start=1)}
        results = measure(
            tested.cases,
            scored=scored,
            spacing_mm=None,
            spacings_mm=tested.spacings_mm,
            tolerance_mm=tolerance,
            workers=arguments.threads,
            progress=_progress,
        )
        of_slices = slice_dice(tested)
        summary = {
            "provenance": provenance(
                study=study.study, dataset=arguments.dataset, model=None, config_hash=study.hash, code=arguments.code
            ),
            **study_summary(
                tested,
                results,
                _drawing(study, tested),
                name=study.study,
                tolerance_mm=tolerance,
                slice_dice=of_slices,
                audit_warnings=read_json(arguments.audit)["warnings"],
            ),
            "overlays": write_overlays(
                output,
                results,
                tested.cases,
                images=tested.images.get,
                scored=scored,
                spacing_mm=tested.spacings_mm.get,
            ),
        }
    more = {
        key: {"fold": tested.folds[key[1]], "seed": key[2], "inference_seconds": f"{value:.4g}"}
        for key, value in tested.seconds.items()
    }
    write_text(output / "per_case.csv", case_table(results, more))
    if of_slices:
        write_text(output / "per_slice.csv", slice_table(tested, of_slices))
    write_summary(output, summary)
    print(to_text(summary))
    return 0


def _progress(done: int, case: str) -> None:
    if not done % PROGRESS_CASES:
        print(f"{done} cases scored, last {case}", file=sys.stderr, flush=True)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--masks", nargs="+", required=True, help="folder of each model's masks, in the same order")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--audit", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", required=True, help="folder to write")
    return parser.parse_args(argv)


def _tolerance(study: Study, dataset: str) -> float:
    """Of surface Dice, mm; of a phantom that names none two of its own millimetres."""
    given = study.datasets[dataset].segmentation
    return 2.0 if given is None else given.tolerance_mm


def _drawing(study: Study, tested: Tested) -> Resampling:
    settings = study.evaluation
    return Resampling(
        resamples=settings.resamples,
        comparison_resamples=settings.comparison_resamples,
        confidence=settings.confidence,
        seed=settings.seed,
        delta=settings.delta,
        folds=tested.folds,
    )


if __name__ == "__main__":
    run(main)

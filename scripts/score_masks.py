"""Score the masks of all models of a study against the truth: metrics per case and patient, tests, overlays.

    python scripts/score_masks.py --study study.yaml --dataset chest --models unet segformer \\
        --masks unet/masks segformer/masks --manifest … --audit … --output masks
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import provenance, read_json, write_json, write_text
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import Study, load_study
from archbench.mask_evaluation import examples, warnings_of
from archbench.mask_measurement import CaseResult, case_table, measure
from archbench.mask_summary import Resampling, mask_summary
from archbench.prompts import TRUTH
from archbench.report.mask_pictures import write_overlay
from archbench.report.mask_tables import pairs_csv, results_csv, to_text
from archbench.slice_scores import slice_dice, slice_summary, slice_table
from archbench.tested_masks import Tested, read_tested

if TYPE_CHECKING:
    import argparse

PROGRESS_CASES = 50
PHANTOM = "phantom data: drawn by the program, with known truth; not a result about patients"
ONE_SEED = "one seed: how much another training of the same network would differ was not estimated"
IN_PIXELS = "no spacing is known: 1 mm per pixel was taken, distances and sizes are in pixels"


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
        summary = _summary(study, arguments, tested, results, tolerance)
        summary["overlays"] = draw_overlays(output, tested, scored, results)
        of_slices = slice_dice(tested)
        summary["slices"] = slice_summary(tested, of_slices, _drawing(study, tested))
    more = {
        key: {"fold": tested.folds[key[1]], "seed": key[2], "inference_seconds": f"{value:.4g}"}
        for key, value in tested.seconds.items()
    }
    write_text(output / "per_case.csv", case_table(results, more))
    if of_slices:
        write_text(output / "per_slice.csv", slice_table(tested, of_slices))
    write_text(output / "results.csv", results_csv(summary))
    write_text(output / "comparison.csv", pairs_csv(summary))
    write_text(output / "comparison.txt", to_text(summary))
    write_json(output / "summary.json", summary)
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


def _summary(
    study: Study, arguments: argparse.Namespace, tested: Tested, results: Sequence[CaseResult], tolerance: float
) -> dict[str, Any]:
    """The content of summary.json."""
    settings, audit = study.evaluation, read_json(arguments.audit)
    drawing = _drawing(study, tested)
    apart = [model for model, prompt in tested.prompts.items() if prompt and prompt["source"] == TRUTH]
    found = mask_summary(results, drawing, failed={}, total=len(tested.folds), apart=apart)
    for model, entry in found["models"].items():
        seconds = [value for (of, *_), value in tested.seconds.items() if of == model]
        entry["prompt"] = tested.prompts[model]
        entry |= {"inference_seconds": sum(seconds) / len(seconds), "peak_memory_mib": tested.memory_mib[model]}
    warnings = [PHANTOM] if tested.phantom else []
    warnings += [
        *warnings_of(results, n_patients=found["n_patients"], patients_given=True),
        *found["warnings"],
        *([ONE_SEED] if len(tested.seeds) == 1 else []),
        *prompt_notes(tested.prompts),
    ]
    warnings += [] if tested.spacings_mm else [IN_PIXELS]
    return {
        "provenance": provenance(
            study=study.study, dataset=arguments.dataset, model=None, config_hash=study.hash, code=arguments.code
        ),
        "settings": {
            "name": study.study,
            "command": "snakemake --cores 2 --configfile <study file>",
            "tolerance_mm": tolerance,
            "confidence": settings.confidence,
            "resamples": settings.resamples,
            "comparison_resamples": settings.comparison_resamples,
            "seed": settings.seed,
        },
        "task": "segmentation",
        "primary": "dice",
        "data": "phantom" if tested.phantom else "real",
        **found,
        "failures": [],
        "warnings": [*warnings, *audit["warnings"]],
    }


def prompt_notes(prompts: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """What a reader must know of models that were told where to draw."""
    notes = []
    for model, told in prompts.items():
        if told is None:
            continue
        without = f"; {told['n_without']} structures had none and were predicted empty" if told["n_without"] else ""
        if told["source"] == TRUTH:
            words = (
                f"was prompted with the truth's {told['kind']} of each structure, and knows from it which ones exist"
            )
            notes.append(f"{model} {words}: an upper bound, not ranked beside models that see the image alone{without}")
        else:
            words = f"was prompted with the {told['n_prompts']} given {told['kind']}s of {told['source']}"
            notes.append(f"{model} {words}, which others were not{without}")
    return notes


def draw_overlays(
    output: Path, tested: Tested, scored: Mapping[str, int], results: Sequence[CaseResult]
) -> list[dict[str, Any]]:
    """Best, median and worst case of each model as pictures below overlays/."""
    by_name = {(case.name, case.seed): case for case in tested.cases}
    drawn = []
    for example in examples(results):
        case = by_name[example.case, example.seed]
        file = Path("overlays") / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', example.tool)}-{example.kind}.png"
        note = write_overlay(
            output / file,
            truth=case.truth,
            prediction=case.predictions[example.tool],
            image=tested.images[example.case],
            scored=scored,
            spacing_mm=tested.spacings_mm.get(example.case),
        )
        drawn.append({**vars(example), "file": file.as_posix(), "note": note})
    return drawn


if __name__ == "__main__":
    run(main)

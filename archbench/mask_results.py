"""Content of a study's summary.json of masks: scores, tests, what networks were told, and what a reader must know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archbench.mask_evaluation import warnings_of
from archbench.mask_measurement import CaseResult
from archbench.mask_summary import Resampling, mask_summary
from archbench.prompts import TRUTH
from archbench.slice_scores import slice_summary
from archbench.tested_masks import Tested

PHANTOM = "phantom data: drawn by the program, with known truth; not a result about patients"
ONE_SEED = "one seed: how much another training of the same network would differ was not estimated"
IN_PIXELS = "no spacing is known: 1 mm per pixel was taken, distances and sizes are in pixels"
COMMAND = "snakemake --cores 2 --configfile <study file>"


def study_summary(
    tested: Tested,
    results: Sequence[CaseResult],
    drawing: Resampling,
    *,
    name: str,
    tolerance_mm: float,
    slice_dice: Mapping[str, Any],
    audit_warnings: Sequence[str],
) -> dict[str, Any]:
    """Return what summary.json says but for its provenance and the overlays.

    Args:
        results: Scores of the tested masks.
        name: Of the study.
        tolerance_mm: That surface Dice was computed with.
        slice_dice: Dice of single slices; empty of pictures.
    """
    apart = [model for model, prompt in tested.prompts.items() if prompt and prompt["source"] == TRUTH]
    found = mask_summary(results, drawing, failed={}, total=len(tested.folds), apart=apart)
    for model, entry in found["models"].items():
        seconds = [value for (of, *_), value in tested.seconds.items() if of == model]
        entry["prompt"] = tested.prompts[model]
        entry |= {"inference_seconds": sum(seconds) / len(seconds), "peak_memory_mib": tested.memory_mib[model]}
    return {
        "settings": {"name": name, "command": COMMAND, "tolerance_mm": tolerance_mm, **drawing.settings()},
        "task": "segmentation",
        "primary": "dice",
        "data": "phantom" if tested.phantom else "real",
        **found,
        "failures": [],
        "warnings": [*_warnings(tested, results, found), *audit_warnings],
        "slices": slice_summary(tested, slice_dice, drawing),
    }


def _warnings(tested: Tested, results: Sequence[CaseResult], found: Mapping[str, Any]) -> list[str]:
    return [
        *([PHANTOM] if tested.phantom else []),
        *warnings_of(results, n_patients=found["n_patients"], patients_given=True),
        *found["warnings"],
        *([ONE_SEED] if len(tested.seeds) == 1 else []),
        *prompt_notes(tested.prompts),
        *([] if tested.spacings_mm else [IN_PIXELS]),
    ]


def prompt_notes(prompts: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Return what a reader must know of models that were told where to draw."""
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

"""What the page shows of Grad-CAM: right and wrong cases side by side, and whether planted lesions were found."""

from __future__ import annotations

from typing import Any

from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.figures import Picture
from archbench.report.labels import format_share
from archbench.report.pictures import MAX_SHEET_SIDE, CamCase, cam_cases, cases_per_side, embed
from archbench.report.quality_figures import ranked
from archbench.report.quality_tables import planted_table
from archbench.report.text import planted_sentence


def cam_view(dataset: DatasetResult) -> dict[str, Any]:
    """The pictures of a dataset's models, and why there are none."""
    explained = [m for m in ranked(dataset) if m.gradcam]
    n = cases_per_side(len(explained))
    missing = [f"{m.name}: no CAM ({m.missing['gradcam']})." for m in dataset.evaluated if m.missing.get("gradcam")]
    if not explained and not missing:
        missing = ["No CAM was made: the study asks for none, or no model was evaluated."]
    return {
        "cams": [_cam_of(dataset, model, n) for model in explained],
        "cam_missing": missing,
        "planted": planted_table(dataset),
        "planted_sentence": planted_sentence(dataset),
    }


def _cam_of(dataset: DatasetResult, model: ModelResult, n: int) -> dict[str, Any]:
    cases = cam_cases(dataset, model)
    right, wrong = [c for c in cases if c.right], [c for c in cases if not c.right]
    return {
        "model": model.name,
        "n_right": len(right),
        "n_wrong": len(wrong),
        "sides": [
            {"title": "Right", "cases": [_cam_pictures(model, case) for case in right[:n]]},
            {"title": "Wrong", "cases": [_cam_pictures(model, case) for case in wrong[:n]]},
        ],
    }


def _sheet(model: ModelResult, case: CamCase, grades: str) -> Picture | None:
    """All slices of a volume with the weight of each; None of an image."""
    if case.sheet is None or not case.sheet.exists():
        return None
    alt = f"Grad-CAM of {model.name} over the slices of {case.case_id}, a bar below each for its weight: {grades}."
    return embed(case.sheet, alt, max_side=MAX_SHEET_SIDE)


def _cam_pictures(model: ModelResult, case: CamCase) -> dict[str, Any]:
    grades = f"{case.about}true {case.true}, predicted {case.predicted}"
    lesion = {None: "", True: "strongest point inside a lesion", False: "strongest point outside the lesions"}
    return {
        "original": embed(case.original, f"Image {case.case_id}: {grades}."),
        "overlay": embed(case.overlay, f"Grad-CAM of {model.name} over image {case.case_id}: {grades}."),
        "sheet": _sheet(model, case, grades),
        "about_slice": case.about_slice,
        "case_id": case.case_id,
        "about": case.about,
        "true": case.true,
        "predicted": case.predicted,
        "probability": "" if case.probability is None else format_share(case.probability),
        "lesion": lesion[case.in_lesion],
    }

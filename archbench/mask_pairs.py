"""Masks of several tools paired with the truth by exact case id."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from archbench.mask_files import suffix_of

TRUTH = "truth"
IMAGE_MARK = "_0000"


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file.

    Attributes:
        source: "truth", the name of a tool, or "patients".
        case: Case that can't be scored because of it; None if it concerns all or none.
        file: File or folder.
        problem: What is wrong, and what to do about it.
    """

    source: str
    case: str | None
    file: str
    problem: str

    def __str__(self) -> str:
        return f"{self.file} ({self.source}): {self.problem}"


@dataclass(frozen=True)
class MaskCase:
    """One case: its truth and the mask of each tool, of one training seed where tools were trained with several."""

    name: str
    patient: str
    truth: Path
    predictions: Mapping[str, Path]
    seed: int = 0


def case_of(name: str) -> str:
    """The exact case id of a mask's file name: `case_1.nii.gz` is case_1, and never case_10."""
    suffix = suffix_of(name)
    return name[: -len(suffix)] if suffix else name


def list_masks(folder: Path, source: str) -> tuple[dict[str, Path], list[Problem]]:
    """The mask of each case in a folder, and what is wrong with the folder; subfolders are not searched."""
    if not folder.is_dir():
        return {}, [Problem(source, None, str(folder), "no such folder: check the path")]
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and suffix_of(path.name):
            found.setdefault(case_of(path.name), []).append(path)
    if not found:
        return {}, [Problem(source, None, str(folder), "no mask in it: expected <case>.nii.gz, .nii, .png or .tif")]
    problems = [
        Problem(source, case, str(paths[0]), f"two masks for case {case!r}, also {paths[1].name}: keep one")
        for case, paths in found.items()
        if len(paths) > 1
    ]
    return {case: paths[0] for case, paths in found.items()}, problems


def pair_masks(
    truth: Path, predictions: Mapping[str, Path], *, patients: Mapping[str, str] | None = None, max_cases: int = 0
) -> tuple[list[MaskCase], list[Problem]]:
    """Pair the masks of every tool with the truth by exact case id.

    Args:
        truth: Folder of the true masks.
        predictions: Folder of each tool.
        patients: Patient of each case; None takes each case for a patient of its own.
        max_cases: The first cases by name only; 0 takes all.
    Returns:
        Cases whose files all exist, and the problems: missing and surplus masks, cases without a patient.
    """
    true, problems = list_masks(truth, TRUTH)
    masks = {}
    for tool, folder in predictions.items():
        masks[tool], found = list_masks(folder, tool)
        problems += found
    chosen = sorted(true)[:max_cases] if max_cases else sorted(true)
    for tool, files in masks.items():
        if files and true:
            problems += _unpaired(tool, predictions[tool], files, true, chosen)
    if patients is not None:
        problems += [
            Problem("patients", case, str(true[case]), f"case {case!r} has no row in the patients' CSV: add it")
            for case in chosen
            if case not in patients
        ]
    lost = {problem.case for problem in problems}
    return [
        MaskCase(case, (patients or {}).get(case, case), true[case], {tool: masks[tool][case] for tool in masks})
        for case in chosen
        if case not in lost and all(case in files for files in masks.values())
    ], problems


def _unpaired(
    tool: str, folder: Path, files: Mapping[str, Path], true: Mapping[str, Path], chosen: Sequence[str]
) -> list[Problem]:
    missing = [
        Problem(tool, case, str(folder / f"{case}.*"), f"no mask for case {case!r} ({true[case].name}): add it")
        for case in chosen
        if case not in files
    ]
    surplus = [
        Problem(tool, None, str(path), f"no truth for case {case!r}: add it, or move the mask away")
        for case, path in files.items()
        if case not in true
    ]
    return missing + surplus


def read_patients(path: Path) -> dict[str, str]:
    """Patient of each case from a CSV with the columns case and patient.

    Raises:
        ValueError: Naming every bad row.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"case", "patient"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: needs the columns case and patient, has {reader.fieldnames}")
        found: dict[str, str] = {}
        problems = []
        for row in reader:
            case, patient = (row["case"] or "").strip(), (row["patient"] or "").strip()
            if not case or not patient:
                problems.append(f"row {reader.line_num}: case or patient is empty")
            elif found.setdefault(case, patient) != patient:
                problems.append(f"row {reader.line_num}: case {case!r} has two patients, {found[case]} and {patient}")
    if problems:
        raise ValueError(f"{path}: " + "; ".join(problems))
    return found


def missing_images(folder: Path, cases: Sequence[MaskCase]) -> list[Problem]:
    """Cases without an image to draw on."""
    images, problems = list_masks(folder, "images")
    problems += [
        Problem("images", None, str(folder), f"no image {case.name}{IMAGE_MARK}.* or {case.name}.*: add it")
        for case in cases
        if images and image_of(case.name, images) is None
    ]
    return problems


def image_of(case: str, images: Mapping[str, Path]) -> Path | None:
    """The image of a case, with or without the channel's mark."""
    return images.get(f"{case}{IMAGE_MARK}") or images.get(case)

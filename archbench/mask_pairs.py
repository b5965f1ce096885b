"""Masks of several tools paired with the truth by exact case id, and every problem of them found at once."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from archbench.mask_files import Mask, MaskError, differing_space, read_mask, suffix_of

TRUTH = "truth"
IMAGE_MARK = "_0000"
SHOWN_LABELS = 8


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
    """One case: its truth and the mask of each tool."""

    name: str
    patient: str
    truth: Path
    predictions: Mapping[str, Path]


@dataclass(frozen=True)
class Labels:
    """Which labels exist and which are scored.

    Attributes:
        names: Allowed label numbers and their names, without the background.
        scored: Name of each scored structure and its label; None is every value but 0.
    """

    names: Mapping[int, str]
    scored: Mapping[str, int | None]


@dataclass
class CheckedCase:
    """What reading a case's files told: problems, and the labels of each file by source."""

    problems: list[Problem] = field(default_factory=list)
    labels: dict[str, set[int]] = field(default_factory=dict)
    axes: int = 0


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


def check_cases(
    cases: Sequence[MaskCase], *, spacing_mm: Sequence[float] | None, workers: int
) -> tuple[list[CheckedCase], list[Problem]]:
    """Read every file once, at most one case per worker at a time: damage, sizes, places, and which labels occur."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        checked = list(pool.map(lambda case: _check_case(case, spacing_mm), cases))
    axes = [entry.axes for entry in checked if entry.axes]
    problems = [problem for entry in checked for problem in entry.problems]
    for case, entry in zip(cases, checked, strict=True):
        if entry.axes and entry.axes != axes[0]:
            words = f"{entry.axes} dimensions, the first case has {axes[0]}: evaluate them in two runs"
            problems.append(Problem(TRUTH, case.name, str(case.truth), words))
    return checked, problems


def _check_case(case: MaskCase, spacing_mm: Sequence[float] | None) -> CheckedCase:
    found = CheckedCase()
    truth: Mask | None = None
    for source, path in ((TRUTH, case.truth), *case.predictions.items()):
        try:
            mask = read_mask(path, spacing_mm=spacing_mm)
        except MaskError as error:
            found.problems.append(Problem(source, case.name, str(path), str(error)))
            continue
        found.labels[source] = set(np.unique(mask.labels).tolist())
        if source == TRUTH:
            truth, found.axes = mask, mask.labels.ndim
        elif truth is not None and (words := differing_space(truth, mask)):
            remedy = "resample it onto the truth's voxels by nearest neighbour"
            found.problems.append(Problem(source, case.name, str(path), f"{words} (truth {case.truth}): {remedy}"))
    return found


def choose_labels(
    checked: Sequence[CheckedCase], *, names: Mapping[int, str] | None, foreground: str | Sequence[int]
) -> Labels:
    """Which labels exist and which are scored.

    Args:
        names: Allowed labels; None allows those that occur in a truth.
        foreground: "each" scores every label, "any" all nonzero values as one structure, numbers those labels.
    Raises:
        ValueError: If a chosen label doesn't exist, or there is none.
    """
    known = dict(names or {})
    if names is None:
        occurring = {label for entry in checked for label in entry.labels.get(TRUTH, ()) if label != 0}
        known = {label: str(label) for label in sorted(occurring)}
    if foreground == "any":
        return Labels(known, {"foreground": None})
    chosen = list(known) if foreground == "each" else [int(label) for label in foreground]
    absent = [label for label in chosen if label not in known]
    if absent:
        raise ValueError(f"--foreground {absent}: no such label, there are {sorted(known)}")
    if not chosen:
        raise ValueError("every true mask is empty: name the labels with --labels 1=name")
    return Labels(known, {known[label]: label for label in chosen})


def unknown_labels(
    cases: Sequence[MaskCase], checked: Sequence[CheckedCase], labels: Labels, *, any_label: bool
) -> list[Problem]:
    """Masks with labels that are not in the list.

    Args:
        any_label: Every nonzero value counts as foreground, so that none is unknown.
    """
    problems = []
    remedy = "correct the mask, name the label with --labels, or take every nonzero value with --foreground any"
    for case, entry in zip(cases, checked, strict=True):
        for source, present in entry.labels.items():
            unknown = sorted(present - set(labels.names) - {0})
            if unknown and not any_label:
                path = case.truth if source == TRUTH else case.predictions[source]
                shown = ", ".join(map(str, unknown[:SHOWN_LABELS])) + (" …" if len(unknown) > SHOWN_LABELS else "")
                words = f"label {shown} is not among {sorted(labels.names)}: {remedy}"
                problems.append(Problem(source, case.name, str(path), words))
    return problems

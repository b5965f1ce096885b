"""Every mask of a run read once before anything is computed: all that is wrong, in one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from archbench.mask_files import Mask, MaskError, differing_space, read_mask
from archbench.mask_pairs import TRUTH, MaskCase, Problem

SHOWN_LABELS = 8


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


def usable_cases(
    cases: Sequence[MaskCase],
    problems: Sequence[Problem],
    *,
    names: Mapping[int, str] | None,
    foreground: str | Sequence[int],
    spacing_mm: Sequence[float] | None,
    leave_out: bool,
    workers: int,
) -> tuple[list[MaskCase], Labels, list[Problem]]:
    """Return the cases without a problem, their labels, and all problems.

    Args:
        problems: What was found before any file was read.
        names: Allowed labels; None allows those that occur in a truth.
        foreground: As `choose_labels`.
        leave_out: Go on without the cases that have a problem.
    Raises:
        ValueError: With every problem; with `leave_out` only if no case is left.
    """
    checked, found = check_cases(cases, spacing_mm=spacing_mm, workers=workers)
    problems, labels = [*problems, *found], Labels({}, {})
    if any(TRUTH in entry.labels for entry in checked):
        labels = choose_labels(checked, names=names, foreground=foreground)
        problems += unknown_labels(cases, checked, labels, any_label=foreground == "any" and names is None)
    lost = {problem.case for problem in problems}
    left = [case for case in cases if case.name not in lost]
    if (problems and not leave_out) or not left:
        lines = "\n".join(f"  {problem}" for problem in problems)
        remedy = "Nothing was computed. Correct them" + ("." if leave_out else ", or go on without them: --leave-out.")
        raise ValueError(f"{len(problems)} problems with the masks:\n{lines}\n{remedy}")
    return left, labels, problems


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

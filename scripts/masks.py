"""Evaluate existing masks of any tool against the truth, without training: metrics, tests, a page with overlays.

    python scripts/masks.py --seg-dir truth --masks unet=predictions/unet --masks sam=predictions/sam \\
        --labels 1=lung 2=heart --patients patients.csv --output-dir results/masks

Masks are NIfTI (.nii, .nii.gz; spacing from the header), PNG or TIFF, two- or three-dimensional, and are paired by
exact case id: `case_1.nii.gz` in every folder. All problems of all files are listed before anything is computed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from archbench.artifacts import provenance, write_text
from archbench.command_line import run
from archbench.mask_checks import Labels, usable_cases
from archbench.mask_evaluation import warnings_of
from archbench.mask_files import suffix_of
from archbench.mask_measurement import CaseResult, case_table, measure
from archbench.mask_pairs import Problem, image_of, list_masks, missing_images, pair_masks, read_patients
from archbench.mask_summary import Resampling, mask_summary
from archbench.report.mask_page import MaskSection, render_mask_page
from archbench.report.mask_pictures import write_overlays
from archbench.report.mask_tables import to_text, write_summary

PROGRESS_SECONDS = 5.0
MOST_WORKERS = 4


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="masks.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--seg-dir", type=Path, required=True, metavar="DIR", help="folder of the true masks")
    add("--masks", action="append", required=True, metavar="NAME=DIR", help="folder of a tool's masks; repeat it")
    add("--output-dir", type=Path, required=True, metavar="DIR", help="where to write")
    add("--image-dir", type=Path, metavar="DIR", help="images (<case>_0000.nii.gz or <case>.png) to draw masks over")
    add("--patients", type=Path, metavar="CSV", help="columns case, patient (default: each case is a patient)")
    add("--labels", nargs="+", metavar="N=NAME", help="labels that may occur (default: those of the true masks)")
    add("--foreground", nargs="+", default=["each"], metavar="N", help="each (default), any, or numbers of labels")
    add("--tolerance-mm", type=float, default=1.0, help="of surface Dice (default: 1)")
    add("--spacing-mm", type=float, nargs="+", metavar="MM", help="of PNG and TIFF, one or one per axis (default: 1)")
    add("--max-cases", type=int, default=0, help="only the first cases by name; 0, the default, takes all")
    add("--leave-out", action="store_true", help="go on without cases that have problems, and list them as failures")
    add("--workers", type=int, default=default_workers(), help="processes, one case each (default: %(default)s)")
    add("--resamples", type=int, default=2000, help="patient draws for intervals (default: 2000)")
    add("--comparison-resamples", type=int, default=10000, help="for tests (default: 10000)")
    add("--confidence", type=float, default=0.95, help="level of the intervals (default: 0.95)")
    add("--delta", type=float, help="margin of equivalence in Dice (default: 0.01)")
    add("--seed", type=int, default=0, help="of the draws (default: 0)")
    add("--verbose", action="store_true", help="name every case as it is finished")
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", "scripts/masks.py", *(sys.argv[1:] if argv is None else argv)])
    check(args, parser.error)
    return args


def check(args: argparse.Namespace, refuse: Callable[[str], Any]) -> None:
    """Refuse values that mean nothing."""
    if args.resamples < 200 or args.comparison_resamples < 200:
        refuse("at least 200 resamples are needed")
    if not 0.5 < args.confidence < 1:
        refuse(f"--confidence lies between 0.5 and 1, got {args.confidence}")
    if not 0 <= args.tolerance_mm < float("inf"):
        refuse(f"--tolerance-mm is a distance, got {args.tolerance_mm}")
    if args.max_cases < 0 or args.workers < 1:
        refuse("--max-cases is 0 (all) or a number of cases, --workers at least 1")
    if args.spacing_mm and not all(0 < step < float("inf") for step in args.spacing_mm):
        refuse(f"--spacing-mm holds distances above 0, got {args.spacing_mm}")
    numbers = [word for word in args.foreground if re.fullmatch(r"-?\d+", word)]
    if args.foreground not in (["each"], ["any"]) and numbers != args.foreground:
        refuse(f"--foreground is each, any or numbers of labels, got {args.foreground}")
    args.foreground = [int(word) for word in numbers] or args.foreground[0]


def default_workers() -> int:
    """Processors we may use, four at most: each process holds one case in memory."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, usable)


def main(argv: list[str] | None = None) -> int:
    """Pair, check, score, compare, draw, report."""
    args = parse(argv)
    folders = named_folders(args.masks)
    patients = read_patients(args.patients) if args.patients else None
    cases, problems = pair_masks(args.seg_dir, folders, patients=patients, max_cases=args.max_cases)
    problems += missing_images(args.image_dir, cases) if args.image_dir else []
    print(f"{len(cases)} cases, {len(folders)} tools: checking every mask", file=sys.stderr)
    cases, labels, problems = usable_cases(
        cases,
        problems,
        names=label_names(args.labels),
        foreground=args.foreground,
        spacing_mm=args.spacing_mm,
        leave_out=args.leave_out,
        workers=args.workers,
    )
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    results = measure(
        cases,
        scored=labels.scored,
        spacing_mm=tuple(args.spacing_mm) if args.spacing_mm else None,
        tolerance_mm=args.tolerance_mm,
        workers=args.workers,
        progress=progress_of(len(cases), every=args.verbose),
    )
    summary = summary_of(args, folders, labels, problems, results)
    output = args.output_dir
    images = list_masks(args.image_dir, "images")[0] if args.image_dir else {}
    overlays = write_overlays(
        output,
        results,
        cases,
        images=lambda case: image_of(case, images),
        scored=labels.scored,
        spacing_mm=lambda case: args.spacing_mm,
    )
    write_text(output / "per_case.csv", case_table(results))
    write_summary(output, summary)
    shown = MaskSection(args.seg_dir.name, {**summary, "overlays": overlays}, output)
    page = render_mask_page([shown], title=summary["settings"]["name"], command=args.command)
    write_text(output / "report.html", page)
    print(to_text(summary))
    print(f"Report: {output / 'report.html'}")
    return 0


def named_folders(words: Sequence[str]) -> dict[str, Path]:
    """Folder of each tool; without a name the folder's own.

    Raises:
        ValueError: If two tools share a name, or a name can't stand in a file's name.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, given, folder = word.partition("=")
        path = Path(folder if given else word)
        name = name if given else path.name
        if not re.fullmatch(r"[\w.+ -]+", name) or name in ("truth", "patients", ".", ".."):
            raise ValueError(f"--masks {word}: {name!r} can't name a tool, write NAME=DIR with another name")
        if name in found:
            raise ValueError(f"--masks {word}: two folders are named {name!r}, write NAME=DIR with another name")
        found[name] = path
    return found


def label_names(words: Sequence[str] | None) -> dict[int, str] | None:
    """Names of the labels, without the background."""
    if words is None:
        return None
    found: dict[int, str] = {}
    for word in words:
        number, _, name = word.partition("=")
        if not re.fullmatch(r"\d+", number) or int(number) in found or (name or number) in found.values():
            raise ValueError(f"--labels {word}: write each label once, as 1=liver")
        found[int(number)] = name or number
    return {number: name for number, name in found.items() if number != 0}


def progress_of(total: int, *, every: bool) -> Callable[[int, str], None]:
    """Progress lines on stderr, one in a few seconds."""
    said = [time.monotonic()]

    def say(done: int, case: str) -> None:
        if every or done == total or time.monotonic() - said[0] > PROGRESS_SECONDS:
            said[0] = time.monotonic()
            print(f"{done}/{total} cases scored, last {case}", file=sys.stderr, flush=True)

    return say


def summary_of(
    args: argparse.Namespace,
    folders: Mapping[str, Path],
    labels: Labels,
    problems: Sequence[Problem],
    results: Sequence[CaseResult],
) -> dict[str, Any]:
    """The content of summary.json."""
    failed = {tool: len(lost_cases(problems, tool)) for tool in folders}
    total = len(results) + len(lost_cases(problems, *folders))
    name = args.output_dir.resolve().name
    drawing = Resampling(args.resamples, args.comparison_resamples, args.confidence, args.seed, args.delta)
    found = mask_summary(results, drawing, failed=failed, total=total)
    return {
        "provenance": provenance(
            study=name, dataset=args.seg_dir.name, model=None, config_hash=digest(args.command), code="front end"
        ),
        "settings": {
            "name": name,
            "command": args.command,
            "truth": args.seg_dir,
            "masks": dict(folders),
            "labels": {str(number): word for number, word in labels.names.items()},
            "foreground": args.foreground,
            "tolerance_mm": args.tolerance_mm,
            "spacing_mm": args.spacing_mm,
            **drawing.settings(),
        },
        **found,
        "failures": [vars(problem) for problem in problems],
        "warnings": [
            *warnings_of(results, n_patients=found["n_patients"], patients_given=args.patients is not None),
            *found["warnings"],
            *spacing_note(args, results),
        ],
    }


def lost_cases(problems: Sequence[Problem], *tools: str) -> set[str]:
    """Cases that can't be scored for one of these tools: its own masks, the truth or the patient are at fault."""
    return {problem.case for problem in problems if problem.case and problem.source in (*tools, "truth", "patients")}


def spacing_note(args: argparse.Namespace, results: Sequence[CaseResult]) -> list[str]:
    """Say that distances are in pixels where no file and no argument gave a spacing."""
    if args.spacing_mm is None and not any(suffix_of(path.name) in (".nii", ".nii.gz") for path in truths(args)):
        return ["no spacing was given for PNG or TIFF: 1 mm per pixel was taken, distances and sizes are in pixels"]
    return []


def truths(args: argparse.Namespace) -> list[Path]:
    """Files of the true masks."""
    return list(list_masks(args.seg_dir, "truth")[0].values())


def digest(command: str) -> str:
    """Hash of the command, in the place of a configuration's."""
    return hashlib.sha256(command.encode()).hexdigest()[:16]


if __name__ == "__main__":
    run(main)

"""Compare models of any other tool from one CSV of predictions: same statistics, same report, no training.

    python scripts/evaluate.py --predictions predictions.csv --task ordinal --output results/mine

Columns: case, patient, model; one score_<class> (probability) or logit_<class> per class; target (class name or
number, empty where unknown); for several labels target_<label> (1, 0, empty) instead; optional fold and seed.
Patients are resampled, so the patient column matters. Rank metrics are computed per fold. With several folds,
calibration, thresholds and prediction sets are fitted for each fold on the others.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any, get_args

from archbench.artifacts import Predictions, provenance, write_json, write_predictions
from archbench.calibration import calibrate
from archbench.command_line import run
from archbench.comparison import compare
from archbench.evaluation import evaluate
from archbench.prediction_files import read_prediction_file
from archbench.report.build import write_report
from archbench.report.tables import to_text
from archbench.section_checks import threshold_problems
from archbench.settings import Evaluation, Thresholds
from archbench.tasks import TASKS, get_task
from archbench.thresholds import Kind, rule_of

READABLE = [name for name, task in TASKS.items() if task.outputs in ("classes", "labels")]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.resamples < 200 or args.comparison_resamples < 200:
        parser.error("at least 200 resamples are needed")
    if not 0.5 < args.confidence < 1:
        parser.error(f"--confidence lies between 0.5 and 1, got {args.confidence}")
    if args.few_positive_patients < 1 or args.isotonic_patients < 10:
        parser.error("--few-positive-patients starts at 1, --isotonic-patients at 10")
    if not 0 <= args.conformal_coverage < 1:
        parser.error(f"--conformal-coverage lies between 0 and 1, or is 0 for no sets; got {args.conformal_coverage}")
    wrong = threshold_problems({"thresholds": {"rule": args.threshold_rule, "value": args.threshold_value}})
    if wrong:
        parser.error("; ".join(wrong).replace("evaluation.thresholds.value", "--threshold-value"))
    return args


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--predictions", type=Path, required=True, metavar="FILE", help="CSV of predictions")
    parser.add_argument("--task", required=True, choices=READABLE, help="what the scores mean")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (default: results/<name of the CSV>)"
    )
    parser.add_argument("--resamples", type=int, default=2000, help="patient draws for intervals (default: 2000)")
    parser.add_argument("--comparison-resamples", type=int, default=10000, help="for tests (default: 10000)")
    parser.add_argument("--confidence", type=float, default=0.95, help="level of the intervals (default: 0.95)")
    parser.add_argument("--delta", type=float, help="margin of equivalence (default: the metric's own)")
    parser.add_argument("--clinical-cut", type=int, default=2, help="first class that is referable (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    add_fits(parser)
    return parser


def add_fits(parser: argparse.ArgumentParser) -> None:
    """Add what is fitted on the other folds; defaults are those of a study file."""
    whole, cuts = Evaluation(), Thresholds()
    parser.add_argument(
        "--threshold-rule", choices=get_args(Kind), default=cuts.rule, help=f"for labels (default: {cuts.rule})"
    )
    parser.add_argument("--threshold-value", type=float, help="sensitivity or specificity to hold, or cost of a miss")
    parser.add_argument(
        "--few-positive-patients",
        type=int,
        default=cuts.few_positive_patients,
        help=f"below, a label takes the threshold of all labels (default: {cuts.few_positive_patients})",
    )
    parser.add_argument("--isotonic", action="store_true", help="labels by isotonic steps instead of Platt's line")
    parser.add_argument(
        "--isotonic-patients",
        type=int,
        default=whole.isotonic_patients,
        help=f"positive and negative ones that a label needs for steps (default: {whole.isotonic_patients})",
    )
    parser.add_argument(
        "--conformal-coverage",
        type=float,
        default=whole.conformal_coverage,
        help=f"of prediction sets, 0 makes none (default: {whole.conformal_coverage})",
    )


def main(argv: list[str] | None = None) -> int:
    """Read, score, compare, report."""
    args = parse(argv)
    models = read_prediction_file(args.predictions, task=args.task)
    name = re.sub(r"[^\w-]+", "_", args.predictions.stem)
    output = args.output or Path("results") / name
    configuration = configuration_of(args, name, models)
    origin = {"study": name, "dataset": name, "config_hash": digest(args.predictions), "code": "front end"}
    for model, rows in models.items():
        write_model(output / name / model, model, rows, args=args, origin=origin)
        print(f"{model}: scored", file=sys.stderr)
    found = compare(
        models,
        primary=get_task(args.task).primary,
        resamples=args.comparison_resamples,
        confidence=args.confidence,
        seed=args.seed,
        delta=args.delta,
        clinical_cut=args.clinical_cut,
    )
    write_json(output / name / "comparison.json", {"provenance": provenance(model=None, **origin), **found})
    study = write_report(configuration=configuration, results=output, output=output, partial=True)
    print(to_text(study))
    print(f"Report: {output / 'report.html'}")
    return 0


def write_model(
    folder: Path, model: str, rows: Predictions, *, args: argparse.Namespace, origin: dict[str, Any]
) -> None:
    """Write the table, the metrics and the calibration of one model."""
    task = get_task(args.task)
    shared = {"resamples": args.resamples, "confidence": args.confidence, "seed": args.seed}
    made_by = {"provenance": provenance(model=model, **origin)}
    isotonic = args.isotonic_patients if args.isotonic else None
    scored = evaluate(
        rows,
        metrics=task.metrics,
        primary=task.primary,
        clinical_cut=args.clinical_cut,
        rule=rule_of(args.threshold_rule, args.threshold_value),
        few_positive_patients=args.few_positive_patients,
        isotonic_patients=isotonic,
        conformal_coverage=args.conformal_coverage or None,
        **shared,
    )
    write_predictions(folder / "predictions.parquet", rows)
    write_json(
        folder / "metrics.json", {**made_by, "dataset": origin["dataset"], "model": model, "task": task.name, **scored}
    )
    write_json(folder / "calibration.json", {**made_by, **calibrate(rows, isotonic_patients=isotonic, **shared)})


def configuration_of(args: argparse.Namespace, name: str, models: dict[str, Predictions]) -> dict[str, Any]:
    """The study as the report reads it: given predictions, nothing trained."""
    first = next(iter(models.values()))
    return {
        "study": name,
        "given_predictions": {"file": args.predictions.name, "command": command_of(args)},
        "datasets": {name: {"format": "predictions", "task": args.task, "classes": list(first.classes)}},
        "models": {model: {"predictions": args.predictions.name} for model in models},
        "protocol": {
            "kind": "given",
            "folds": len(set(first.fold.tolist())),
            "seeds": sorted(set(first.seed.tolist())),
        },
        "evaluation": {
            "resamples": args.resamples,
            "comparison_resamples": args.comparison_resamples,
            "confidence": args.confidence,
            "thresholds": {
                "rule": args.threshold_rule,
                "value": args.threshold_value,
                "few_positive_patients": args.few_positive_patients,
            },
            "isotonic": args.isotonic,
            "isotonic_patients": args.isotonic_patients,
            "conformal_coverage": args.conformal_coverage or None,
        },
        "explain": {"cases": 0},
        "ensemble": {"candidates": []},
    }


def command_of(args: argparse.Namespace) -> str:
    """The command that repeats this one: its file, its task, and every flag that was set."""
    parser = build_parser()
    words = ["python", "scripts/evaluate.py", "--predictions", args.predictions.name]
    for name, value in vars(args).items():
        if name in ("predictions", "output") or value == parser.get_default(name):
            continue
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def digest(path: Path) -> str:
    """Hash of the file, in the place of a configuration's."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    run(main)

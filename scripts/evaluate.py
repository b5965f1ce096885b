"""Score one model or ensemble: metrics with patient-bootstrap intervals, per class and per fold.

    python scripts/evaluate.py --study study.json --dataset phantom --model resnet18 \\
        --predictions predictions.parquet --folds folds.parquet --output metrics.json

Without a study it compares models of any other tool from a CSV, see scripts/evaluate_predictions.py:

    python scripts/evaluate.py --predictions predictions.csv --task ordinal
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from archbench.artifacts import provenance, read_predictions, read_table, write_json, write_text
from archbench.case_table import case_table
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import load_study
from archbench.evaluation import evaluate
from archbench.memory import keep_freed_memory
from archbench.out_of_fold import check_not_trained, trained_patients
from archbench.tasks import get_task
from archbench.thresholds import rule_of

if TYPE_CHECKING:
    import argparse


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = stage_parser(__doc__, model=True)
    parser.add_argument("--predictions", required=True, help="prediction table with all folds and seeds")
    parser.add_argument("--folds", required=True, help="fold table of the dataset")
    parser.add_argument("--output", required=True, help="metrics.json to write")
    parser.add_argument("--table", help="CSV of every scored case to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Evaluate and write."""
    given = sys.argv[1:] if argv is None else argv
    if not any(word.split("=")[0] in ("--study", "--dataset") for word in given):
        # another process: imports here would make every rule's evaluation depend on the report's code
        front_end = Path(__file__).with_name("evaluate_predictions.py")
        return subprocess.call([sys.executable, str(front_end), *given])
    args = parse(given)
    keep_freed_memory()
    label_progress(f"evaluate {args.dataset}/{args.model}")
    study = load_study(args.study)
    dataset, settings = study.datasets[args.dataset], study.evaluation
    task = get_task(dataset.task)
    predictions = read_predictions(args.predictions, classes=study.logit_names(args.dataset) or None)
    parts, folds = read_table(args.folds)
    check_not_trained(predictions, trained_patients(parts))
    found = evaluate(
        predictions,
        metrics=task.metrics,
        primary=task.primary,
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=settings.seed,
        clinical_cut=settings.clinical_cut,
        selected_and_reported=bool(folds.get("selected_and_reported_on_same_cases", False)),
        rule=rule_of(settings.thresholds.rule, settings.thresholds.value),
        few_positive_patients=settings.thresholds.few_positive_patients,
        isotonic_patients=settings.isotonic_patients if settings.isotonic else None,
        conformal_coverage=settings.conformal_coverage,
    )
    origin = provenance(
        study=study.study, dataset=args.dataset, model=args.model, config_hash=study.hash, code=args.code
    )
    names = {"dataset": args.dataset, "model": args.model, "task": task.name}
    if args.table:
        write_text(args.table, case_table(predictions))
    write_json(args.output, {"provenance": origin, **names, **found})
    print(
        f"{args.model} on {args.dataset}: {task.primary} {found['metrics'][task.primary]['value']}",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    run(main)

"""Score one model or ensemble: metrics with patient-bootstrap intervals, per class and per fold.

    python scripts/evaluate.py --study study.json --dataset phantom --model resnet18 \
        --predictions predictions.parquet --folds folds.parquet --output metrics.json
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from archbench.artifacts import provenance, read_predictions, read_table, write_json
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import load_study
from archbench.evaluation import evaluate
from archbench.tasks import get_task

if TYPE_CHECKING:
    import argparse


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = stage_parser(__doc__, model=True)
    parser.add_argument("--predictions", required=True, help="prediction table with all folds and seeds")
    parser.add_argument("--folds", required=True, help="fold table of the dataset")
    parser.add_argument("--output", required=True, help="metrics.json to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Evaluate and write."""
    args = parse(argv)
    label_progress(f"evaluate {args.dataset}/{args.model}")
    study = load_study(args.study)
    dataset, settings = study.datasets[args.dataset], study.evaluation
    task = get_task(dataset.task)
    predictions = read_predictions(args.predictions, classes=tuple(dataset.classes))
    _, folds = read_table(args.folds)
    found = evaluate(
        predictions,
        metrics=task.metrics,
        primary=task.primary,
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=settings.seed,
        clinical_cut=settings.clinical_cut,
        selected_and_reported=bool(folds.get("selected_and_reported_on_same_cases", False)),
    )
    origin = provenance(
        study=study.study, dataset=args.dataset, model=args.model, config_hash=study.hash, code=args.code
    )
    names = {"dataset": args.dataset, "model": args.model, "task": task.name}
    write_json(args.output, {"provenance": origin, **names, **found})
    print(
        f"{args.model} on {args.dataset}: {task.primary} {found['metrics'][task.primary]['value']}",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    run(main)

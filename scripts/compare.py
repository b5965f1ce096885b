"""Compare all models of a dataset, the ensemble included: paired tests, ranks, verdicts.

    python scripts/compare.py --study study.json --dataset phantom --models resnet18 ensemble \\
        --predictions resnet18/predictions.parquet ensemble/predictions.parquet --output comparison.json

With two studies it compares them case by case, see scripts/compare_studies.py:

    python scripts/compare.py baseline improved
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from archbench.artifacts import provenance, read_predictions, write_json
from archbench.command_line import label_progress, run, stage_parser
from archbench.comparison import compare
from archbench.config import load_study
from archbench.memory import keep_freed_memory
from archbench.tasks import get_task

if TYPE_CHECKING:
    import argparse


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--models", required=True, nargs="+", help="names of the models, ensemble included")
    parser.add_argument("--predictions", required=True, nargs="+", help="their prediction tables, in this order")
    parser.add_argument("--output", required=True, help="comparison.json to write")
    args = parser.parse_args(argv)
    if len(args.models) != len(args.predictions):
        parser.error(f"{len(args.models)} --models but {len(args.predictions)} --predictions")
    return args


def main(argv: list[str] | None = None) -> int:
    """Compare and write."""
    given = sys.argv[1:] if argv is None else argv
    if not any(word.split("=")[0] in ("--study", "--dataset") for word in given):
        # another process: imports here would make the rule's comparison depend on the other front end's code
        front_end = Path(__file__).with_name("compare_studies.py")
        return subprocess.call([sys.executable, str(front_end), *given])
    args = parse(given)
    keep_freed_memory()
    label_progress(f"compare {args.dataset}")
    study = load_study(args.study)
    dataset, settings = study.datasets[args.dataset], study.evaluation
    classes = study.logit_names(args.dataset) or None
    found = compare(
        {
            name: read_predictions(path, classes=classes)
            for name, path in zip(args.models, args.predictions, strict=True)
        },
        primary=get_task(dataset.task).primary,
        resamples=settings.comparison_resamples,
        confidence=settings.confidence,
        seed=settings.seed,
        delta=settings.delta,
        clinical_cut=settings.clinical_cut,
    )
    origin = provenance(study=study.study, dataset=args.dataset, model=None, config_hash=study.hash, code=args.code)
    write_json(args.output, {"provenance": origin, **found})
    print(f"{args.dataset}: best {found['best']} of {len(found['models'])}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)

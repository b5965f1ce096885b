"""Fit temperatures or Platt's lines out of fold and measure calibration before and after.

    python scripts/calibrate.py --study study.json --dataset phantom --model resnet18 \\
        --predictions predictions.parquet --folds folds.parquet --output calibration.json
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from archbench.artifacts import provenance, read_predictions, read_table, write_json
from archbench.calibration import calibrate
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import load_study
from archbench.memory import keep_freed_memory
from archbench.out_of_fold import check_not_trained, trained_patients

if TYPE_CHECKING:
    import argparse


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = stage_parser(__doc__, model=True)
    parser.add_argument("--predictions", required=True, help="prediction table with all folds and seeds")
    parser.add_argument("--folds", required=True, help="fold table of the dataset")
    parser.add_argument("--output", required=True, help="calibration.json to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Calibrate and write."""
    args = parse(argv)
    keep_freed_memory()
    label_progress(f"calibrate {args.dataset}/{args.model}")
    study = load_study(args.study)
    predictions = read_predictions(args.predictions, classes=study.logit_names(args.dataset) or None)
    check_not_trained(predictions, trained_patients(read_table(args.folds)[0]))
    settings = study.evaluation
    found = calibrate(
        predictions,
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=settings.seed,
        isotonic_patients=settings.isotonic_patients if settings.isotonic else None,
    )
    origin = provenance(
        study=study.study, dataset=args.dataset, model=args.model, config_hash=study.hash, code=args.code
    )
    write_json(args.output, {"provenance": origin, **found})
    print(f"{args.model} on {args.dataset}: {found['method']}, {len(found['parameters'])} fits", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)

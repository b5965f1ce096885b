"""Fit temperatures out of fold and measure calibration before and after.

    python scripts/calibrate.py --study study.json --dataset phantom --model resnet18 \
        --predictions predictions.parquet --output calibration.json
"""

from __future__ import annotations

import argparse
import sys

from archbench.artifacts import provenance, read_predictions, write_json
from archbench.calibration import calibrate
from archbench.config import load_study


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", required=True, help="study file (YAML or resolved JSON)")
    parser.add_argument("--dataset", required=True, help="name of the dataset in the study")
    parser.add_argument("--model", required=True, help="name of the model, or ensemble")
    parser.add_argument("--predictions", required=True, help="prediction table with all folds and seeds")
    parser.add_argument("--output", required=True, help="calibration.json to write")
    parser.add_argument("--code", default="", help="code fingerprint for the provenance")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Calibrate and write."""
    args = parse(argv)
    study = load_study(args.study)
    predictions = read_predictions(args.predictions, classes=tuple(study.datasets[args.dataset].classes))
    found = calibrate(
        predictions,
        resamples=study.evaluation.resamples,
        confidence=study.evaluation.confidence,
        seed=study.evaluation.seed,
    )
    origin = provenance(
        study=study.study, dataset=args.dataset, model=args.model, config_hash=study.hash, code=args.code
    )
    write_json(args.output, {"provenance": origin, **found})
    print(f"{args.model} on {args.dataset}: {len(found['parameters'])} temperatures", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

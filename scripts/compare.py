"""Compare all models of a dataset, the ensemble included: paired tests, ranks, verdicts.

    python scripts/compare.py --study study.json --dataset phantom --models resnet18 ensemble \
        --predictions resnet18/predictions.parquet ensemble/predictions.parquet --output comparison.json
"""

from __future__ import annotations

import argparse
import sys

from archbench.artifacts import provenance, read_predictions, write_json
from archbench.comparison import compare
from archbench.config import load_study
from archbench.tasks import get_task


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", required=True, help="study file (YAML or resolved JSON)")
    parser.add_argument("--dataset", required=True, help="name of the dataset in the study")
    parser.add_argument("--models", required=True, nargs="+", help="names of the models, ensemble included")
    parser.add_argument(
        "--predictions", required=True, nargs="+", help="their prediction tables, in this order"
    )
    parser.add_argument("--output", required=True, help="comparison.json to write")
    parser.add_argument("--code", default="", help="code fingerprint for the provenance")
    args = parser.parse_args(argv)
    if len(args.models) != len(args.predictions):
        parser.error(f"{len(args.models)} --models but {len(args.predictions)} --predictions")
    return args


def main(argv: list[str] | None = None) -> int:
    """Compare and write."""
    args = parse(argv)
    study = load_study(args.study)
    dataset, settings = study.datasets[args.dataset], study.evaluation
    classes = tuple(dataset.classes)
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
    origin = provenance(
        study=study.study, dataset=args.dataset, model=None, config_hash=study.hash, code=args.code
    )
    write_json(args.output, {"provenance": origin, **found})
    print(f"{args.dataset}: best {found['best']} of {len(found['models'])}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Combine the models of a dataset where that helps out of fold; write the predictions and the decision.

    python scripts/ensemble.py --study study.json --dataset phantom --members resnet18 custom1 \
        --predictions resnet18/predictions.parquet custom1/predictions.parquet \
        --output ensemble/predictions.parquet --decision ensemble/decision.json
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from archbench.artifacts import provenance, read_predictions, write_json, write_predictions
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import load_study
from archbench.ensemble import build_ensemble
from archbench.tasks import get_task

if TYPE_CHECKING:
    import argparse


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--members", required=True, nargs="+", help="names of the models")
    parser.add_argument("--predictions", required=True, nargs="+", help="their prediction tables, in this order")
    parser.add_argument("--output", required=True, help="prediction table to write")
    parser.add_argument("--decision", required=True, help="decision.json to write")
    args = parser.parse_args(argv)
    if len(args.members) != len(args.predictions):
        parser.error(f"{len(args.members)} --members but {len(args.predictions)} --predictions")
    return args


def main(argv: list[str] | None = None) -> int:
    """Build the ensemble and write."""
    args = parse(argv)
    label_progress(f"ensemble {args.dataset}")
    study = load_study(args.study)
    dataset, settings = study.datasets[args.dataset], study.evaluation
    classes = study.logit_names(args.dataset) or None
    predictions, decision = build_ensemble(
        {
            name: read_predictions(path, classes=classes)
            for name, path in zip(args.members, args.predictions, strict=True)
        },
        candidates=study.ensemble.candidates,
        primary=get_task(dataset.task).primary,
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=settings.seed,
        clinical_cut=settings.clinical_cut,
    )
    origin = provenance(
        study=study.study, dataset=args.dataset, model="ensemble", config_hash=study.hash, code=args.code
    )
    metadata = {**predictions.metadata, "provenance": origin, "members": args.members}
    write_predictions(args.output, replace(predictions, metadata=metadata))
    write_json(args.decision, {"provenance": origin, **decision})
    print(f"ensemble on {args.dataset}: {decision['choice']}. {decision['reason']}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)

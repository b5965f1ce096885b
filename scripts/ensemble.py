"""Combine the models of a dataset where that helps out of fold; write the predictions and the decision.

    python scripts/ensemble.py --study study.json --dataset phantom --members resnet18 custom1 \\
        --predictions resnet18/predictions.parquet custom1/predictions.parquet \\
        --external older=results/older/phantom/resnet18/predictions.parquet \\
        --folds folds.parquet --output ensemble/predictions.parquet --decision ensemble/decision.json
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from archbench.artifacts import Predictions, provenance, read_predictions, read_table, write_json, write_predictions
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import Study, load_study
from archbench.ensemble import build_ensemble
from archbench.ensemble_members import aligned, part_to_combine
from archbench.memory import keep_freed_memory
from archbench.neural_stacking import NetworkSettings
from archbench.out_of_fold import LeakError, check_not_trained, trained_patients
from archbench.tasks import get_task

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

LEFT_OUT = "not among ensemble.members"
MISSING = (
    "no predictions: its jobs failed or did not run; repair it and run again, or name the others in ensemble.members"
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--members", required=True, nargs="+", help="names of the models")
    parser.add_argument("--predictions", required=True, nargs="+", help="their prediction tables, in this order")
    parser.add_argument("--folds", required=True, help="fold table of the dataset")
    parser.add_argument("--external", nargs="+", default=[], metavar="NAME=TABLE", help="members from other studies")
    parser.add_argument("--left-out", nargs="+", default=[], metavar="MODEL", help="models left out on purpose")
    parser.add_argument("--missing", nargs="+", default=[], metavar="MODEL", help="members without predictions")
    parser.add_argument("--output", required=True, help="prediction table to write")
    parser.add_argument("--decision", required=True, help="decision.json to write")
    args = parser.parse_args(argv)
    if len(args.members) != len(args.predictions):
        parser.error(f"{len(args.members)} --members but {len(args.predictions)} --predictions")
    return args


def main(argv: list[str] | None = None) -> int:
    """Build the ensemble and write."""
    args = parse(argv)
    keep_freed_memory()
    label_progress(f"ensemble {args.dataset}")
    study = load_study(args.study)
    members, notes = read_members(study, args)
    check_members(members, args.folds)
    predictions, decision = _combined(study, args.dataset, members)
    left_out = [{"name": name, "reason": LEFT_OUT} for name in args.left_out]
    left_out += [{"name": name, "reason": MISSING} for name in args.missing]
    origin = provenance(
        study=study.study, dataset=args.dataset, model="ensemble", config_hash=study.hash, code=args.code
    )
    metadata = {**predictions.metadata, "provenance": origin, "members": list(members)}
    write_predictions(args.output, replace(predictions, metadata=metadata))
    write_json(args.decision, {"provenance": origin, **decision, "left_out": left_out, "member_notes": notes})
    for item in left_out:
        print(f"{item['name']} was left out: {item['reason']}", file=sys.stderr)
    print(f"ensemble on {args.dataset}: {decision['choice']}. {decision['reason']}", file=sys.stderr)
    return 0


def read_members(study: Study, args: argparse.Namespace) -> tuple[dict[str, Predictions], list[str]]:
    """Return the prediction table of every member on the same rows, and what was renamed to get there."""
    classes = study.logit_names(args.dataset) or None
    members = {
        name: part_to_combine(read_predictions(path, classes=classes))
        for name, path in zip(args.members, args.predictions, strict=True)
    }
    reference, notes = next(iter(members.values())), []
    for name, _, path in (item.partition("=") for item in args.external):
        members[name], renamed = aligned(name, part_to_combine(read_predictions(path)), reference)
        notes += [*renamed, f"{name}: from {path}"]
    return members, notes


def check_members(members: Mapping[str, Predictions], folds: str) -> None:
    """Refuse a member that predicts patients of its own training part, by the fold table of this study.

    Raises:
        LeakError: With the member's name.
    """
    trained = trained_patients(read_table(folds)[0])
    for name, table in members.items():
        try:
            check_not_trained(table, trained)
        except LeakError as error:
            raise LeakError(f"member '{name}': {error}") from error


def _combined(study: Study, dataset: str, members: dict[str, Predictions]) -> tuple[Predictions, dict[str, Any]]:
    settings, network = study.evaluation, study.ensemble.mlp
    return build_ensemble(
        members,
        candidates=study.ensemble.candidates,
        primary=get_task(study.datasets[dataset].task).primary,
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=settings.seed,
        clinical_cut=settings.clinical_cut,
        network=NetworkSettings(**{**network.model_dump(), "hidden": tuple(network.hidden)}),
    )


if __name__ == "__main__":
    run(main)

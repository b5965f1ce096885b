"""Predict the validation and test part of every fold and seed of one model.

    python scripts/predict.py --study study.yaml --dataset phantom --model resnet18 \\
        --checkpoint 0:42:fold0-seed42/best.safetensors:fold0-seed42/predictions.parquet …
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from archbench.artifacts import provenance, write_predictions
from archbench.cases import read_cases
from archbench.checkpoints import parse_checkpoints
from archbench.command_line import checkpoint_parser, label_progress, run
from archbench.config import Study, load_study
from archbench.tasks import TASKS

if TYPE_CHECKING:
    import argparse


def main(argv: list[str] | None = None) -> int:
    """Parse, predict, write one table per fold and the joined one."""
    arguments = _parse(argv)
    label_progress(f"predict {arguments.dataset}/{arguments.model}")
    study = load_study(arguments.study)
    _predict(study, arguments)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = checkpoint_parser(__doc__)
    parser.add_argument("--fold-outputs", nargs="+", required=True, help="tables to write, in the same order")
    parser.add_argument("--output", required=True, help="table of all folds and seeds to write")
    return parser.parse_args(argv)


def _predict(study: Study, arguments: argparse.Namespace) -> None:
    from archbench import devices
    from archbench.models.building import build_network
    from archbench.prediction import join_predictions, predict_folds

    cases = read_cases(arguments.manifest, arguments.folds, arguments.cache)
    devices.prepare_torch(threads=arguments.threads)
    device = devices.resolve_device(study.compute.device)
    network = build_network(**study.network_of(arguments.model, arguments.dataset), num_classes=len(cases.classes))
    checkpoints = parse_checkpoints(arguments.checkpoint)
    origin = provenance(
        study=study.study,
        dataset=arguments.dataset,
        model=arguments.model,
        config_hash=study.hash,
        code=arguments.code,
        device=devices.device_name(device),
    )
    settings = study.training_of(arguments.model, arguments.dataset)
    tables = predict_folds(
        network,
        checkpoints,
        cases,
        batch_size=settings.eval_batch_size,
        device=device,
        metadata={"provenance": origin, "decision": TASKS[study.datasets[arguments.dataset].task].decision}
        | cases.table_metadata,
    )
    for path, table in zip(arguments.fold_outputs, tables, strict=True):
        write_predictions(path, table)
    write_predictions(arguments.output, join_predictions(tables))


if __name__ == "__main__":
    run(main)

"""Train one model on one fold with one seed; an interrupted training goes on after its last finished epoch.

python scripts/train.py --study study.yaml --dataset phantom --model resnet18 --fold 0 --seed 42 …
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import provenance, write_json, write_text
from archbench.cases import Cases, read_cases
from archbench.checksums import verify_checksum
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import Study, load_study, settings_hash
from archbench.interruption import INTERRUPTED_EXIT_CODE, Interrupted, leaving_on_signals
from archbench.tasks import TASKS

if TYPE_CHECKING:
    import argparse

    from archbench.training import TrainingResult


def main(argv: list[str] | None = None) -> int:
    """Parse, train, write weights, history and settings."""
    arguments = _parse(argv)
    label_progress(f"train {arguments.dataset}/{arguments.model} fold {arguments.fold} seed {arguments.seed}")
    try:
        with leaving_on_signals():
            study = load_study(arguments.study)
            cases = read_cases(arguments.manifest, arguments.folds, arguments.cache)
            _train(study, cases, arguments)
    except Interrupted as interruption:
        where = "goes on after its last finished epoch" if Path(arguments.state).is_file() else "starts anew"
        print(f"{interruption}: the same job {where} when it is run again", file=sys.stderr, flush=True)
        return INTERRUPTED_EXIT_CODE
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__, model=True)
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--folds", required=True)
    parser.add_argument("--cache", required=True, help="pointer file of the image cache")
    parser.add_argument("--weights", help="safetensors file to start from")
    parser.add_argument("--state", required=True, help="where the resumable state is kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--best", required=True, help="weights to write (safetensors)")
    parser.add_argument("--history", required=True, help="history to write (CSV)")
    parser.add_argument("--settings", required=True, help="settings to write (JSON)")
    return parser.parse_args(argv)


def _train(study: Study, cases: Cases, arguments: argparse.Namespace) -> None:
    from archbench import devices, training
    from archbench.models import building, weights

    model, dataset = study.models[arguments.model], study.datasets[arguments.dataset]
    settings = study.training_of(arguments.model, arguments.dataset)
    devices.prepare_torch(threads=arguments.threads)
    device = devices.resolve_device(study.compute.device)
    dtype = devices.resolve_precision(settings.precision, device)
    training.seed_start(arguments.seed)
    network = building.build_network(
        **study.network_of(arguments.model, arguments.dataset),
        num_classes=len(cases.classes),
        dropout=settings.dropout,
        drop_path=settings.drop_path,
    )
    report = None
    if arguments.weights:
        verify_checksum(arguments.weights)
        report = weights.load_weights(network, arguments.weights, same_head=False)
        weights.print_report(report, arguments.weights)
    state = Path(arguments.state)
    result = training.train(
        network,
        _training_data(cases, arguments.fold),
        settings=settings,
        seed=arguments.seed,
        device=device,
        dtype=dtype,
        decision=TASKS[dataset.task].decision,
        state_path=state,
        identity=_identity(study, cases, arguments),
    )
    weights.save_weights(network.network, arguments.best, {"architecture": model.architecture})
    write_text(arguments.history, training.history_csv(result.history))
    described = _describe(study, arguments, result, devices.device_name(device), str(dtype).removeprefix("torch."))
    described |= {"parameters": building.count_parameters(network), "image_size": network.image_size}
    described |= {"network": study.network_of(arguments.model, arguments.dataset)}
    described |= {"loaded_weights": None if report is None else report.summary()}
    write_json(arguments.settings, described)
    state.unlink(missing_ok=True)


def _training_data(cases: Cases, fold: int) -> Any:
    from archbench.training import TrainingData

    train, val = cases.part(fold, "train").known(), cases.part(fold, "val").known()
    return TrainingData(
        images=cases.cache.images,
        clahe=cases.cache.clahe,
        train_rows=train.rows,
        train_targets=train.y_true,
        val_rows=val.rows,
        val_targets=val.y_true,
        num_classes=len(cases.classes),
    )


def _identity(study: Study, cases: Cases, arguments: argparse.Namespace) -> str:
    """Hash of all that decides the weights, so that a state of other settings, data or code is not used."""
    model = study.models[arguments.model].model_dump()
    recipe = study.training_of(arguments.model, arguments.dataset).model_dump()
    data = [cases.part(arguments.fold, split).case_ids.tolist() for split in ("train", "val")]
    return settings_hash(
        [model, recipe, data, cases.sha256.tolist(), cases.targets.tolist(), arguments.seed, arguments.code]
    )


def _describe(
    study: Study, arguments: argparse.Namespace, result: TrainingResult, device: str, precision: str
) -> dict[str, Any]:
    model = study.models[arguments.model]
    recipe = study.training_of(arguments.model, arguments.dataset)
    return {
        "provenance": provenance(
            study=study.study,
            dataset=arguments.dataset,
            model=arguments.model,
            config_hash=study.hash,
            code=arguments.code,
            device=device,
        ),
        "architecture": model.architecture,
        "weights": model.weights,
        "best_epoch": result.best_epoch,
        "epochs_run": len(result.history),
        "best_value": result.best_value,
        "metric": result.metric,
        "train_seconds": result.seconds,
        "device": device,
        "precision": precision,
        "class_weights": result.class_weights,
        "stopped_early": result.stopped_early,
        "resumed_from": result.resumed_from,
        "training": recipe.model_dump(),
    }


if __name__ == "__main__":
    run(main)

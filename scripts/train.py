"""Train one model on one fold with one seed; an interrupted training goes on after its last finished epoch.

python scripts/train.py --study study.yaml --dataset phantom --model resnet18 --fold 0 --seed 42 …
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import provenance, read_json, write_json, write_text
from archbench.cases import Cases, read_cases
from archbench.command_line import label_progress, run, training_parser
from archbench.config import Study, load_study, settings_hash
from archbench.interruption import INTERRUPTED_EXIT_CODE, Interrupted, leaving_on_signals

if TYPE_CHECKING:
    import argparse

    from archbench.settings import Training
    from archbench.training_run import Trained


def main(argv: list[str] | None = None) -> int:
    """Parse, train, write weights, history and settings."""
    arguments = _parse(argv)
    label_progress(f"train {arguments.dataset}/{arguments.model} fold {arguments.fold} seed {arguments.seed}")
    try:
        with leaving_on_signals():
            study = load_study(arguments.study)
            cases = read_cases(
                arguments.manifest,
                arguments.folds,
                arguments.cache,
                prompts=arguments.prompts,
                jitter=study.jitter_of(arguments.model),
            )
            _train(study, cases, arguments)
    except Interrupted as interruption:
        where = "goes on after its last finished epoch" if Path(arguments.state).is_file() else "starts anew"
        print(f"{interruption}: the same job {where} when it is run again", file=sys.stderr, flush=True)
        return INTERRUPTED_EXIT_CODE
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = training_parser(__doc__)
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--tuned", help="result of the hyper-parameter search whose values override the recipe")
    return parser.parse_args(argv)


def _train(study: Study, cases: Cases, arguments: argparse.Namespace) -> None:
    from archbench.models import building, weights
    from archbench.starting import Job
    from archbench.training import history_csv
    from archbench.training_run import run_training

    model = study.models[arguments.model]
    recipe = _recipe(study, arguments)
    job = Job(
        model=model,
        dataset=study.datasets[arguments.dataset],
        recipe=recipe,
        network=study.network_of(arguments.model, arguments.dataset),
        seed=arguments.seed,
        weights=arguments.weights,
        device=study.compute.device,
        threads=arguments.threads,
    )
    trained = run_training(
        job,
        cases,
        (cases.part(arguments.fold, "train"), cases.part(arguments.fold, "val")),
        state_path=Path(arguments.state),
        identity=_identity(study, recipe, cases, arguments),
        features=arguments.features,
    )
    weights.save_weights(trained.network.network, arguments.best, {"architecture": model.architecture})
    write_text(arguments.history, history_csv(trained.result.history))
    described = _describe(study, recipe, arguments, trained)
    described |= {"parameters": building.count_parameters(trained.network), "image_size": trained.network.image_size}
    described |= {"network": job.network, "loaded_weights": trained.loaded_weights}
    write_json(arguments.settings, described)
    Path(arguments.state).unlink(missing_ok=True)


def _recipe(study: Study, arguments: argparse.Namespace) -> Training:
    """The recipe of the study, with the values that the search found for this fold."""
    overrides = read_json(arguments.tuned)["training"] if arguments.tuned else {}
    return study.training_of(arguments.model, arguments.dataset, overrides)


def _identity(study: Study, recipe: Training, cases: Cases, arguments: argparse.Namespace) -> str:
    """Hash of all that decides the weights, so that a state of other settings, data or code is not used."""
    model = study.models[arguments.model].model_dump()
    data = [cases.part(arguments.fold, split).case_ids.tolist() for split in ("train", "val")]
    parts = [model, recipe.model_dump(), data, cases.sha256.tolist(), cases.targets.tolist(), arguments.seed]
    masks = [] if cases.cache.masks is None else [hashlib.sha256(cases.cache.masks.tobytes()).hexdigest()]
    prompts = [] if cases.prompts is None else [hashlib.sha256(cases.prompts.values.tobytes()).hexdigest()]
    return settings_hash([*parts, *masks, *prompts, arguments.code])


def _describe(study: Study, recipe: Training, arguments: argparse.Namespace, trained: Trained) -> dict[str, Any]:
    model, result = study.models[arguments.model], trained.result
    return {
        "provenance": provenance(
            study=study.study,
            dataset=arguments.dataset,
            model=arguments.model,
            config_hash=study.hash,
            code=arguments.code,
            device=trained.device,
        ),
        "architecture": model.architecture,
        "weights": model.weights,
        "best_epoch": result.best_epoch,
        "epochs_run": len(result.history),
        "best_value": result.best_value,
        "metric": result.metric,
        "train_seconds": result.seconds,
        "peak_memory_mib": trained.peak_memory_mib,
        "device": trained.device,
        "precision": trained.precision,
        "class_weights": result.class_weights,
        "stopped_early": result.stopped_early,
        "resumed_from": result.resumed_from,
        "images_per_pass": result.pass_size,
        "cached_features": bool(arguments.features),
        "tuned": bool(arguments.tuned),
        "training": recipe.model_dump(),
    }


if __name__ == "__main__":
    run(main)

"""Train a chosen model on all cases for the median best epoch of its folds; nothing is left to evaluate it on.

python scripts/final_model.py --study study.yaml --dataset eyes --model resnet18 --fold-settings fold*/settings.json …
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np

from archbench.artifacts import provenance, read_json, write_json, write_text
from archbench.cases import Cases, Part, read_cases
from archbench.command_line import label_progress, run, training_parser
from archbench.config import Study, load_study, settings_hash

REASON = "trained on all cases: none is left to evaluate it on; the figures of its folds speak for the recipe"


def main(argv: list[str] | None = None) -> int:
    """Parse, train on all cases, write weights, history and settings."""
    arguments = _parse(argv)
    label_progress(f"final_model {arguments.dataset}/{arguments.model}")
    study = load_study(arguments.study)
    cases = read_cases(
        arguments.manifest,
        arguments.folds,
        arguments.cache,
        prompts=arguments.prompts,
        jitter=study.jitter_of(arguments.model),
    )
    _train(study, cases, arguments)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = training_parser(__doc__)
    parser.add_argument("--fold-settings", nargs="+", required=True, help="settings.json of every fold and seed")
    return parser.parse_args(argv)


def median_epoch(best_epochs: list[int]) -> int:
    """Return the median, the lower one of two, so that it is an epoch that a fold has seen."""
    return int(statistics.median_low(best_epochs))


def _train(study: Study, cases: Cases, arguments: argparse.Namespace) -> None:
    from archbench.models import building, weights
    from archbench.starting import Job
    from archbench.training import history_csv
    from archbench.training_run import run_training

    model = study.models[arguments.model]
    folds = [read_json(path) for path in arguments.fold_settings]
    best_epochs = [int(fold["best_epoch"]) for fold in folds]
    # Tuned folds differ in their values: those that gave the median epoch go with it.
    typical = folds[best_epochs.index(median_epoch(best_epochs))]
    recipe = study.training_of(arguments.model, arguments.dataset, typical["training"])
    job = Job(
        model=model,
        dataset=study.datasets[arguments.dataset],
        recipe=recipe,
        network=study.network_of(arguments.model, arguments.dataset),
        seed=study.protocol.seeds[0],
        weights=arguments.weights,
        device=study.compute.device,
        threads=arguments.threads,
    )
    everyone = _everyone(cases)
    nobody = Part(*(array[:0] for array in (everyone.case_ids, everyone.patient_ids, everyone.rows, everyone.targets)))
    trained = run_training(
        job,
        cases,
        (everyone, nobody),
        state_path=Path(arguments.state),
        identity=settings_hash([recipe.model_dump(), best_epochs, cases.sha256.tolist(), arguments.code]),
        features=arguments.features,
        fixed_epochs=median_epoch(best_epochs),
    )
    weights.save_weights(trained.network.network, arguments.best, {"architecture": model.architecture})
    write_text(arguments.history, history_csv(trained.result.history))
    described = {
        "provenance": provenance(
            study=study.study,
            dataset=arguments.dataset,
            model=arguments.model,
            config_hash=study.hash,
            code=arguments.code,
            device=trained.device,
        ),
        "architecture": model.architecture,
        "evaluated": False,
        "reason": REASON,
        "cases": len(everyone),
        "patients": len(np.unique(everyone.patient_ids)),
        "epochs": median_epoch(best_epochs),
        "best_epochs_of_folds": best_epochs,
        "train_seconds": trained.result.seconds,
        "device": trained.device,
        "precision": trained.precision,
        "class_weights": trained.result.class_weights,
        "parameters": building.count_parameters(trained.network),
        "image_size": trained.network.image_size,
        "training": recipe.model_dump(),
    }
    write_json(arguments.settings, described)
    Path(arguments.state).unlink(missing_ok=True)


def _everyone(cases: Cases) -> Part:
    """All cases of which anything is known, sorted by case."""
    order = np.argsort(cases.case_ids)
    order = order[~np.isnan(cases.targets[order]).all(axis=1)]
    names = cases.case_ids[order]
    return Part(names, cases.patient_ids[order], cases.cache.rows(names.tolist()), cases.targets[order])


if __name__ == "__main__":
    run(main)

"""Search hyper-parameters of one model on the validation part of one fold; several workers may share a search.

python scripts/tune.py --study study.yaml --dataset eyes --model resnet18 --fold 0 --storage search.db --worker 0 …
python scripts/tune.py … --storage search.db --result fold0.json --figure fold0.png     once the workers are done
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from archbench.artifacts import provenance, write_json
from archbench.cases import Cases, read_cases
from archbench.command_line import label_progress, learning_parser, run
from archbench.config import Study, load_study, settings_hash
from archbench.recipe_checks import metric_mode, recipe_values


def main(argv: list[str] | None = None) -> int:
    """Parse, then search as one worker or write the account of a search."""
    arguments = _parse(argv)
    label_progress(f"tune {arguments.dataset}/{arguments.model} fold {arguments.fold}")
    study = load_study(arguments.study)
    cases = read_cases(
        arguments.manifest,
        arguments.folds,
        arguments.cache,
        prompts=arguments.prompts,
        jitter=study.jitter_of(arguments.model),
    )
    if arguments.result:
        _summarize(study, cases, arguments)
    else:
        _search(study, cases, arguments)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = learning_parser(__doc__)
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--storage", required=True, type=Path, help="SQLite file of the search")
    parser.add_argument("--worker", type=int, default=0, help="number of this worker")
    parser.add_argument("--done", help="file to write when this worker finds the budget used up")
    parser.add_argument("--result", type=Path, help="account of the search to write (JSON)")
    parser.add_argument("--figure", type=Path, help="best-of-n curve to write (PNG)")
    return parser.parse_args(argv)


def _search(study: Study, cases: Cases, arguments: argparse.Namespace) -> None:
    from archbench.tuning import search

    tuning = study.tuning
    assert tuning is not None, "the study has no section 'tuning'"
    recipe = study.training_of(arguments.model, arguments.dataset)
    search(
        _objective(study, cases, arguments),
        tuning=tuning,
        storage=arguments.storage,
        name=_name(study, cases, arguments),
        worker=arguments.worker,
        maximize=metric_mode(str(recipe.early_stopping.metric)) == "max",
        defaults=recipe_values(recipe, tuning),
    )
    write_json(arguments.done, {"worker": arguments.worker})


def _objective(study: Study, cases: Cases, arguments: argparse.Namespace) -> Any:
    """A function that trains with some values on the training part and rates them on the validation part."""
    from archbench.starting import Job
    from archbench.training_epoch import TrainingError
    from archbench.training_run import run_training
    from archbench.tuning import Diverged

    parts = (cases.part(arguments.fold, "train"), cases.part(arguments.fold, "val"))
    name = _name(study, cases, arguments)

    def objective(overrides: dict[str, Any], report: Any, number: int) -> float:
        recipe = study.training_of(arguments.model, arguments.dataset, overrides)
        metric = f"val_{recipe.early_stopping.metric}"
        job = Job(
            model=study.models[arguments.model],
            dataset=study.datasets[arguments.dataset],
            recipe=recipe,
            network=study.network_of(arguments.model, arguments.dataset),
            seed=study.protocol.seeds[0],
            weights=arguments.weights,
            device=study.compute.device,
            threads=arguments.threads,
        )

        def on_epoch(history: list[dict[str, Any]]) -> None:
            if history[-1][metric] is not None:
                report(len(history), float(history[-1][metric]))

        identity = f"{name}-{number}"
        state = arguments.storage.with_name(f"{arguments.storage.stem}.trial{number}.pt")
        try:
            trained = run_training(
                job, cases, parts, state_path=state, identity=identity, features=arguments.features, on_epoch=on_epoch
            )
        except (TrainingError, FloatingPointError) as error:
            raise Diverged(str(error)) from None
        finally:
            state.unlink(missing_ok=True)
        return float(trained.result.best_value or 0.0)

    return objective


def _name(study: Study, cases: Cases, arguments: argparse.Namespace) -> str:
    """Name of the search by all that decides its outcome."""
    assert study.tuning is not None
    parts = [cases.part(arguments.fold, split).case_ids.tolist() for split in ("train", "val")]
    return settings_hash(
        [
            study.models[arguments.model].model_dump(),
            study.training_of(arguments.model, arguments.dataset).model_dump(),
            study.tuning.model_dump(exclude={"trials", "timeout_min", "workers", "apply"}),
            [parts, cases.sha256.tolist(), cases.targets.tolist()],
            arguments.code,
        ]
    )


def _summarize(study: Study, cases: Cases, arguments: argparse.Namespace) -> None:
    from archbench.tuning import draw_curve, summarize

    assert study.tuning is not None
    metric = str(study.training_of(arguments.model, arguments.dataset).early_stopping.metric)
    summary = summarize(
        storage=arguments.storage,
        name=_name(study, cases, arguments),
        maximize=metric_mode(metric) == "max",
        metric=metric,
        budget=study.tuning.trials,
    )
    draw_curve(summary, arguments.figure, title=f"{arguments.model}, fold {arguments.fold}")
    origin = provenance(
        study=study.study,
        dataset=arguments.dataset,
        model=arguments.model,
        config_hash=study.hash,
        code=arguments.code,
        device="cpu",
    )
    write_json(arguments.result, {"provenance": origin, "fold": arguments.fold, **summary})


if __name__ == "__main__":
    run(main)

"""Hyper-parameter search: trainings that workers share through one SQLite file, and what they bought."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from archbench.settings import SearchRange, Tuning

# Called with the values to try, a report of (epoch, value) and the trial's number; returns the best value.
Objective = Callable[[dict[str, Any], Callable[[int, float], None], int], float]


class Pruned(Exception):
    """A training is broken off since it lags behind the others."""


class Diverged(Exception):
    """The values tried gave no usable network; it counts as a trial of the budget."""


def search(
    objective: Objective,
    *,
    tuning: Tuning,
    storage: Path,
    name: str,
    worker: int,
    maximize: bool,
    defaults: Mapping[str, Any] | None,
) -> None:
    """Try values until the budget of trials is used up, together with the other workers.

    The first trial has the recipe's own values if the space allows it, so that what the search bought shows in
    the result. A worker that was interrupted goes on: its unfinished trial is given back to the budget.

    Args:
        objective: Trains once.
        storage: SQLite file shared by the workers.
        name: Name of the search in it; other data, settings or code have another name.
        defaults: The recipe's own value of each key; None where the space leaves one of them out.
    """
    import optuna
    from filelock import FileLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(storage.with_suffix(".lock"))
    started = time.monotonic()
    with lock:
        study = _open(tuning, storage, name, maximize, worker)
        _give_back(study, worker)
        if not study.trials and defaults is not None:
            study.enqueue_trial(dict(defaults), user_attrs={"untuned": True})
    while tuning.timeout_min is None or time.monotonic() - started < 60 * tuning.timeout_min:
        with lock:
            if len(counted(study.get_trials(deepcopy=False))) >= tuning.trials:
                return
            trial = study.ask()
            trial.set_user_attr("worker", worker)
            values = {key: suggest(trial, key, space) for key, space in tuning.space.items()}
        _run_trial(study, trial, objective, values)


def _open(tuning: Tuning, storage: Path, name: str, maximize: bool, worker: int) -> optuna.Study:
    import optuna

    study = optuna.create_study(
        storage=f"sqlite:///{storage}",
        study_name=name,
        direction="maximize" if maximize else "minimize",
        load_if_exists=True,
        pruner=_pruner(tuning),
    )
    # A worker that goes on must not draw the same values again.
    seed = tuning.seed + 1000 * worker + len(study.trials)
    samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, constant_liar=tuning.workers > 1),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
    }
    study.sampler = samplers[tuning.sampler]()
    return study


def _pruner(tuning: Tuning) -> optuna.pruners.BasePruner:
    import optuna

    kinds: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
        "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
        "none": optuna.pruners.NopPruner,
    }
    return kinds[tuning.pruner]()


def _give_back(study: optuna.Study, worker: int) -> None:
    """Fail the trial that this worker was at when it was interrupted."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if trial.user_attrs.get("worker") == worker:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _run_trial(study: optuna.Study, trial: optuna.Trial, objective: Objective, values: dict[str, Any]) -> None:
    import optuna

    def report(epoch: int, value: float) -> None:
        trial.report(value, epoch)
        if trial.should_prune():
            raise Pruned

    try:
        study.tell(trial, objective(nested(values), report, trial.number))
    except Pruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except Diverged as error:
        trial.set_user_attr("diverged", str(error))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)


def counted(trials: Sequence[Any]) -> list[Any]:
    """Return the trials that use up the budget: all but interrupted and waiting ones."""
    states = ("COMPLETE", "PRUNED", "RUNNING")
    return [t for t in trials if t.state.name in states or "diverged" in t.user_attrs]


def suggest(trial: Any, key: str, space: SearchRange) -> Any:
    """Return the value that a trial tries for a key."""
    if space.choices is not None:
        return trial.suggest_categorical(key, space.choices)
    if isinstance(space.low, int) and isinstance(space.high, int):
        return trial.suggest_int(key, space.low, space.high, log=space.log)
    return trial.suggest_float(key, space.low, space.high, log=space.log)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"asl": {"clip": .1}} of {"asl.clip": .1}."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        block = result
        for part in parents:
            block = block.setdefault(part, {})
        block[last] = value
    return result


def summarize(*, storage: Path, name: str, maximize: bool, metric: str, budget: int) -> dict[str, Any]:
    """Return the account of a search: best values as training overrides, every trial, the best-of-n curve.

    Raises:
        RuntimeError: If no trial has finished.
    """
    import optuna

    study = optuna.load_study(study_name=name, storage=f"sqlite:///{storage}")
    trials = counted(study.get_trials(deepcopy=False))
    values = [t.value if t.state.name == "COMPLETE" else None for t in trials]
    if not any(value is not None for value in values):
        raise RuntimeError("no trial of the search has finished: look into its log, or narrow tuning.space")
    best = study.best_trial
    curve = best_of_n(values, maximize=maximize)
    return {
        "metric": metric,
        "maximize": maximize,
        "budget": budget,
        "trials_run": len(trials),
        "untuned_value": values[0] if "untuned" in trials[0].user_attrs else None,
        "best_value": best.value,
        "best_trial": best.number,
        "training": nested(best.params),
        "best_of_n": curve,
        "trials": [
            {"number": t.number, "state": t.state.name.lower(), "value": v, "values": t.params, **t.user_attrs}
            for t, v in zip(trials, values, strict=True)
        ],
    }


def best_of_n(values: Sequence[float | None], *, maximize: bool) -> list[float | None]:
    """Return the best value among the first n trials, for n = 1, 2, …; null before the first finished one."""
    best: float | None = None
    curve = []
    for value in values:
        if value is not None and (best is None or (value > best if maximize else value < best)):
            best = value
        curve.append(best)
    return curve


def draw_curve(summary: Mapping[str, Any], path: Path, *, title: str) -> None:
    """Write a picture of the best-of-n curve with the single trials and the untuned value."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    n = range(1, len(summary["best_of_n"]) + 1)
    points = [(k, t["value"]) for k, t in zip(n, summary["trials"], strict=True) if t["value"] is not None]
    axes.plot(*zip(*points, strict=True), "o", color="#999999", markersize=3, label="trial")
    known = [(k, value) for k, value in zip(n, summary["best_of_n"], strict=True) if value is not None]
    axes.step(*zip(*known, strict=True), where="post", color="#0072B2", label="best of the first n")
    if summary["untuned_value"] is not None:
        axes.axhline(summary["untuned_value"], color="#D55E00", linestyle="--", label="untuned")
    axes.set(xlabel="trials", ylabel=f"validation {summary['metric']}", title=title)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)

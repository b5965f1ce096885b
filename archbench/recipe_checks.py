"""What is wrong with a training recipe of a study file, or with a space that is searched for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from archbench.recipe_effects import Use
from archbench.registry import LOSSES, METRICS, suggest
from archbench.settings import Training, Tuning
from archbench.study_blocks import describe, merge, plain, unknown_name, valid_block
from archbench.tasks import TASKS

COUNTED = ("dice", "iou", "sensitivity", "specificity")  # of masks those that an epoch is validated by


def training_problems(place: str, defaults: Any, overrides: Mapping[str, Any], tasks: list[str]) -> list[str]:
    """Return what is wrong with the defaults and a model's own keys put together, for each task that they train."""
    base = defaults if isinstance(defaults, Mapping) else {}
    try:
        training = Training.model_validate(plain(merge(dict(base), overrides)))
    except ValidationError as error:
        own = [item for item in error.errors() if item["loc"] and item["loc"][0] in overrides]
        return [describe(item, within=tuple(place.split(".")), block=Training) for item in own]
    return (
        [f"{place}.{text}" for text in loss_problems(training, tasks)]
        + [f"{place}.{text}" for text in freezing_problems(training)]
        + [f"{place}.{text}" for text in drawing_problems(training, tasks)]
        + _early_stopping_problems(place, training, tasks)
    )


def loss_problems(training: Training, tasks: list[str]) -> list[str]:
    """Return why a loss can't train the tasks."""
    if training.loss is None:
        return []
    if training.loss not in LOSSES.names():
        return [f"loss: {unknown_name(LOSSES, training.loss)}"]
    problems = []
    for task in tasks:
        fitting = losses_of(task)
        if training.loss not in fitting:
            problems.append(f"loss: '{training.loss}' doesn't fit the task {task} (fitting: {', '.join(fitting)})")
    return problems


def losses_of(task: str) -> list[str]:
    """Return the names of the losses that can train a task."""
    entry = TASKS[task]
    ordered = entry.decision == "expected_grade"
    return [name for name in LOSSES.names() if LOSSES.get(name).fits(entry.outputs, ordered=ordered)]


def freezing_problems(training: Training) -> list[str]:
    """Return which keys of freezing contradict each other."""
    problems = []
    if training.freeze == "backbone" and training.freeze_epochs:
        problems.append("freeze_epochs: has no effect beside freeze: backbone, which is for good; remove one of them")
    if training.freeze == "backbone" and training.unfreeze == "progressive":
        problems.append("unfreeze: has no effect beside freeze: backbone, which is for good; remove one of them")
    elif training.unfreeze == "progressive" and not training.freeze_epochs:
        problems.append("unfreeze: progressive needs freeze_epochs of at least 1, else nothing is frozen at first")
    if training.freeze_epochs >= training.epochs:
        problems.append(
            f"freeze_epochs: {training.freeze_epochs} leaves none of {training.epochs} epochs to the backbone"
        )
    return problems


def drawing_problems(training: Training, tasks: list[str]) -> list[str]:
    """Return why samples can't be drawn or mixed like this for a task."""
    problems = []
    for task in tasks:
        outputs = TASKS[task].outputs
        if training.sampler == "balanced" and outputs == "value":
            problems.append(f"sampler: balanced needs classes or labels, which the task {task} has not")
        if training.cutmix and outputs == "masks":
            problems.append(f"cutmix: would paste over masks of the task {task}; use mixup")
        if training.cutmix and outputs == "zones":
            problems.append(f"cutmix: would paste over zones of the task {task}, whose places count; use mixup")
    return problems


def _early_stopping_problems(place: str, training: Training, tasks: list[str]) -> list[str]:
    stopping, problems = training.early_stopping, []
    for task in tasks:
        metric = stopping.metric or TASKS[task].primary
        known = [*(COUNTED if TASKS[task].outputs == "masks" else TASKS[task].metrics), "loss"]
        if metric not in known:
            problems.append(
                f"{place}.early_stopping.metric: unknown metric '{metric}' for task {task}{suggest(metric, known)}"
                f" (known: {', '.join(known)})"
            )
        elif stopping.mode not in (None, metric_mode(metric)):
            problems.append(f"{place}.early_stopping.mode: {metric} improves towards its {metric_mode(metric)}")
    return problems


def metric_mode(metric: str) -> str:
    """Return "max" or "min": the direction in which a metric improves."""
    return "max" if metric != "loss" and METRICS.get(metric).greater_is_better else "min"


def recipe_values(recipe: Training, tuning: Tuning) -> dict[str, Any] | None:
    """Return a recipe's own value of each searched key, None if the space leaves one of them out."""
    values = {}
    for key, space in tuning.space.items():
        value: Any = recipe
        for part in key.split("."):
            value = getattr(value, part)
        inside = value in space.choices if space.choices is not None else _between(space.low, value, space.high)
        if not inside:
            return None
        values[key] = value
    return values


def _between(low: Any, value: Any, high: Any) -> bool:
    return value is not None and low <= value <= high


def tuning_problems(content: Any, defaults: Any) -> list[str]:
    """Problems of the search space: every value that it may try must be legal in the recipe."""
    tuning = valid_block(content, Tuning)
    if tuning is None:
        return []
    problems = []
    for key, space in tuning.space.items():
        place = f"tuning.space.{key}"
        ends = space.choices if space.choices is not None else [space.low, space.high]
        if None in ends or not ends:
            problems.append(f"{place}: give low and high, or choices")
        elif space.choices is None and not ends[0] < ends[1]:  # type: ignore[operator]
            problems.append(f"{place}: low {space.low:g} must be below high {space.high:g}")
        elif space.choices is None and space.log and ends[0] <= 0:  # type: ignore[operator]
            problems.append(f"{place}.log: needs a low above 0")
        else:
            found = [_value_problem(place, key, value, defaults) for value in ends]
            problems += list(dict.fromkeys(text for text in found if text))
    return problems


def _value_problem(place: str, key: str, value: Any, defaults: Any) -> str | None:
    override: Any = value
    for part in reversed(key.split(".")):
        override = {part: override}
    base = defaults if isinstance(defaults, Mapping) else {}
    try:
        Training.model_validate(plain(merge(dict(base), override)))
    except ValidationError as error:
        own = [item for item in error.errors() if item["loc"] and item["loc"][0] == key.split(".")[0]]
        return f"{place}: {describe(own[0], block=Training)}" if own else None
    return None


def use_problems(use: Use) -> list[str]:
    """Return what is wrong with a recipe where it is used."""
    problems = [*loss_problems(use.recipe, [use.task]), *freezing_problems(use.recipe)]
    if use.recipe.drop_path and not use.branches:
        problems.append("drop_path: the architecture has no residual branches to drop")
    return problems + drawing_problems(use.recipe, [use.task])

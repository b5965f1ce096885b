"""Which keys of a recipe decide nothing beside its other keys, and which trials a search space holds (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from archbench.registry import LOSSES

if TYPE_CHECKING:
    from archbench.settings import SearchRange, Training

LOSS_KEYS = (
    *("label_smoothing", "focal_gamma", "focal_alpha", "asl.gamma_negative", "asl.gamma_positive", "asl.clip"),
    *("tversky_alpha", "huber_delta", "ungradable_weight"),
)
# Whether the features of a frozen backbone can be cached follows from these.
CACHE_KEYS = ("freeze", "augmentation", "mixup", "cutmix", "clahe_probability", "cache_features")
# What other keys, or the legality of a recipe, depend on.
CONTROLS = (
    *("loss", "optimizer", "schedule", "augmentation", "freeze", "freeze_epochs", "unfreeze", "epochs", "sampler"),
    *("cutmix", "drop_path"),
)
MAX_TRIALS = 2000


@dataclass(frozen=True)
class Use:
    """A recipe where it is used.

    Attributes:
        recipe: With loss and early stopping metric named.
        task, outputs: The task's name, and what its logits are.
        branches: Whether the architecture has residual branches that drop path could drop.
        clahe: Whether there are images after contrast equalisation.
    """

    recipe: Training
    task: str
    outputs: str
    branches: bool
    clahe: bool


Condition = Callable[[Use], bool]


def _loss_takes(key: str) -> Condition:
    return lambda use: bool(LOSSES.get(str(use.recipe.loss)).depends_on(key, use.outputs))


def _is(key: str, *values: Any) -> Condition:
    return lambda use: getattr(use.recipe, key) in values


def _never(_: Use) -> bool:
    return False


SPEED_KEYS = ("cache_features", "channels_last", "compile", "gradient_checkpointing", "eval_batch_size")
SPEED = "it changes time and memory, not what is learned"
# Key of `training`: when it decides something, and what to say where it doesn't. Other keys always do.
CONDITIONS: dict[str, tuple[Condition, str]] = {
    **{key: (_loss_takes(key), "the loss doesn't look at it") for key in LOSS_KEYS},
    "momentum": (_is("optimizer", "sgd"), "it needs optimizer: sgd"),
    "layer_decay": (_is("freeze", "none"), "with freeze: backbone there is one stage alone"),
    "step_epochs": (_is("schedule", "step", "plateau"), "it needs schedule: step or plateau"),
    "step_factor": (_is("schedule", "step", "plateau"), "it needs schedule: step or plateau"),
    "min_lr_ratio": (_is("schedule", "cosine", "plateau"), "it needs schedule: cosine or plateau"),
    "unfreeze": (lambda use: use.recipe.freeze_epochs > 0, "it needs freeze_epochs of at least 1"),
    "unfreeze_every": (_is("unfreeze", "progressive"), "it needs unfreeze: progressive"),
    "drop_path": (
        lambda use: use.branches and use.recipe.freeze == "none",
        "it needs residual branches, and a backbone that trains",
    ),
    "flips": (_is("augmentation", "light", "strong"), "it needs augmentation: light or strong"),
    "dropout": (lambda use: use.outputs != "masks", "segmentation networks have no such layer"),
    "clahe_probability": (lambda use: use.clahe, "it needs preprocessing.clahe"),
}
# Keys that may stand in a recipe, but that a search has no reason to try.
UNSEARCHED: dict[str, tuple[Condition, str]] = {
    "preset": (_never, "it only stands for other keys while a study file is read"),
    "early_stopping.mode": (_never, "it follows from the metric"),
    **dict.fromkeys(SPEED_KEYS, (_never, SPEED)),
}


def idle_reason(key: str, use: Use, *, searched: bool = False) -> str:
    """Return why a key of `training` (asl.clip for nested ones) decides nothing in a recipe; empty if it does.

    Args:
        searched: Whether a search would try values of it.
    """
    condition, reason = (CONDITIONS | UNSEARCHED if searched else CONDITIONS).get(key, (None, ""))
    return "" if condition is None or condition(use) else reason


def idle_problems(common: Mapping[str, Any], own: Mapping[str, tuple[Mapping[str, Any], list[Use]]]) -> list[str]:
    """Return the keys of recipes that have a value of their own and no effect.

    Args:
        common: Keys of `training` (asl.clip for nested ones) that differ from their defaults.
        own: Those of each model's `training`, and the places where the model is trained.
    """
    found = []
    for name, (keys, uses) in own.items():
        reasons = {key: [idle_reason(key, use) for use in uses] for key in keys}
        idle = {key: told[0] for key, told in reasons.items() if told and all(told)}
        found += [f"models.{name}.training.{key}: has no effect: {why}; remove it" for key, why in idle.items()]
    for key in common:
        told = [idle_reason(key, use) for keys, uses in own.values() if key not in keys for use in uses]
        if told and all(told):
            found.append(f"training.{key}: has no effect in any model: {told[0]}; remove it")
    return found


def trials(space: Mapping[str, SearchRange]) -> Iterator[dict[str, Any]]:
    """Return the combinations of those searched keys that others depend on, at their choices or ends."""
    keys = [key for key in CONTROLS if key in space]
    values: list[list[Any]] = [space[key].choices or [space[key].low, space[key].high] for key in keys]
    return islice((dict(zip(keys, row, strict=True)) for row in product(*values)), MAX_TRIALS)


def search_problems(
    space: Mapping[str, SearchRange], uses: Mapping[str, Use], problems_of: Callable[[Use], list[str]]
) -> list[str]:
    """Return the trials that no recipe may have, and the keys that decide nothing in any trial of a model.

    Args:
        uses: The recipe of each model, by the place to name in a message.
        problems_of: What is wrong with a recipe in its place.
    """
    found: list[str] = []
    for place, use in uses.items():
        values = list(trials(space))
        tried = [replace(use, recipe=use.recipe.model_copy(update=value)) for value in values]
        for value, trial in zip(values, tried, strict=True):
            named = ", ".join(f"{key}: {chosen}" for key, chosen in value.items())
            found += [f"tuning.space: a trial of {place} with {named}: {text}" for text in problems_of(trial)[:1]]
        found += [
            f"tuning.space.{key}: decides nothing in {place}: {idle_reason(key, use, searched=True)}; remove it"
            for key in space
            if all(idle_reason(key, trial, searched=True) for trial in tried)
        ]
        found += _incomparable(space, use)
    return list(dict.fromkeys(found))


def _incomparable(space: Mapping[str, SearchRange], use: Use) -> list[str]:
    """Return the keys by which trials would be rated by different measures."""
    metric = use.recipe.early_stopping.metric
    keys = [key for key in space if metric == "loss" and key in ("loss", *LOSS_KEYS)]
    found = [
        f"tuning.space.{key}: changes the validation loss that trials are compared by; choose another "
        "training.early_stopping.metric than loss"
        for key in keys
    ]
    if "early_stopping.metric" in space:
        found.append("tuning.space.early_stopping.metric: trials must be compared by one metric; remove it")
    return found

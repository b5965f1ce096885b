"""Study configuration: the only reader of YAML. All errors of a file are reported at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from archbench.dataset_checks import dataset_problems, protocol_problems
from archbench.model_checks import common_drop_path_problems, model_problems, package_problems, volume_problems
from archbench.prompt_checks import prompt_problems, with_published
from archbench.recipe_checks import training_problems, tuning_problems, use_problems
from archbench.recipe_effects import CACHE_KEYS, Use, idle_problems, search_problems
from archbench.registry import ARCHITECTURES, DATASETS, suggest
from archbench.section_checks import (
    bundle_problems,
    data_root_problems,
    ensemble_problems,
    external_table,
    inference_problems,
    segmentation_problems,
    threshold_problems,
)
from archbench.settings import Dataset, Model, Prompt, StudyFile, Training
from archbench.study_blocks import architecture_of, describe, merge, plain, valid_blocks
from archbench.tasks import TASKS, UNGRADABLE

ENVIRONMENT_PREFIX = "ARCHBENCH_"


class ConfigError(ValueError):
    """A study file that can't be run; the message lists every problem with its place and remedy."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.problems = problems
        lines = "\n".join(f"  - {problem}" for problem in problems)
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        super().__init__(f"{source}: {count} in the study configuration\n{lines}")


class Study(StudyFile):
    """A checked study file: what the rules and scripts work from."""

    @cached_property
    def hash(self) -> str:
        """Hash of the whole configuration."""
        return settings_hash(self.model_dump())

    def image_size(self, model: str) -> int:
        """Side of the input of a model, pixels."""
        entry = self.models[model]
        return int(entry.image_size or ARCHITECTURES.get(entry.architecture).image_size)

    def network_of(self, model: str, dataset: str) -> dict[str, Any]:
        """What decides the shape of a model's network on a dataset and its input: arguments of `build_network`."""
        entry, preprocessing = self.models[model], self.datasets[dataset].preprocessing
        volume = self._volume_of(model, dataset)
        return {
            "architecture": entry.architecture,
            "image_size": self.image_size(model),
            "normalization": preprocessing.normalization,
            "head": entry.head,
            "head_hidden": entry.head_hidden,
            "attention": entry.attention,
            "in_channels": 1 if preprocessing.channels == "gray" else 3,
            **({} if volume is None else {"volume": volume}),
        }

    def _volume_of(self, model: str, dataset: str) -> dict[str, Any] | None:
        """What decides the shape of a network of volumes beside; None where a dataset holds images."""
        entry, volumes = self.models[model], self.datasets[dataset].volumes
        if volumes is None:
            return None
        return {
            "hu_window": list(volumes.hu_window),
            "slices": volumes.slices.depth,
            "pooling": entry.volume_pooling,
            "slice_input": entry.slice_input,
        }

    def prompt_of(self, model: str) -> Prompt | None:
        """The prompts of a prompted model; None of any other."""
        entry = self.models[model]
        prompted = bool(ARCHITECTURES.get(entry.architecture).prompted)
        return (entry.prompt or Prompt()) if prompted else None

    def jitter_of(self, model: str) -> float:
        """How far the prompts of a model are moved in training, see `Prompt`; 0 where there are none."""
        prompt = self.prompt_of(model)
        return 0.0 if prompt is None else prompt.jitter

    def training_of(self, model: str, dataset: str, tuned: Mapping[str, Any] | None = None) -> Training:
        """The recipe of a model on a dataset: defaults, its own overrides, the task's loss and metric.

        Args:
            tuned: Values that a hyper-parameter search has found; they come last.
        """
        merged = merge(merge(self.training.model_dump(), self.models[model].training), tuned or {})
        task = TASKS[self.datasets[dataset].task]
        merged["loss"] = merged["loss"] or task.default_loss
        if merged["flips"] == "auto":
            merged["flips"] = "none" if task.laterality else "both"
        merged["early_stopping"]["metric"] = merged["early_stopping"]["metric"] or task.primary
        return Training.model_validate(merged)

    def caches_features(self, model: str, dataset: str) -> bool:
        """Whether the head of a model trains on cached features: a frozen backbone whose images never change."""
        recipe, preprocessing = self.training_of(model, dataset), self.datasets[dataset].preprocessing
        same_images = recipe.augmentation == "none" and not recipe.mixup and not recipe.cutmix
        same_images = same_images and (preprocessing.clahe is None or recipe.clahe_probability == 0)
        searched = self.tuning is not None and any(key in self.tuning.space for key in CACHE_KEYS)
        same_images = same_images and not searched
        same_images = same_images and self.datasets[dataset].task != "segmentation"  # its head reads maps
        entry = self.models[model]
        started = entry.weights != "none"  # random weights differ from seed to seed
        started = started and entry.attention == "none"  # it trains, before the last layer
        return recipe.cache_features and recipe.freeze == "backbone" and same_images and started

    def class_names(self, dataset: str) -> tuple[str, ...]:
        """Class names of a dataset; of zones the last one is ungradable, which is trained but never scored."""
        entry = self.datasets[dataset]
        return (*entry.classes, UNGRADABLE) if entry.task == "zones" else tuple(entry.classes)

    def label_names(self, dataset: str) -> tuple[str, ...]:
        """Label or zone names of a dataset of several, in order; empty where the reader names the one label."""
        entry = self.datasets[dataset]
        fixed = tuple(DATASETS.get(entry.format).labels)
        if fixed:
            return tuple(entry.labels) or fixed
        if entry.segmentation is not None:
            return tuple(entry.segmentation.structures)
        label = entry.columns.label if entry.columns is not None else "label"
        return tuple(label) if isinstance(label, list) else ()

    def logit_names(self, dataset: str) -> tuple[str, ...]:
        """Names of the logit columns of a dataset's prediction tables, in order; empty where one value is predicted."""
        entry = self.datasets[dataset]
        return TASKS[entry.task].logit_names(self.class_names(dataset), self.label_names(dataset))

    def ensemble_members(self) -> list[str]:
        """Models of this study that the ensemble combines."""
        return list(self.models) if self.ensemble.members is None else list(self.ensemble.members)

    def external_members(self, dataset: str) -> dict[str, str]:
        """Prediction table of each ensemble member that comes from another study."""
        return {name: external_table(path, name, dataset) for name, path in self.ensemble.external.items()}

    def fold_numbers(self, dataset: str) -> list[int]:
        """Folds of a dataset: a holdout or given split is fold 0, a given fold column has protocol.folds."""
        columns = self.datasets[dataset].columns
        given_folds = self.protocol.kind == "given" and columns is not None and columns.fold is not None
        many = self.protocol.kind == "cross_validation" or given_folds
        return list(range(self.protocol.folds)) if many else [0]


def settings_hash(settings: Any) -> str:
    """Hash of plain settings, independent of key order."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML or JSON file into a mapping; a bad one raises ConfigError with the line."""
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text) if Path(path).suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(str(path), ["no such file"]) from None
    except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"not valid: {error}"]) from None
    if not isinstance(content, dict):
        raise ConfigError(str(path), ["a study file is a mapping of keys"])
    return content


def load_study(path: str | Path) -> Study:
    """Read and check a study file (YAML, or the resolved JSON that the workflow hands to its jobs)."""
    here = Path(path).suffix != ".json"
    return parse_study(read_yaml(path), source=str(path), check_files=here, check_packages=here)


def parse_study(
    content: Mapping[str, Any],
    *,
    source: str = "study configuration",
    environment: Mapping[str, str] | None = None,
    check_files: bool = True,
    check_packages: bool = True,
) -> Study:
    """Check a mapping and return the study.

    Args:
        environment: Variables ARCHBENCH_<SECTION>__<KEY>=<YAML value> override single keys.
        check_files: Also look whether the files that the study names exist.
        check_packages: Also look whether the optional packages that its models need are installed here; a run in
            containers has its own.
    Raises:
        ConfigError: With every problem found.
    """
    problems: list[str] = []
    content = merge(dict(content), _from_environment(environment or {}, problems))
    content = with_published(_with_presets(_with_volumes(content)))
    study = _validate(content, problems)
    problems += _semantic_problems(content, check_files=check_files)
    if study is not None and not problems:
        problems += _effect_problems(study)
    if check_packages:
        problems += package_problems(valid_blocks(content.get("models"), Model))
    if problems or study is None:
        raise ConfigError(source, problems)
    return study


def _from_environment(environment: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    import yaml

    overrides: dict[str, Any] = {}
    for name in sorted(n for n in environment if n.startswith(ENVIRONMENT_PREFIX)):
        path = name[len(ENVIRONMENT_PREFIX) :].lower().split("__")
        if path[0] not in StudyFile.model_fields:
            problems.append(f"{name}: no section '{path[0]}'{suggest(path[0], list(StudyFile.model_fields))}")
            continue
        try:
            block: Any = yaml.safe_load(environment[name])
        except yaml.YAMLError as error:
            problems.append(f"{name}: not valid YAML: {' '.join(str(error).split())}")
            continue
        for key in reversed(path):
            block = {key: block}
        overrides = merge(overrides, block)
    return overrides


def _with_volumes(content: dict[str, Any]) -> dict[str, Any]:
    """Write the block `volumes` into the datasets whose format reads volumes and that don't name it."""
    datasets = content.get("datasets")
    unnamed = [
        name
        for name, dataset in (datasets.items() if isinstance(datasets, Mapping) else ())
        if isinstance(dataset, Mapping) and dataset.get("volumes") is None
        if dataset.get("format") in DATASETS.names() and DATASETS.get(str(dataset["format"])).volumes
    ]
    return merge(content, {"datasets": {name: {"volumes": {}} for name in unnamed}}) if unnamed else content


def _with_presets(content: dict[str, Any]) -> dict[str, Any]:
    """Write the presets of the architectures into the models' own recipes where `training.preset` asks for them.

    What `training` or the model names itself stays as it is; doing it twice changes nothing.
    """
    common = content.get("training")
    common = common if isinstance(common, Mapping) else {}
    models = content.get("models")
    filled: dict[str, Any] = {}
    for name, model in models.items() if isinstance(models, Mapping) else ():
        own = model.get("training", {}) if isinstance(model, Mapping) else None
        if not isinstance(own, Mapping) or own.get("preset", common.get("preset")) is not True:
            continue
        architecture = architecture_of(model.get("architecture"))
        if architecture is not None and model.get("checkpoint") is None:
            unnamed = _without(architecture.preset.training(), common)
            filled[name] = {"training": merge(unnamed, own)}
    return merge(content, {"models": filled}) if filled else content


def _without(keys: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that are not named, of nested mappings too."""
    left: dict[str, Any] = {}
    for key, value in keys.items():
        other = named.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            left |= {key: inner} if (inner := _without(value, other)) else {}
        elif key not in named:
            left[key] = value
    return left


def _validate(content: Mapping[str, Any], problems: list[str]) -> Study | None:
    try:
        return Study.model_validate(plain(content))
    except ValidationError as error:
        problems += [describe(item) for item in error.errors()]
        return None


def _semantic_problems(content: Mapping[str, Any], *, check_files: bool) -> list[str]:
    """Problems between keys and with the outside, looked for in every block that is valid by itself."""
    problems: list[str] = []
    datasets = valid_blocks(content.get("datasets"), Dataset)
    models = valid_blocks(content.get("models"), Model)
    for name, dataset in datasets.items():
        problems += [f"datasets.{name}.{text}" for text in dataset_problems(dataset, check_files)]
    tasks = sorted({dataset.task for dataset in datasets.values() if dataset.task in TASKS})
    defaults = training_problems("training", content.get("training"), {}, tasks)
    problems += defaults
    for name, model in models.items():
        problems += [f"models.{name}{text}" for text in model_problems(name, model, check_files)]
        problems += common_drop_path_problems(name, model, content.get("training"))
        place = f"models.{name}.training"
        own = training_problems(place, content.get("training"), model.training, tasks)
        problems += [text for text in own if text.replace(place, "training", 1) not in defaults]
    problems += volume_problems(models, datasets, content.get("training"))
    problems += protocol_problems(content.get("protocol"), datasets)
    problems += threshold_problems(content.get("evaluation"))
    problems += inference_problems(content.get("inference"))
    if content.get("tuning") is not None:
        problems += tuning_problems(content["tuning"], content.get("training"))
    problems += ensemble_problems(content, list(datasets), check_files)
    final = content.get("final")
    chosen = (final.get("models") if isinstance(final, Mapping) else None) or []
    known = [name for name, model in models.items() if model.checkpoint is None]
    problems += [
        f"final.models: no trained model '{name}'{suggest(str(name), known)}" for name in chosen if name not in known
    ]
    problems += bundle_problems(content, list(datasets), list(models))
    problems += segmentation_problems(content, datasets, models)
    problems += prompt_problems(content, models, check_files)
    return problems + (data_root_problems(content.get("compute")) if check_files else [])


def _effect_problems(study: Study) -> list[str]:
    """Keys that decide nothing, in the recipes and in the search space; trials that no recipe may have."""
    uses = {name: _uses(study, name) for name, model in study.models.items() if model.checkpoint is None}
    own = {name: (_own_values(study.models[name].training), list(found.values())) for name, found in uses.items()}
    problems = idle_problems(_own_values(study.training.model_dump()), own)
    if study.tuning is not None and not problems:
        places = {place: use for found in uses.values() for place, use in found.items()}
        problems += search_problems(study.tuning.space, places, use_problems)
    return problems


def _uses(study: Study, name: str) -> dict[str, Use]:
    """Return the recipe of a model on every dataset, by the place to name in a message."""
    return {
        f"models.{name}" + (f" on {dataset}" if len(study.datasets) > 1 else ""): Use(
            recipe=study.training_of(name, dataset),
            task=entry.task,
            outputs=TASKS[entry.task].outputs,
            branches=bool(ARCHITECTURES.get(study.models[name].architecture).drop_path),
            clahe=entry.preprocessing.clahe is not None,
        )
        for dataset, entry in study.datasets.items()
    }


def _own_values(training: Mapping[str, Any], *, defaults: Any = None, within: str = "") -> dict[str, Any]:
    """Return the keys of a recipe (asl.clip for nested ones) whose values are not the defaults."""
    defaults = Training().model_dump() if defaults is None else defaults
    values: dict[str, Any] = {}
    for key, value in training.items():
        if isinstance(value, Mapping):
            values |= _own_values(value, defaults=defaults[key], within=f"{within}{key}.")
        elif value != defaults[key]:
            values[within + key] = value
    return values

"""Study configuration: the only reader of YAML. All errors of a file are reported at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

from archbench import hub
from archbench.recipe_effects import CACHE_KEYS, Use, idle_problems, search_problems
from archbench.registry import ARCHITECTURES, DATASETS, LOSSES, METRICS, suggest
from archbench.settings import (
    Compute,
    Dataset,
    Ensemble,
    Evaluation,
    Inference,
    Model,
    StackingNetwork,
    StudyFile,
    Training,
    Tuning,
)
from archbench.tasks import TASKS, UNGRADABLE

RESERVED_MODEL_NAMES = ("ensemble", "data")
ENVIRONMENT_PREFIX = "ARCHBENCH_"
WEIGHT_SOURCES = ("none", "imagenet", "hub", "package")
FETCHED = ("imagenet", "hub")  # from the net, unless they are already here


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
        return {
            "architecture": entry.architecture,
            "image_size": self.image_size(model),
            "normalization": preprocessing.normalization,
            "head": entry.head,
            "head_hidden": entry.head_hidden,
            "attention": entry.attention,
            "in_channels": 1 if preprocessing.channels == "gray" else 3,
        }

    def training_of(self, model: str, dataset: str, tuned: Mapping[str, Any] | None = None) -> Training:
        """The recipe of a model on a dataset: defaults, its own overrides, the task's loss and metric.

        Args:
            tuned: Values that a hyper-parameter search has found; they come last.
        """
        merged = _merge(_merge(self.training.model_dump(), self.models[model].training), tuned or {})
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


def external_table(path: str, name: str, dataset: str) -> str:
    """Return the prediction table that a path means: itself, that of a model's folder, or of a study's model."""
    if path.endswith(".parquet"):
        return path
    of_model = Path(path, "predictions.parquet")
    return (of_model if of_model.exists() else Path(path, dataset, name, "predictions.parquet")).as_posix()


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
    content = _merge(dict(content), _from_environment(environment or {}, problems))
    content = _with_presets(content)
    study = _validate(content, problems)
    problems += _semantic_problems(content, check_files=check_files)
    if study is not None and not problems:
        problems += _effect_problems(study)
    if check_packages:
        problems += _package_problems(_valid_blocks(content.get("models"), Model))
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
        overrides = _merge(overrides, block)
    return overrides


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
        architecture = _architecture(model.get("architecture"))
        if architecture is not None and model.get("checkpoint") is None:
            unnamed = _without(architecture.preset.training(), common)
            filled[name] = {"training": _merge(unnamed, own)}
    return _merge(content, {"models": filled}) if filled else content


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


def _architecture(name: Any) -> Any:
    try:
        return ARCHITECTURES.get(name) if isinstance(name, str) else None
    except ValueError:
        return None  # reported with the model


def _merge(base: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(dict(merged[key]), value) if both else value
    return merged


def _validate(content: Mapping[str, Any], problems: list[str]) -> Study | None:
    try:
        return Study.model_validate(_plain(content))
    except ValidationError as error:
        problems += [_describe(item) for item in error.errors()]
        return None


def _plain(value: Any) -> Any:
    """Mappings as dicts; whole numbers stay usable where a float is wanted, `1e-4` becomes a number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _describe(item: Any, *, within: tuple[str, ...] = (), block: type[BaseModel] = StudyFile) -> str:
    """Return one problem with its place; `within` is where the checked block stands in the file."""
    place = ".".join(str(part) for part in (*within, *item["loc"]) if part != "[key]")
    if item["type"] == "extra_forbidden":
        *parents, key = item["loc"]
        known = _known_keys(parents, block)
        return f"{place}: unknown key{suggest(str(key), known)} (known: {', '.join(known)})"
    if item["type"] == "missing":
        return f"{place}: this key is needed"
    got = item.get("input")
    hint = _number_hint(got) if isinstance(got, str) and _is_number(got) else ""
    return f"{place}: {item['msg']}, got {got!r}{hint}"


def _number_hint(text: str) -> str:
    return " (YAML reads 1e-4 as text: write 1.0e-4)" if "e" in text.lower() else " (write it without quotes)"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _known_keys(parents: list[Any], root: type[BaseModel]) -> list[str]:
    block: Any = root
    in_map = False  # then the next part is a name of the user's, which may be spelt like a key
    for part in parents:
        field = None if in_map else getattr(block, "model_fields", {}).get(part)
        in_map = field is not None and get_origin(field.annotation) is dict
        if field is not None:
            block = _block_of(field.annotation)
    return list(getattr(block, "model_fields", {}))


def _block_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _block_of(part)
        if found is not None:
            return found
    return None


def _semantic_problems(content: Mapping[str, Any], *, check_files: bool) -> list[str]:
    """Problems between keys and with the outside, looked for in every block that is valid by itself."""
    problems: list[str] = []
    datasets = _valid_blocks(content.get("datasets"), Dataset)
    models = _valid_blocks(content.get("models"), Model)
    for name, dataset in datasets.items():
        problems += [f"datasets.{name}.{text}" for text in _dataset_problems(dataset, check_files)]
    tasks = sorted({dataset.task for dataset in datasets.values() if dataset.task in TASKS})
    defaults = _training_problems("training", content.get("training"), {}, tasks)
    problems += defaults
    for name, model in models.items():
        problems += [f"models.{name}{text}" for text in _model_problems(name, model, check_files)]
        problems += _common_drop_path_problems(name, model, content.get("training"))
        place = f"models.{name}.training"
        own = _training_problems(place, content.get("training"), model.training, tasks)
        problems += [text for text in own if text.replace(place, "training", 1) not in defaults]
    problems += _protocol_problems(content.get("protocol"), datasets)
    problems += _threshold_problems(content.get("evaluation"))
    problems += _inference_problems(content.get("inference"))
    if content.get("tuning") is not None:
        problems += _tuning_problems(content["tuning"], content.get("training"))
    problems += _ensemble_problems(content, list(datasets), check_files)
    final = content.get("final")
    chosen = (final.get("models") if isinstance(final, Mapping) else None) or []
    known = [name for name, model in models.items() if model.checkpoint is None]
    problems += [
        f"final.models: no trained model '{name}'{suggest(str(name), known)}" for name in chosen if name not in known
    ]
    problems += _bundle_problems(content, list(datasets), list(models))
    return problems + (_data_root_problems(content.get("compute")) if check_files else [])


def _bundle_problems(content: Mapping[str, Any], datasets: list[str], models: list[str]) -> list[str]:
    """Models and datasets of `bundle` that the study doesn't have; there is no ensemble of one model."""
    chosen = content.get("bundle")
    if not isinstance(chosen, Mapping):
        return []
    ensemble = content.get("ensemble")
    none = len(models) < 2 or (isinstance(ensemble, Mapping) and ensemble.get("candidates") == [])
    known = {"models": models if none else [*models, "ensemble"], "datasets": datasets}
    return [
        f"bundle.{key}: no {key[:-1]} '{name}'{suggest(str(name), names)} (known: {', '.join(names)})"
        for key, names in known.items()
        for name in chosen.get(key) or []
        if name not in names
    ]


def _ensemble_problems(content: Mapping[str, Any], datasets: list[str], check_files: bool) -> list[str]:
    try:
        ensemble = Ensemble.model_validate(_plain(content.get("ensemble") or {}))
    except ValidationError:
        return []  # reported by _validate
    entries = content.get("models")
    models = [str(name) for name in entries] if isinstance(entries, Mapping) else []
    members = models if ensemble.members is None else ensemble.members
    problems = [f"members: no model '{name}'{suggest(name, models)}" for name in members if name not in models]
    problems += [f"{key}: repeated {names}" for key, names in _repeated(ensemble).items() if names]
    for name, path in ensemble.external.items():
        if name in models or name in RESERVED_MODEL_NAMES:
            problems.append(f"external.{name}: the name is taken in this study; choose another")
        tables = [external_table(path, name, dataset) for dataset in datasets] if check_files else []
        problems += [
            f"external.{name}: no prediction table '{table}'; name a predictions.parquet, a model's folder, or a "
            "study's folder that holds <dataset>/<name>"
            for table in dict.fromkeys(tables)
            if not Path(table).is_file()
        ]
    if ensemble.members is not None and ensemble.candidates and len({*members, *ensemble.external}) < 2:
        problems.append("members: an ensemble needs two; name another, or candidates: [] for none")
    if ensemble.members == []:
        problems.append("members: at least one model of this study is needed beside external ones")
    if "mlp" not in ensemble.candidates and ensemble.mlp != StackingNetwork():
        problems.append("mlp: has no effect without the candidate mlp; add it, or remove this")
    return [f"ensemble.{text}" for text in problems]


def _repeated(ensemble: Ensemble) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {"members": ensemble.members or [], "candidates": [*ensemble.candidates]}
    return {key: sorted({name for name in names if names.count(name) > 1}) for key, names in lists.items()}


def _inference_problems(inference: Any) -> list[str]:
    try:
        settings = Inference.model_validate(_plain(inference or {}))
    except ValidationError:
        return []  # reported by _validate
    problems = []
    if "onnxruntime" not in settings.runtimes:
        problems.append("inference.runtimes: onnxruntime is missing, which the others are compared with; add it")
    if "prepared" not in settings.regimes:
        problems.append("inference.regimes: prepared is missing, which the latency is taken from; add it")
    if "tensorrt" in settings.runtimes and "cuda" not in settings.devices:
        problems.append("inference.runtimes: tensorrt needs cuda in inference.devices; add it, or remove tensorrt")
    for key in ("batch_sizes", "precisions", "runtimes", "devices", "regimes"):
        values = getattr(settings, key)
        repeated = sorted({str(value) for value in values if values.count(value) > 1})
        problems += [f"inference.{key}: {value} is repeated; name it once" for value in repeated]
    return problems


def _data_root_problems(compute: Any) -> list[str]:
    try:
        roots = Compute.model_validate(_plain(compute or {})).data_roots
    except ValidationError:
        return []  # reported by _validate
    missing = [root for root in roots if not Path(root).is_dir()]
    return [f"compute.data_roots: no folder '{root}' (from {Path.cwd()}); correct or remove it" for root in missing]


def _valid_blocks(blocks: Any, kind: type[Any]) -> dict[str, Any]:
    valid: dict[str, Any] = {}
    for name, block in blocks.items() if isinstance(blocks, Mapping) else ():
        try:
            valid[str(name)] = kind.model_validate(_plain(block))
        except ValidationError:
            continue  # reported by _validate
    return valid


def _dataset_problems(dataset: Dataset, check_files: bool) -> list[str]:
    problems = []
    known = dataset.format in DATASETS.names()
    if not known:
        problems.append(f"format: {_unknown(DATASETS, dataset.format)}")
    if dataset.task not in TASKS:
        problems.append(f"task: unknown task '{dataset.task}' (known: {', '.join(TASKS)})")
    repeated = sorted({name for name in dataset.classes if dataset.classes.count(name) > 1})
    if repeated:
        problems.append(f"classes: repeated {repeated}")
    if known and dataset.task in TASKS:
        problems += _task_problems(dataset)
    if known and DATASETS.get(dataset.format).drawn:
        unused = [key for key in ("csv", "root", "images", "columns", "delimiter", "encoding") if getattr(dataset, key)]
        problems += [f"{key}: has no effect with format {dataset.format}; remove it" for key in unused]
        if dataset.phantom is not None and dataset.format != "phantom_chest":
            useless = [key for key in ("confounder", "label_noise") if getattr(dataset.phantom, key)]
            problems += [f"phantom.{key}: has no effect with format {dataset.format}; remove it" for key in useless]
        return problems
    if dataset.phantom is not None and known:
        problems.append(f"phantom: has no effect with format {dataset.format}; remove it")
    if dataset.columns is not None and known and dataset.format != "table":
        problems.append(f"columns: has no effect with format {dataset.format}, whose columns are fixed; remove it")
    if dataset.images is not None and known and dataset.format not in ("aptos", "eyepacs", "csi_zones"):
        problems.append(f"images: has no effect with format {dataset.format}; paths stand in the table")
    if dataset.root is None or dataset.csv is None:
        return [*problems, "root and csv: both are needed: the data folder and the table inside it"]
    return problems + (_file_problems(dataset) if check_files else [])


def _task_problems(dataset: Dataset) -> list[str]:
    """Keys that the task or the format needs or has no use for."""
    task, reader = TASKS[dataset.task], DATASETS.get(dataset.format)
    problems = []
    if reader.tasks and task.name not in reader.tasks:
        problems.append(f"task: format {dataset.format} is for {' or '.join(reader.tasks)}")
    if task.outputs in ("classes", "zones") and len(dataset.classes) < 2:
        problems.append(f"classes: task {task.name} needs at least two class names")
    elif task.outputs in ("classes", "zones") and reader.n_classes and len(dataset.classes) != reader.n_classes:
        problems.append(f"classes: format {dataset.format} has {reader.n_classes} grades, so name as many classes")
    if task.outputs in ("labels", "value") and dataset.classes:
        problems.append(f"classes: has no effect with task {task.name}; remove it")
    if UNGRADABLE in dataset.classes:
        problems.append(f"classes: '{UNGRADABLE}' is no grade; blank zones are ungradable by themselves")
    several = dataset.columns is not None and isinstance(dataset.columns.label, list)
    if dataset.format == "table" and task.outputs in ("labels", "zones") and not several:
        problems.append(f"columns.label: task {task.name} needs a list of columns")
    if several and task.outputs in ("classes", "value"):
        problems.append(f"columns.label: task {task.name} takes one column, not a list")
    if dataset.missing_label == "mask" and task.outputs not in ("labels", "zones"):
        problems.append(f"missing_label: mask has no meaning with the one label of task {task.name}; use drop")
    return problems + _unused_label_keys(dataset, reader.labels)


def _is_set(dataset: Dataset, key: str) -> bool:
    """Whether a key has another value than its default (a resolved study names every key)."""
    return bool(getattr(dataset, key) != type(dataset).model_fields[key].get_default(call_default_factory=True))


def _unused_label_keys(dataset: Dataset, labels: tuple[str, ...]) -> list[str]:
    problems = [
        f"labels: '{name}' is none of {', '.join(labels)}" for name in dataset.labels if labels and name not in labels
    ]
    chexpert = dataset.format == "chexpert"
    useless = {
        "labels": bool(dataset.labels) and not chexpert,
        "label_values": _is_set(dataset, "label_values") and not chexpert,
        "view": _is_set(dataset, "view") and not chexpert,
        "masks": dataset.masks is not None and dataset.format != "csi_zones",
    }
    problems += [
        f"{key}: has no effect here (format {dataset.format}); remove it" for key, unused in useless.items() if unused
    ]
    if dataset.masks is None and dataset.preprocessing.mask_focus != "none" and dataset.format != "phantom_zones":
        problems.append("preprocessing.mask_focus: there are no masks; set `masks`, or remove it")
    policies = {**dataset.label_values.uncertain, **dataset.label_values.blank}
    chosen = dataset.labels or list(labels)
    if chexpert:
        problems += [
            f"label_values: '{name}' is no label that is used{suggest(name, chosen)}"
            for name in policies
            if name not in (*chosen, "default")
        ]
    return problems


def _file_problems(dataset: Dataset) -> list[str]:
    root = Path(str(dataset.root))
    if not root.is_dir():
        return [f"root: no folder '{root}' (from {Path.cwd()}); correct the path or fetch the data"]
    if not (root / str(dataset.csv)).is_file():
        return [f"csv: no file '{root / str(dataset.csv)}'"]
    return []


def _model_problems(name: str, model: Model, check_files: bool) -> list[str]:
    problems = []
    if name in RESERVED_MODEL_NAMES:
        problems.append(f": the name '{name}' is taken by the product; choose another")
    try:
        architecture = ARCHITECTURES.get(model.architecture)
    except ValueError as error:
        return [*problems, f".architecture: {error}"]
    size = model.image_size or architecture.image_size
    problems += [f".image_size: {text}" for text in architecture.size_problems(size)]
    if model.attention != "none" and not architecture.attention:
        problems.append(f".attention: {model.architecture} pools no feature map that {model.attention} could weigh")
    if model.training.get("drop_path") and not architecture.drop_path:
        problems.append(f".training.drop_path: {model.architecture} has no residual branches to drop; set it to 0")
    if model.checkpoint is None:
        problems += [f".weights: {text}" for text in _weight_problems(model, architecture, check_files)]
    if model.checkpoint is not None and check_files and not Path(model.checkpoint).is_file():
        problems.append(f".checkpoint: no file '{model.checkpoint}'")
    if model.checkpoint is not None and model.weights != "none":
        problems.append(".weights: has no effect beside checkpoint; remove one of them")
    if model.checkpoint is not None and model.training:
        problems.append(".training: has no effect beside checkpoint; remove one of them")
    return problems


def _package_problems(models: Mapping[str, Model]) -> list[str]:
    """Problems of optional packages that are missing here, before any job needs them."""
    problems = []
    for name, model in models.items():
        architecture = _architecture(model.architecture)
        source = model.weights.partition(":")[0]
        fetched = hub.weights_path(model.architecture, source).is_file()
        needed = "none" if fetched or model.checkpoint is not None else source
        found = [] if architecture is None else architecture.package_problems(needed)
        problems += [f"models.{name}.architecture: {model.architecture} {text}" for text in found]
    return problems


def _common_drop_path_problems(name: str, model: Model, common: Any) -> list[str]:
    """Return what is wrong with a `training.drop_path` that a model without residual branches inherits."""
    architecture = _architecture(model.architecture)
    inherited = isinstance(common, Mapping) and common.get("drop_path") and "drop_path" not in model.training
    if not inherited or architecture is None or architecture.drop_path or model.checkpoint is not None:
        return []
    return [
        f"training.drop_path: {model.architecture} has no residual branches to drop; set "
        f"models.{name}.training.drop_path: 0.0"
    ]


def _weight_problems(model: Model, architecture: Any, check_files: bool) -> list[str]:
    source = model.weights
    kind, _, place = source.partition(":")
    if kind == "file" and place:
        return [f"no file '{place}'"] if check_files and not Path(place).is_file() else []
    if kind == "package" and place:
        given = architecture.weights.get("package")
        known = given.package if given is not None else "none"
        return [] if place == known else [f"no package '{place}' with weights for this architecture (known: {known})"]
    if source not in WEIGHT_SOURCES:
        return [f"'{source}' is none of {', '.join(WEIGHT_SOURCES)}, package:<name>, file:<path>"]
    problems: list[str] = architecture.weight_problems(source)
    if problems or source not in FETCHED or not check_files or not hub.is_offline():
        return problems
    where = architecture.weights[source]
    repository = where.repository or f"timm/{where.location}"
    if hub.weights_path(model.architecture, source).is_file():
        return []
    if where.repository and where.location:
        lost = None if hub.local_file(repository, where.location) else where.location
    else:
        lost = hub.missing_weights(repository, sharded=where.repository is not None)
    return [hub.missing_file(repository, lost, "HF_HUB_OFFLINE is set") + ", or use file:<path>"] if lost else []


def _training_problems(place: str, defaults: Any, overrides: Mapping[str, Any], tasks: list[str]) -> list[str]:
    base = defaults if isinstance(defaults, Mapping) else {}
    try:
        training = Training.model_validate(_plain(_merge(dict(base), overrides)))
    except ValidationError as error:
        own = [item for item in error.errors() if item["loc"] and item["loc"][0] in overrides]
        return [_describe(item, within=tuple(place.split(".")), block=Training) for item in own]
    return (
        [f"{place}.{text}" for text in _loss_problems(training, tasks)]
        + [f"{place}.{text}" for text in _freezing_problems(training)]
        + [f"{place}.{text}" for text in _drawing_problems(training, tasks)]
        + _early_stopping_problems(place, training, tasks)
    )


def _loss_problems(training: Training, tasks: list[str]) -> list[str]:
    if training.loss is None:
        return []
    if training.loss not in LOSSES.names():
        return [f"loss: {_unknown(LOSSES, training.loss)}"]
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


def _freezing_problems(training: Training) -> list[str]:
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


def _drawing_problems(training: Training, tasks: list[str]) -> list[str]:
    problems = []
    for task in tasks:
        outputs = TASKS[task].outputs
        if training.sampler == "balanced" and outputs == "value":
            problems.append(f"sampler: balanced needs classes or labels, which the task {task} has not")
        if training.cutmix and outputs == "zones":
            problems.append(f"cutmix: would paste over zones of the task {task}, whose places count; use mixup")
    return problems


def _early_stopping_problems(place: str, training: Training, tasks: list[str]) -> list[str]:
    stopping, problems = training.early_stopping, []
    for task in tasks:
        metric = stopping.metric or TASKS[task].primary
        known = [*TASKS[task].metrics, "loss"]
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


def _tuning_problems(content: Any, defaults: Any) -> list[str]:
    """Problems of the search space: every value that it may try must be legal in the recipe."""
    try:
        tuning = Tuning.model_validate(_plain(content))
    except ValidationError:
        return []  # reported by _validate
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
        Training.model_validate(_plain(_merge(dict(base), override)))
    except ValidationError as error:
        own = [item for item in error.errors() if item["loc"] and item["loc"][0] == key.split(".")[0]]
        return f"{place}: {_describe(own[0], block=Training)}" if own else None
    return None


def _effect_problems(study: Study) -> list[str]:
    """Keys that decide nothing, in the recipes and in the search space; trials that no recipe may have."""
    uses = {name: _uses(study, name) for name, model in study.models.items() if model.checkpoint is None}
    own = {name: (_own_values(study.models[name].training), list(found.values())) for name, found in uses.items()}
    problems = idle_problems(_own_values(study.training.model_dump()), own)
    if study.tuning is not None and not problems:
        places = {place: use for found in uses.values() for place, use in found.items()}
        problems += search_problems(study.tuning.space, places, _use_problems)
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


def _use_problems(use: Use) -> list[str]:
    problems = [*_loss_problems(use.recipe, [use.task]), *_freezing_problems(use.recipe)]
    if use.recipe.drop_path and not use.branches:
        problems.append("drop_path: the architecture has no residual branches to drop")
    return problems + _drawing_problems(use.recipe, [use.task])


def _threshold_problems(evaluation: Any) -> list[str]:
    """Problems of the rule that thresholds are chosen by."""
    try:
        thresholds = Evaluation.model_validate(_plain(evaluation or {})).thresholds
    except ValidationError:
        return []  # reported by _validate
    rule, value = thresholds.rule, thresholds.value
    place = "evaluation.thresholds.value"
    if rule in ("f1", "youden"):
        return [] if value is None else [f"{place}: the rule {rule} takes no value; remove it"]
    if value is None:
        meaning = "what a miss costs, in false alarms" if rule == "cost" else f"the {rule} to hold, such as 0.9"
        return [f"{place}: the rule {rule} needs it: {meaning}"]
    if rule != "cost" and value > 1:
        return [f"{place}: {value:g} is no {rule}; it lies above 0 and up to 1"]
    return []


def _protocol_problems(protocol: Any, datasets: Mapping[str, Dataset]) -> list[str]:
    if not isinstance(protocol, Mapping) or protocol.get("kind") != "given":
        return []
    problems = []
    for name, dataset in datasets.items():
        columns = dataset.columns
        if dataset.format == "dr_folds" or (columns is not None and (columns.split or columns.fold)):
            continue
        problems.append(f"protocol.kind: 'given' needs split or fold columns, which datasets.{name} doesn't name")
    return problems


def _unknown(registry: Any, name: str) -> str:
    known = registry.names()
    return f"unknown {registry.kind} '{name}'{suggest(name, known)} (known: {', '.join(known)})"

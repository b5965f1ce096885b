"""What is wrong with a model of a study file: its architecture, size, weights, and the packages it needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archbench import hub
from archbench.registry import ARCHITECTURES
from archbench.settings import Dataset, Model
from archbench.study_blocks import architecture_of

RESERVED_MODEL_NAMES = ("ensemble", "data", "masks")
WEIGHT_SOURCES = ("none", "imagenet", "hub", "package")
FETCHED = ("imagenet", "hub")  # from the net, unless they are already here


def model_problems(name: str, model: Model, check_files: bool) -> list[str]:
    """Return what is wrong with a model, each text with the key it belongs to."""
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
    if architecture.masks:
        own = {"head": model.head != "linear", "attention": model.attention != "none"}
        own["training.dropout"] = bool(model.training.get("dropout"))
        idle = [key for key, is_set in own.items() if is_set]
        problems += [f".{key}: has no effect in a segmentation network; remove it" for key in idle]
    if model.checkpoint is None:
        problems += [f".weights: {text}" for text in _weight_problems(model, architecture, check_files)]
    published = model.checkpoint == hub.weights_path(model.architecture, "hub").as_posix()  # a rule fetches them
    if published:
        problems += [f".checkpoint: {text}" for text in _unfetched(model, architecture, "hub", check_files)]
    elif model.checkpoint is not None and check_files and not Path(model.checkpoint).is_file():
        problems.append(f".checkpoint: no file '{model.checkpoint}'")
    if model.checkpoint is not None and model.weights != "none":
        problems.append(".weights: has no effect beside checkpoint; remove one of them")
    if model.checkpoint is not None and model.training:
        problems.append(".training: has no effect beside checkpoint; remove one of them")
    return problems


def package_problems(models: Mapping[str, Model]) -> list[str]:
    """Problems of optional packages that are missing here, before any job needs them."""
    problems = []
    for name, model in models.items():
        architecture = architecture_of(model.architecture)
        source = model.weights.partition(":")[0]
        fetched = hub.weights_path(model.architecture, source).is_file()
        needed = "none" if fetched or model.checkpoint is not None else source
        found = [] if architecture is None else architecture.package_problems(needed)
        problems += [f"models.{name}.architecture: {model.architecture} {text}" for text in found]
    return problems


def common_drop_path_problems(name: str, model: Model, common: Any) -> list[str]:
    """Return what is wrong with a `training.drop_path` that a model without residual branches inherits."""
    architecture = architecture_of(model.architecture)
    inherited = isinstance(common, Mapping) and common.get("drop_path") and "drop_path" not in model.training
    if not inherited or architecture is None or architecture.drop_path or model.checkpoint is not None:
        return []
    return [
        f"training.drop_path: {model.architecture} has no residual branches to drop; set "
        f"models.{name}.training.drop_path: 0.0"
    ]


VOLUME_KEYS = ("volume_pooling", "slice_input")


def volume_problems(models: Mapping[str, Model], datasets: Mapping[str, Dataset], common: Any) -> list[str]:
    """Return which models can't read the datasets' volumes or images, and which of their keys decide nothing.

    Args:
        common: The block `training`.
    """
    images = [name for name, dataset in datasets.items() if dataset.volumes is None]
    problems = []
    for name, model in models.items():
        architecture = architecture_of(model.architecture)
        if architecture is None or not datasets:
            continue
        whole = architecture.dimensions == 3
        unread = [f"datasets.{dataset}" for dataset in images if architecture.input_problems(volumes=False)]
        if unread:
            problems.append(
                f"models.{name}.architecture: {model.architecture} reads volumes alone, but there are images in "
                f"{', '.join(unread)}; take an architecture of another family"
            )
        idle = f"{model.architecture} reads a volume whole" if whole else "no dataset holds volumes"
        for key in VOLUME_KEYS if whole or len(images) == len(datasets) else ():
            if getattr(model, key) != Model.model_fields[key].default:
                problems.append(f"models.{name}.{key}: has no effect: {idle}; remove it")
        inherited = common if isinstance(common, Mapping) else {}
        if whole and model.training.get("channels_last", inherited.get("channels_last")) is True:
            problems.append(f"models.{name}.training.channels_last: is a layout of images; {idle}; set it to false")
    return problems


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
    return problems or _unfetched(model, architecture, source, check_files)


def _unfetched(model: Model, architecture: Any, source: str, check_files: bool) -> list[str]:
    """Return which file of fetched weights can't be had here."""
    if source not in FETCHED or not check_files or not hub.is_offline():
        return []
    where = architecture.weights[source]
    repository = where.repository or f"timm/{where.location}"
    if hub.weights_path(model.architecture, source).is_file():
        return []
    if where.repository and where.location:
        lost = None if hub.local_file(repository, where.location) else where.location
    else:
        lost = hub.missing_weights(repository, sharded=where.repository is not None)
    return [hub.missing_file(repository, lost, "HF_HUB_OFFLINE is set") + ", or use file:<path>"] if lost else []

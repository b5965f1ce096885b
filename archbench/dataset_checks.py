"""What is wrong with a dataset of a study file, beyond the types of its keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archbench.registry import DATASETS, suggest
from archbench.settings import Dataset, Settings
from archbench.study_blocks import unknown_name
from archbench.tasks import TASKS, UNGRADABLE

TABLE_KEYS = ("csv", "root", "images", "metadata", "columns", "delimiter", "encoding")
PICTURE_KEYS = ("crop_border", "center_crop", "mask_focus", "clahe", "channels", "intensity")


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
        if dataset.phantom is not None and dataset.format != "phantom_chest":
            useless = [key for key in ("confounder", "label_noise") if getattr(dataset.phantom, key)]
            problems += [f"phantom.{key}: has no effect with format {dataset.format}; remove it" for key in useless]
        return problems
    if dataset.phantom is not None and known:
        problems.append(f"phantom: has no effect with format {dataset.format}; remove it")
    if dataset.columns is not None and known and dataset.format != "table":
        problems.append(f"columns: has no effect with format {dataset.format}, whose columns are fixed; remove it")
    if dataset.images is not None and known and dataset.format not in ("aptos", "eyepacs", "csi_zones", "ct_rate"):
        problems.append(f"images: has no effect with format {dataset.format}; paths stand in the table")
    if dataset.metadata is not None and known and dataset.format != "ct_rate":
        problems.append(f"metadata: has no effect with format {dataset.format}; remove it")
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

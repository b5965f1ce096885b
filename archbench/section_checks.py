"""What is wrong with the sections of a study file that follow the training, beyond the types of their keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archbench.model_checks import RESERVED_MODEL_NAMES
from archbench.registry import suggest
from archbench.settings import (
    Bundle,
    Compute,
    Dataset,
    Ensemble,
    Evaluation,
    Explain,
    Inference,
    Model,
    StackingNetwork,
)
from archbench.study_blocks import architecture_of, valid_block

# Sections for pictures with one answer, which masks have not.
UNUSED_BY_MASKS: dict[str, Any] = {"ensemble": Ensemble, "explain": Explain}


def threshold_problems(evaluation: Any) -> list[str]:
    """Problems of the rule that thresholds are chosen by."""
    settings = valid_block(evaluation, Evaluation)
    if settings is None:
        return []
    rule, value = settings.thresholds.rule, settings.thresholds.value
    place = "evaluation.thresholds.value"
    if rule in ("f1", "youden"):
        return [] if value is None else [f"{place}: the rule {rule} takes no value; remove it"]
    if value is None:
        meaning = "what a miss costs, in false alarms" if rule == "cost" else f"the {rule} to hold, such as 0.9"
        return [f"{place}: the rule {rule} needs it: {meaning}"]
    if rule != "cost" and value > 1:
        return [f"{place}: {value:g} is no {rule}; it lies above 0 and up to 1"]
    return []


def inference_problems(inference: Any) -> list[str]:
    """Return what a timing lacks to be compared, and what is named twice."""
    settings = valid_block(inference, Inference)
    if settings is None:
        return []
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


def segmentation_problems(
    content: Mapping[str, Any], datasets: Mapping[str, Dataset], models: Mapping[str, Model]
) -> list[str]:
    """Return what of a study doesn't go with masks: other tasks, networks for pictures, several seeds, idle keys."""
    learned = [name for name, dataset in datasets.items() if dataset.task == "segmentation"]
    problems = []
    for name, model in models.items():
        architecture = architecture_of(model.architecture)
        if architecture is not None and architecture.masks != bool(learned) and datasets:
            fitting = "unet, segformer_b0 or decoder:<timm name>" if learned else "a network that classifies pictures"
            task = "the task segmentation" if learned else "a task without masks"
            problems.append(f"models.{name}.architecture: {model.architecture} doesn't serve {task}; use {fitting}")
    if not learned:
        return problems
    others = [name for name in datasets if name not in learned]
    if others:
        problems.append(f"datasets.{others[0]}.task: masks and other tasks don't share models; make one study of each")
    chosen = valid_block(content.get("bundle"), Bundle)
    if chosen is not None and "ensemble" in (chosen.models or []) and "ensemble" not in models:
        problems.append("bundle.models: masks are not combined into an ensemble; name a model")
    idle = [
        key for key, block in UNUSED_BY_MASKS.items() if valid_block(content.get(key), block) not in (None, block())
    ]
    evaluation = valid_block(content.get("evaluation"), Evaluation) or Evaluation()
    keys = ("clinical_cut", "thresholds", "isotonic", "isotonic_patients", "conformal_coverage")
    idle += [f"evaluation.{key}" for key in keys if getattr(evaluation, key) != getattr(Evaluation(), key)]
    return problems + [f"{key}: has no effect in a study of segmentation; remove it" for key in idle]


def ensemble_problems(content: Mapping[str, Any], datasets: list[str], check_files: bool) -> list[str]:
    """Return why an ensemble can't be made of these members and candidates."""
    ensemble = valid_block(content.get("ensemble"), Ensemble)
    if ensemble is None:
        return []
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


def external_table(path: str, name: str, dataset: str) -> str:
    """Return the prediction table that a path means: itself, that of a model's folder, or of a study's model."""
    if path.endswith(".parquet"):
        return path
    of_model = Path(path, "predictions.parquet")
    return (of_model if of_model.exists() else Path(path, dataset, name, "predictions.parquet")).as_posix()


def _repeated(ensemble: Ensemble) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {"members": ensemble.members or [], "candidates": [*ensemble.candidates]}
    return {key: sorted({name for name in names if names.count(name) > 1}) for key, names in lists.items()}


def bundle_problems(content: Mapping[str, Any], datasets: list[str], models: list[str]) -> list[str]:
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


def data_root_problems(compute: Any) -> list[str]:
    """Return the folders of `compute.data_roots` that are not there."""
    settings = valid_block(compute, Compute)
    roots = [] if settings is None else settings.data_roots
    missing = [root for root in roots if not Path(root).is_dir()]
    return [f"compute.data_roots: no folder '{root}' (from {Path.cwd()}); correct or remove it" for root in missing]

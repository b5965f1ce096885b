"""What is wrong with the prompted models of a study file, and which published weights they are evaluated with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archbench import hub
from archbench.settings import Inference, Model, Prompt, Training
from archbench.study_blocks import architecture_of, merge, valid_block

HUB = "hub"


def with_published(content: dict[str, Any]) -> dict[str, Any]:
    """Write where the published weights are kept for prompted models with `checkpoint: hub`; twice changes nothing."""
    models = content.get("models")
    found: dict[str, Any] = {}
    for name, model in models.items() if isinstance(models, Mapping) else ():
        if isinstance(model, Mapping) and model.get("checkpoint") == HUB:
            architecture = architecture_of(model.get("architecture"))
            if architecture is not None and architecture.prompted:
                found[name] = {"checkpoint": hub.weights_path(model["architecture"], HUB).as_posix()}
    return merge(content, {"models": found}) if found else content


def prompt_problems(content: Mapping[str, Any], models: Mapping[str, Model], check_files: bool) -> list[str]:
    """Return what is wrong with prompts, and with models that take them."""
    problems: list[str] = []
    prompted: list[str] = []
    common = valid_block(content.get("training"), Training)
    for name, model in models.items():
        architecture = architecture_of(model.architecture)
        if architecture is None:
            continue
        if architecture.prompted:
            prompted.append(name)
            problems += [f"models.{name}{text}" for text in _problems(model, common, check_files)]
        elif model.prompt is not None:
            problems.append(f"models.{name}.prompt: {model.architecture} takes no prompt; remove it, or take sam:<…>")
    inference = valid_block(content.get("inference"), Inference)
    runtimes = set() if inference is None else set(inference.runtimes)
    if prompted and len(prompted) == len(models) and runtimes and not {"torch", "torch_compile"} & runtimes:
        problems.append("inference.runtimes: prompted networks are not exported, so none could be timed: add torch")
    return problems


def _problems(model: Model, common: Training | None, check_files: bool) -> list[str]:
    prompt: Prompt = model.prompt or Prompt()
    problems: list[str] = []
    if prompt.csv is not None and check_files and not Path(prompt.csv).is_file():
        problems.append(f".prompt.csv: no file '{prompt.csv}' (from {Path.cwd()})")
    if model.checkpoint is not None:
        if prompt.jitter != Prompt().jitter:
            problems.append(".prompt.jitter: has no effect beside checkpoint: nothing is trained; remove it")
        return problems
    for key in ("mixup", "cutmix"):
        if model.training.get(key, getattr(common, key, 0)):
            problems.append(f".training.{key}: a prompt asks for one image, not for a blend of two; set it to 0.0")
    return problems

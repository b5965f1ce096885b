"""Study files as a whole: every mistake is named with its place and its remedy, all at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from study_contents import GRADES, base, only_problem, parse, problems_of

from archbench.config import ConfigError, load_study

CHECKOUT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize("name", ["ensemble", "data"])
def test_names_of_the_products_own_folders_are_refused(name: str) -> None:
    problem = only_problem(base(**{f"models__{name}": {"architecture": "custom1"}}))
    assert problem == f"models.{name}: the name '{name}' is taken by the product; choose another"


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

    study = parse(base(training__lr=3e-4))
    resolved = tmp_path / "study.json"
    resolved.write_text(json.dumps(study.model_dump(mode="json")), encoding="utf-8")
    assert load_study(resolved).hash == study.hash

"""Recipes and searches of a study file: losses and metrics that fit, freezing, cached features, search spaces."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from study_contents import base, only_problem, parse, problems_of

from archbench.tasks import TASKS


def test_the_task_gives_loss_and_metric_where_none_is_named() -> None:
    study = parse(base(datasets__eyes__task="multiclass"))
    assert study.training_of("small", "drawn").early_stopping.metric == "qwk"
    assert study.training_of("small", "eyes").early_stopping.metric == "auroc_macro"
    assert study.training_of("small", "drawn").loss == "weighted_cross_entropy"


def test_a_bad_default_is_told_once_and_a_bad_override_at_its_model() -> None:
    second = {"architecture": "resnet18"}
    assert only_problem(base(training__loss="fokal", models__second=second)).startswith("training.loss: unknown loss")
    second["training"] = {"loss": "fokal"}  # type: ignore[assignment]
    assert only_problem(base(models__second=second)).startswith("models.second.training.loss: unknown loss")


def test_direction_of_early_stopping_must_agree() -> None:
    problem = only_problem(base(training__early_stopping={"metric": "qwk", "mode": "min"}))
    assert "early_stopping.mode: qwk improves towards its max" in problem


def test_freezing_all_epochs_is_refused() -> None:
    problem = only_problem(base(training={"epochs": 3, "freeze_epochs": 3}))
    assert "freeze_epochs: 3 leaves none of 3 epochs" in problem


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

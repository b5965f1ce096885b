"""What a study file asks of the trained models: thresholds, ensembles, timing, bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from study_contents import base, only_problem, parse

from archbench.config import ConfigError


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

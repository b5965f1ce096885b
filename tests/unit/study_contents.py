"""Contents of study files for the tests of the configuration: one to start from, changed as a test needs."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from archbench.config import ConfigError, Study, parse_study

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


def with_masks(content: dict[str, Any]) -> dict[str, Any]:
    """A study of masks alone has networks for them."""
    content["models"]["small"]["architecture"] = "unet"
    content.pop("ensemble", None)
    return content


def with_prompts(content: dict[str, Any]) -> dict[str, Any]:
    """A study of masks whose network takes prompts."""
    with_masks(content)
    content["models"]["small"]["architecture"] = "sam:facebook/sam-vit-base"
    return content

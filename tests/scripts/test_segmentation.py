"""The front end of segmentation: every flag arrives in the study that it builds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from archbench import front_end
from archbench.config import ConfigError, parse_study
from scripts import segmentation

SAM_BASE = "sam:facebook/sam-vit-base"
BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    made = tmp_path / "data" / "images", tmp_path / "data" / "labels"
    for folder in made:
        folder.mkdir(parents=True)
    return made


def build(folders: tuple[Path, Path], *flags: str) -> dict:
    given = ["--image-dir", str(folders[0]), "--seg-dir", str(folders[1]), *flags]
    study = segmentation.build_study(segmentation.parse_arguments(given))
    parse_study(study, check_packages=False)
    return study


def test_folders_are_put_below_their_common_root(folders: tuple[Path, Path]) -> None:
    dataset = build(folders)["datasets"]["masks"]
    assert (dataset["root"], dataset["images"], dataset["masks"]) == (str(folders[0].parent), "images", "labels")
    assert dataset["segmentation"]["structures"] == {"foreground": [2]}


@pytest.mark.parametrize(
    ("flags", "place", "value"),
    [
        (["--foreground", "any"], ("datasets", "masks", "segmentation", "structures"), {"foreground": []}),
        (["--foreground", "1", "3"], ("datasets", "masks", "segmentation", "structures"), {"foreground": [1, 3]}),
        (["--max-cases", "7"], ("datasets", "masks", "segmentation", "max_cases"), 7),
        (["--max-cases", "0"], ("datasets", "masks", "segmentation", "max_cases"), 0),
        (["--image-size", "128"], ("models", "unet", "image_size"), 128),
        (["--epochs", "3"], ("training", "epochs"), 3),
        (["--hf-models", "nvidia/mit-b0"], ("models", "mit-b0", "architecture"), "segformer_b0"),
        (["--hf-models", "decoder:resnet18"], ("models", "decoder-resnet18", "architecture"), "decoder:resnet18"),
        (["--hf-models", "nvidia/mit-b0", "--weights", "none"], ("models", "mit-b0", "weights"), "none"),
        (["--hf-models", "facebook/sam-vit-base"], ("models", "sam-vit-base", "architecture"), SAM_BASE),
        (["--hf-models", "facebook/sam-vit-huge"], ("models", "sam-vit-huge", "checkpoint"), "hub"),
        (
            ["--hf-models", "facebook/sam-vit-base", "--tune-decoder"],
            ("models", "sam-vit-base"),
            {"architecture": SAM_BASE, "weights": "hub", "training": {"freeze": "backbone"}},
        ),
        (["--hf-models", "sam:facebook/sam-vit-large"], ("models", "sam-vit-large", "checkpoint"), "hub"),
        (
            ["--hf-models", BIOMEDCLIP],
            ("models", BIOMEDCLIP.partition("/")[2]),
            {"architecture": "decoder:biomedclip", "weights": "hub"},
        ),
        (
            ["--hf-models", "microsoft/swinv2-base-patch4-window12-192-22k", "--image-size", "192"],
            ("models", "swinv2-base-patch4-window12-192-22k"),
            {"architecture": "decoder:swinv2_base_window12_192.ms_in22k", "weights": "imagenet", "image_size": 192},
        ),
    ],
)
def test_every_flag_arrives(
    folders: tuple[Path, Path], flags: list[str], place: tuple[str, ...], value: object
) -> None:
    found = build(folders, *flags)
    for key in place:
        found = found[key]
    assert found == value


def test_any_other_encoder_of_the_hub_takes_the_light_decoder(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)  # its files lie where they were put by hand
    place = tmp_path / "results/cache/huggingface/some--encoder"
    place.mkdir(parents=True)
    config = {"model_type": "vit", "num_channels": 3, "image_size": 64, "patch_size": 16, "hidden_size": 32}
    (place / "config.json").write_text(json.dumps(config))
    (place / "model.safetensors").touch()
    found = build(folders, "--hf-models", "some/encoder")["models"]
    assert found == {"encoder": {"architecture": "decoder:hf:some/encoder", "weights": "hub"}}


def test_given_prompts_reach_every_sam_and_no_other(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("case,structure,x0,y0,x1,y1\n")
    models = build(folders, "--hf-models", "facebook/sam-vit-base", "unet", "--prompts", str(tmp_path / "boxes.csv"))[
        "models"
    ]
    assert models["sam-vit-base"]["prompt"] == {"kind": "box", "csv": str(tmp_path / "boxes.csv")}
    assert models["unet"] == {"architecture": "unet"}


def test_given_weights_are_evaluated_not_trained(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").touch()
    flags = ["--model-path", str(tmp_path / "w.safetensors"), "--architecture", "decoder:resnet18"]
    assert build(folders, *flags)["models"] == {
        "given": {"architecture": "decoder:resnet18", "checkpoint": str(tmp_path / "w.safetensors")}
    }


def test_flags_override_the_configuration(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base = {
        "study": "mine",
        "datasets": {"d": {"format": "phantom_masks", "task": "segmentation", "phantom": {"patients": 30}}},
        "models": {"u": {"architecture": "unet", "image_size": 96}},
        "training": {"epochs": 9},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(base))
    kept = segmentation.build_study(segmentation.parse_arguments(["--config", str(tmp_path / "s.yaml")]))
    assert kept == base
    study = build(folders, "--config", str(tmp_path / "s.yaml"), "--epochs", "2", "--foreground", "1")
    assert study["training"]["epochs"] == 2 and study["datasets"]["d"]["format"] == "image_masks"


@pytest.mark.parametrize(
    "flags",
    [
        ["--hf-models", "resnet18"],
        ["--foreground", "0"],
        ["--prompts", "boxes.csv", "--hf-models", "unet"],
        ["--tune-decoder"],
    ],
)
def test_what_means_nothing_is_refused(folders: tuple[Path, Path], flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=flags[0]):
        build(folders, *flags)


def test_the_study_lies_where_the_output_goes_and_is_planned_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real workflow, asked what it would do."""
    base = {
        "study": "mine",
        "datasets": {"d": {"format": "phantom_masks", "task": "segmentation", "phantom": {"patients": 30}}},
        "models": {"u": {"architecture": "unet", "image_size": 96}},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(base))
    given = ["--config", str(tmp_path / "s.yaml"), "--output-dir", str(tmp_path / "out"), "--num-workers", "1"]
    assert segmentation.main([*given, "--hf-models", "unet", "--weights", "none", "--verbose", "--dry-run"]) == 0
    written = json.loads((tmp_path / "out" / "segmentation_study.json").read_text())
    assert written["models"] == {"unet": {"architecture": "unet", "weights": "none"}}
    said = "".join(capfd.readouterr())
    assert "d: masks of unet, all folds" in said and "$SCRIPTS/segment.py --study" in said
    assert not (tmp_path / "results").exists()


def test_verbose_and_workers_reach_snakemake(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[list[str]] = []

    def record(command: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(front_end.subprocess, "run", record)
    given = ["--image-dir", str(folders[0]), "--seg-dir", str(folders[1]), "--verbose", "--num-workers", "2"]
    assert segmentation.main([*given, "--dry-run", "--output-dir", str(tmp_path / "out")]) == 0
    assert "Report:" not in capsys.readouterr().out, "a dry run makes none"
    assert segmentation.main([*given, "--output-dir", str(tmp_path / "out")]) == 0
    assert f"Report: {tmp_path / 'out' / 'results' / 'segmentation' / 'report.html'}" in capsys.readouterr().out
    command = calls[0]
    assert {"--verbose", "--printshellcmds", "--dry-run"} <= set(command)
    assert command[command.index("--cores") + 1] == "2"

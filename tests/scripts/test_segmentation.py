"""The front end of segmentation: every flag arrives in the study that it builds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from archbench.config import ConfigError, parse_study
from scripts import segmentation


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
    ],
)
def test_every_flag_arrives(
    folders: tuple[Path, Path], flags: list[str], place: tuple[str, ...], value: object
) -> None:
    found = build(folders, *flags)
    for key in place:
        found = found[key]
    assert found == value


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
    "flags", [["--hf-models", "facebook/sam-vit-base"], ["--hf-models", "resnet18"], ["--foreground", "0"]]
)
def test_what_means_nothing_is_refused(folders: tuple[Path, Path], flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=flags[0]):
        build(folders, *flags)


def test_verbose_and_workers_reach_snakemake(folders: tuple[Path, Path], tmp_path: Path) -> None:
    given = [
        "--image-dir",
        str(folders[0]),
        "--seg-dir",
        str(folders[1]),
        "--verbose",
        "--num-workers",
        "2",
        "--dry-run",
    ]
    command = segmentation.snakemake_command(tmp_path / "s.json", segmentation.parse_arguments(given))
    assert {"--verbose", "--printshellcmds", "--dry-run"} <= set(command)
    assert command[command.index("--cores") + 1] == "2"

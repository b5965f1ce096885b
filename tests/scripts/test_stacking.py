"""The front end of the stacking of chest X-rays: each flag has its effect, each mistake its message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from archbench import front_end
from archbench.config import ConfigError, parse_study
from scripts import stacking
from scripts.stacking import build_study, parse_arguments


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "chexpert"
    folder.mkdir()
    (folder / "train.csv").write_text("Path\n", encoding="utf-8")
    (folder / "other.csv").write_text("Path\n", encoding="utf-8")
    (folder / "start.pth").write_bytes(b"")
    return folder


def build(data_dir: Path, *flags: str) -> dict[str, Any]:
    return build_study(parse_arguments(["--data-dir", str(data_dir), *flags]))


def test_without_flags_it_is_the_published_recipe(data_dir: Path) -> None:
    study = parse_study(build(data_dir))
    densenet, vit = (study.training_of(name, "chexpert") for name in ("densenet121", "vit_base_patch16"))
    assert (densenet.schedule, densenet.step_factor, densenet.step_epochs) == ("plateau", 0.5, 3)
    assert (vit.schedule, vit.weight_decay, densenet.weight_decay) == ("one_cycle", 1e-2, 1e-4)
    for recipe in (densenet, vit):
        assert (recipe.epochs, recipe.lr, recipe.batch_size, recipe.accumulation_steps) == (10, 1e-4, 16, 2)
        assert (recipe.dropout, recipe.label_smoothing, recipe.grad_clip) == (0.2, 0.1, 1.0)
        assert (recipe.early_stopping.metric, recipe.early_stopping.patience) == ("loss", 5)
    network = study.ensemble.mlp
    assert (network.hidden, network.dropout, network.epochs, network.lr) == ([256, 128], 0.2, 20, 1e-4)
    assert (network.plateau, network.patience) == (3, 7)
    assert study.ensemble.candidates == [
        "mean",
        "calibrated_mean",
        "weighted",
        "greedy",
        "logistic",
        "attention",
        "mlp",
    ]
    assert study.protocol.kind == "cross_validation", "never by image, never on the base models' own training cases"


@pytest.mark.parametrize(
    ("flags", "place", "expected"),
    [
        (["--epochs-densenet", "3"], "models.densenet121.training.epochs", 3),
        (["--epochs-vit", "4"], "models.vit_base_patch16.training.epochs", 4),
        (["--epochs-meta", "5"], "ensemble.mlp.epochs", 5),
        (["--lr-densenet", "0.002"], "models.densenet121.training.lr", 0.002),
        (["--lr-vit", "0.003"], "models.vit_base_patch16.training.lr", 0.003),
        (["--lr-meta", "0.004"], "ensemble.mlp.lr", 0.004),
        (["--batch-size", "7"], "training.batch_size", 7),
        (["--accumulation-steps", "9"], "training.accumulation_steps", 9),
        (["--meta-hidden-dim", "512"], "ensemble.mlp.hidden", [512, 128]),
        (["--candidates", "mean", "mlp"], "ensemble.candidates", ["mean", "mlp"]),
        (["--folds", "3"], "protocol.folds", 3),
        (["--csv", "other.csv"], "datasets.chexpert.csv", "other.csv"),
        (["--weights", "none"], "models.vit_base_patch16.weights", "none"),
        (["--image-size", "96"], "models.densenet121.image_size", 96),
    ],
)
def test_each_flag_arrives_in_the_study(data_dir: Path, flags: list[str], place: str, expected: object) -> None:
    def follow(study: Any) -> Any:
        for part in place.split("."):
            study = study.get(part) if isinstance(study, dict) else getattr(study, part)
        return study

    assert follow(parse_study(build(data_dir, *flags))) == expected
    assert follow(parse_study(build(data_dir))) != expected


def test_paths_count_from_where_it_is_called(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_dir.parent)
    study = build(Path("chexpert"), "--log-dir", "logs_here", "--weights", "file:chexpert/start.pth")
    assert study["datasets"]["chexpert"]["root"] == str(data_dir)
    assert study["compute"]["log_dir"] == str(data_dir.parent / "logs_here")
    assert study["models"]["densenet121"]["weights"] == f"file:{data_dir / 'start.pth'}"


def test_settings_of_a_network_that_is_not_tried_are_refused(data_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"ensemble\.mlp: has no effect without the candidate mlp"):
        parse_study(build(data_dir, "--candidates", "mean", "--lr-meta", "0.01"))


def test_abbreviated_and_missing_flags_are_refused(data_dir: Path) -> None:
    for flags in (["--data-dir", str(data_dir), "--epochs-dense", "3"], ["--epochs-vit", "3"]):
        with pytest.raises(SystemExit):
            parse_arguments(flags)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would have been run; they all end with status 3."""
    made: list[list[str]] = []

    def record(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        made.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(front_end.subprocess, "run", record)
    return made


def test_main_shows_and_saves_the_study_and_runs_it(
    data_dir: Path, tmp_path: Path, calls: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--data-dir", str(data_dir), "--out-dir", str(out), "--epochs-meta", "2", "--num-workers", "4"]
    assert stacking.main([*flags, "--dry-run"]) == 3, "Snakemake's status is the script's"
    (command,) = calls
    assert command[:3] == [sys.executable, "-m", "snakemake"] and "--dry-run" in command
    assert command[command.index("--directory") + 1] == str(out)
    assert command[command.index("--cores") + 1] == "4"
    written = json.loads((out / "stacking_study.json").read_text(encoding="utf-8"))
    assert command[command.index("--configfile") + 1] == str(out / "stacking_study.json")
    assert parse_study(written).ensemble.mlp.epochs == 2
    assert '"epochs": 2' in capsys.readouterr().err


def test_earlier_results_need_resume(data_dir: Path, tmp_path: Path, calls: list[list[str]]) -> None:
    (tmp_path / "out" / "results" / "stacking").mkdir(parents=True)
    flags = ["--data-dir", str(data_dir), "--out-dir", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match="holds results already; pass --resume"):
        stacking.main(flags)
    assert calls == []
    assert stacking.main([*flags, "--resume"]) == 3
    assert "--cores" in calls[0] and calls[0][calls[0].index("--cores") + 1] == "all"

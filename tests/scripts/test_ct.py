"""The front end of CT volumes: each flag has its effect in its mode, each mistake its message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from volume_trees import write_ct_rate

from archbench import front_end
from archbench.config import ConfigError, Study, parse_study
from scripts import ct
from scripts.ct import build_study, checkpoints, parse_arguments


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct_rate")
    write_ct_rate(folder, patients=2, csv_name="multi_abnormality_labels.csv")
    for name, source in (("other.csv", "multi_abnormality_labels.csv"), ("facts.csv", "metadata.csv")):
        (folder / name).write_bytes((folder / source).read_bytes())
    (folder / "start.pth").write_bytes(b"")
    return folder


def build(data_dir: Path, *flags: str) -> Study:
    return parse_study(build_study(parse_arguments(["--data-dir", str(data_dir), *flags])))


def recipe(study: Study) -> Any:
    return study.training_of(next(iter(study.models)), "ct")


def test_without_flags_it_is_the_recipe_of_the_configuration(data_dir: Path) -> None:
    study = build(data_dir)
    found = recipe(study)
    assert (found.loss, found.asl.gamma_negative, found.asl.gamma_positive, found.asl.clip) == ("asl", 4, 1, 0.05)
    assert found.batch_size * found.accumulation_steps == 32
    assert (found.lr, found.epochs, found.dropout, found.weight_decay) == (1e-4, 100, 0.3, 1e-5)
    assert (found.early_stopping.metric, found.early_stopping.patience) == ("auroc_macro", 15)
    assert list(study.models) == ["model"] and study.ensemble.candidates == []
    dataset = study.datasets["ct"]
    assert (dataset.format, dataset.task, len(study.label_names("ct"))) == ("ct_rate", "multilabel", 18)
    assert study.protocol.kind == "cross_validation", "patients never cross, thresholds are fitted on others"


@pytest.mark.parametrize(
    ("flags", "place", "expected"),
    [
        (["--model", "resnet101"], "models.model.architecture", "resnet101"),
        (["--weights", "none"], "models.model.weights", "none"),
        (["--image-size", "96"], "models.model.image_size", 96),
        (["--volume-pooling", "max"], "models.model.volume_pooling", "max"),
        (["--slice-input", "single"], "models.model.slice_input", "single"),
        (["--use-attention", "se"], "models.model.attention", "se"),
        (["--use-attention", "cbam"], "models.model.attention", "cbam"),
        (["--loss-type", "bce"], "recipe.loss", "weighted_bce"),
        (["--loss-type", "focal"], "recipe.loss", "focal"),
        (["--loss-type", "focal", "--focal-alpha", ".25"], "recipe.focal_alpha", 0.25),
        (["--loss-type", "focal", "--focal-gamma", "3"], "recipe.focal_gamma", 3),
        (["--gamma-neg", "3"], "recipe.asl.gamma_negative", 3),
        (["--gamma-pos", "0.5"], "recipe.asl.gamma_positive", 0.5),
        (["--freeze-backbone"], "recipe.freeze", "backbone"),
        (["--progressive-unfreeze"], "recipe.unfreeze", "progressive"),
        (["--progressive-unfreeze"], "recipe.freeze_epochs", 10),
        (["--progressive-unfreeze", "--unfreeze-epoch", "4"], "recipe.freeze_epochs", 4),
        (["--unfreeze-epoch", "4"], "recipe.freeze_epochs", 4),
        (["--use-advanced-aug"], "recipe.augmentation", "strong"),
        (["--use-advanced-aug"], "recipe.cutmix", 1.0),
        (["--batch-size", "24"], "recipe.accumulation_steps", 6),
        (["--batch-size", "7"], "recipe.batch_size", 1),
        (["--learning-rate", "0.002"], "recipe.lr", 0.002),
        (["--epochs", "3"], "recipe.epochs", 3),
        (["--dropout-rate", "0.5"], "recipe.dropout", 0.5),
        (["--weight-decay", "0.01"], "recipe.weight_decay", 0.01),
        (["--early-stopping-patience", "4"], "recipe.early_stopping.patience", 4),
        (["--csv", "other.csv"], "datasets.ct.csv", "other.csv"),
        (["--metadata", "facts.csv"], "datasets.ct.metadata", "facts.csv"),
        (["--metadata", "none"], "datasets.ct.metadata", None),
        (["--images", "elsewhere"], "datasets.ct.images", "elsewhere"),
        (["--labels", "Emphysema", "Lung nodule"], "datasets.ct.labels", ["Emphysema", "Lung nodule"]),
        (["--hu-window", "-160", "240"], "datasets.ct.volumes.hu_window", [-160, 240]),
        (["--spacing", "1.5", ".75", ".75"], "datasets.ct.volumes.spacing", [1.5, 0.75, 0.75]),
        (["--slice-strategy", "best"], "datasets.ct.volumes.slices.strategy", "best"),
        (["--slice-strategy", "all", "--slices", "24"], "datasets.ct.volumes.slices.count", 24),
        (["--folds", "3"], "protocol.folds", 3),
        (["--strategy", "c"], "ensemble.candidates", ["mean", "calibrated_mean", "logistic"]),
    ],
)
def test_each_flag_arrives_in_the_study(data_dir: Path, flags: list[str], place: str, expected: object) -> None:
    def follow(study: Study) -> Any:
        found: Any = {"recipe": recipe(study)} if place.startswith("recipe") else study
        for part in place.split("."):
            found = found.get(part) if isinstance(found, dict) else getattr(found, part)
        return found

    assert follow(build(data_dir, *flags)) == expected
    assert follow(build(data_dir)) != expected


def test_strategies_are_the_ready_ones_and_flags_change_them(data_dir: Path) -> None:
    a, b, c = (build(data_dir, "--strategy", name) for name in "abc")
    assert recipe(a).freeze == "backbone" and recipe(a).batch_size * recipe(a).accumulation_steps == 32
    assert (a.models["strategy_a"].attention, b.models["strategy_b"].attention) == ("se", "cbam")
    found = recipe(b)
    assert (found.unfreeze, found.freeze_epochs, found.epochs, found.lr) == ("progressive", 10, 150, 5e-5)
    assert recipe(b).batch_size * recipe(b).accumulation_steps == 24
    losses = [(entry.architecture, c.training_of(name, "ct").loss) for name, entry in c.models.items()]
    assert losses == [("resnet50", "asl"), ("efficientnet_b0", "focal"), ("resnet101", "asl")]
    assert {c.training_of(name, "ct").epochs for name in c.models} == {100}
    changed = build(data_dir, "--strategy", "c", "--epochs", "2")
    assert {changed.training_of(name, "ct").epochs for name in changed.models} == {2}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gamma-neg", "3", "--loss-type", "bce"], "asl"),
        (["--focal-alpha", ".3"], "focal_alpha"),
        (["--freeze-backbone", "--unfreeze-epoch", "4"], "freeze"),
        (["--slice-strategy", "best", "--slices", "4"], "slices.count: has no effect with strategy best"),
        (["--labels", "Emphysaema"], "'Emphysaema' is none of"),
        (["--csv", "none.csv"], "csv: no file"),
    ],
)
def test_flags_without_effect_are_refused_not_ignored(data_dir: Path, flags: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(data_dir, *flags)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mode", "train"], "--mode train needs --data-dir"),
        (["--mode", "predict", "--input", "x"], "needs --input and --output"),
        (["--mode", "predict", "--input", "x", "--output", "y.txt"], "ends in .json"),
        (["--mode", "evaluate", "--epochs", "3"], "--epochs: no effect"),
        (["--mode", "predict", "--input", "x", "--output", "y.json", "--resume"], "--resume: no effect"),
        (["--data-dir", ".", "--input", "x"], "belong to --mode predict"),
        (["--data-dir", ".", "--strategy", "c", "--model", "resnet18"], "strategy c has its own three"),
        (["--data-dir", ".", "--learning", "1"], "unrecognized arguments"),
    ],
)
def test_what_a_mode_lacks_or_cannot_use_is_said(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(flags)
    assert words in capsys.readouterr().err


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would have been run; they all end with status 0."""
    made: list[list[str]] = []

    def record(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        made.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(front_end.subprocess, "run", record)
    return made


def finish(out: Path) -> None:
    """Put (empty) weights where a training would."""
    for place in checkpoints(parse_study(json.loads((out / "ct_study.json").read_text()))):
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_bytes(b"")


def test_the_modes_run_what_they_say(data_dir: Path, tmp_path: Path, calls: list[list[str]]) -> None:
    out = tmp_path / "out"
    common = ["--data-dir", str(data_dir), "--out-dir", str(out), "--folds", "2", "--num-workers", "3"]
    with pytest.raises(ConfigError, match="no study in"):
        ct.main(["--mode", "evaluate", "--out-dir", str(out)])
    assert ct.main(["--mode", "train", *common]) == 0
    assert calls[0][:3] == [sys.executable, "-m", "snakemake"]
    assert calls[0][-3:] == ["--", *(f"results/ct/ct/model/fold{k}-seed42/best.safetensors" for k in range(2))]
    assert calls[0][calls[0].index("--cores") + 1] == "3"
    with pytest.raises(ConfigError, match="2 networks are not trained yet"):
        ct.main(["--mode", "evaluate", "--out-dir", str(out)])
    finish(out)
    with pytest.raises(ConfigError, match="pass --resume"):
        ct.main(["--mode", "both", *common])
    assert ct.main(["--mode", "evaluate", "--out-dir", str(out), "--dry-run"]) == 0
    assert "--" not in calls[1] and calls[1][-1] == "--dry-run"
    assert ct.main(["--mode", "both", *common, "--resume"]) == 0
    assert "--" not in calls[2]


def test_predict_makes_the_bundle_and_asks_it(
    data_dir: Path, tmp_path: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked = tmp_path / "out", []
    ct.main(["--mode", "train", "--data-dir", str(data_dir), "--out-dir", str(out), "--strategy", "c", "--folds", "2"])
    finish(out)
    monkeypatch.setattr("archbench_predict.command_line.main", lambda argv: asked.append(argv) or 0)
    common = ["--mode", "predict", "--out-dir", str(out), "--input", "scans", "more.mha", "--output"]
    assert ct.main([*common, "challenge.json"]) == 0
    assert calls[-1][-1] == "results/ct/ct/ensemble/bundle-fp32.zip"
    assert asked[0] == [str(out / calls[-1][-1]), "scans", "more.mha", "--out", "challenge.json", "--challenge"]
    assert ct.main([*common, "found.csv", "--bundle", "resnet50_asl"]) == 0
    assert calls[-1][-1] == "results/ct/ct/resnet50_asl/bundle-fp32.zip"
    assert asked[1][-2:] == ["--top", "5"]
    with pytest.raises(ConfigError, match="no model 'vit'"):
        ct.main([*common, "found.csv", "--bundle", "vit"])


def test_paths_count_from_where_it_is_called(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_dir.parent)
    study = build(Path(data_dir.name), "--log-dir", "logs_here", "--weights", f"file:{data_dir.name}/start.pth")
    assert study.datasets["ct"].root == str(data_dir)
    assert study.compute.log_dir == str(data_dir.parent / "logs_here")
    assert study.models["model"].weights == f"file:{data_dir / 'start.pth'}"

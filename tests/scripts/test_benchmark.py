"""The front end of the retinopathy benchmark: each flag has its effect, each mistake its message."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from archbench import front_end
from archbench.config import ConfigError, parse_study
from scripts import benchmark
from scripts.benchmark import build_study, parse_arguments


@pytest.fixture
def fold_csv(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "folds" / "fold_0.csv"
    path.parent.mkdir(parents=True)
    path.write_text("dataset,split,image_path,id_code,patient_id,eye,label,width,height,is_valid\n", encoding="utf-8")
    return path


def build(fold_csv: Path, *flags: str) -> dict[str, Any]:
    return build_study(parse_arguments(["--fold_csv", str(fold_csv), *flags]))


def problems_of(fold_csv: Path, *flags: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(fold_csv, *flags)
    return caught.value.problems


def test_without_flags_it_is_the_published_benchmark(fold_csv: Path) -> None:
    study = parse_study(build(fold_csv))
    assert list(study.models) == ["efficientnet_b2", "efficientnet_b4", "vit_base_patch16"]
    assert {study.image_size(name) for name in study.models} == {384}
    recipe = study.training_of("efficientnet_b4", "dr")
    assert (recipe.loss, recipe.optimizer, recipe.lr, recipe.weight_decay) == (
        "weighted_cross_entropy",
        "adamw",
        1e-4,
        1e-4,
    )
    assert (recipe.schedule, recipe.min_lr_ratio, recipe.epochs, recipe.batch_size) == ("cosine", 0.01, 30, 8)
    assert (recipe.early_stopping.metric, recipe.early_stopping.patience) == ("qwk", 10)
    preprocessing = study.datasets["dr"].preprocessing
    assert (preprocessing.crop_border, preprocessing.clahe, recipe.clahe_probability) == (True, 3.0, 0.7)
    assert (preprocessing.normalization, study.explain.cases) == ("imagenet", 20)
    assert study.protocol.kind == "given" and study.protocol.seeds == [42]


def test_fold_csv_and_image_root(fold_csv: Path) -> None:
    alone = parse_study(build(fold_csv))
    assert (alone.datasets["dr"].root, alone.datasets["dr"].csv) == (str(fold_csv.parent), "fold_0.csv")
    assert alone.study == "benchmark_fold_0" and alone.datasets["dr"].format == "dr_folds"
    below = parse_study(build(fold_csv, "--image_root", str(fold_csv.parents[1])))
    assert (below.datasets["dr"].root, below.datasets["dr"].csv) == (str(fold_csv.parents[1]), "folds/fold_0.csv")


def test_relative_paths_count_from_where_it_is_called(fold_csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fold_csv.parents[1])
    study = build(Path("folds/fold_0.csv"), "--log_dir", "my_logs")
    assert study["datasets"]["dr"]["root"] == str(fold_csv.parent)
    assert study["compute"]["log_dir"] == str(fold_csv.parents[1] / "my_logs")
    started = build(Path("folds/fold_0.csv"), "--weights", "file:start.pth")  # Snakemake runs in --out_dir
    assert started["models"]["efficientnet_b2"]["weights"] == f"file:{fold_csv.parents[1] / 'start.pth'}"


@pytest.mark.parametrize(
    ("flags", "place", "expected"),
    [
        (["--epochs", "3"], ("training", "epochs"), 3),
        (["--batch_size", "5"], ("training", "batch_size"), 5),
        (["--eval_batch_size", "7"], ("training", "eval_batch_size"), 7),
        (["--n_gradcam", "4"], ("explain", "cases"), 4),
        (["--protocol", "cross_validation"], ("protocol", "kind"), "cross_validation"),
        (["--protocol", "holdout"], ("protocol", "kind"), "holdout"),
        (["--image_size", "224"], ("models", "vit_base_patch16", "image_size"), 224),
        (["--weights", "none"], ("models", "efficientnet_b2", "weights"), "none"),
    ],
)
def test_each_flag_arrives_in_the_study(
    fold_csv: Path, flags: list[str], place: tuple[str, ...], expected: object
) -> None:
    def follow(study: Any) -> Any:
        for part in place:
            study = study[part] if isinstance(study, dict) else getattr(study, part)
        return study

    assert follow(parse_study(build(fold_csv, *flags))) == expected
    assert follow(parse_study(build(fold_csv))) != expected


def test_the_base_study_is_read_anew_each_time(fold_csv: Path) -> None:
    build(fold_csv, "--epochs", "3", "--image_size", "64")
    assert parse_study(build(fold_csv)).training.epochs == 30


def test_models_by_name_or_architecture(fold_csv: Path) -> None:
    study = parse_study(build(fold_csv, "--models", "efficientnet_b2", "resnet18", "--weights", "none"))
    assert {name: model.architecture for name, model in study.models.items()} == {
        "efficientnet_b2": "efficientnet_b2",
        "resnet18": "resnet18",
    }
    with pytest.raises(ConfigError, match=r"unknown architecture 'resnet81'; did you mean 'resnet18'"):
        parse_study(build(fold_csv, "--models", "resnet81"))


def test_skip_training_evaluates_the_given_weights(fold_csv: Path, tmp_path: Path) -> None:
    weights = tmp_path / "b4.safetensors"
    weights.write_bytes(b"")
    flags = ["--skip_training", "--checkpoints", f"efficientnet_b4={weights}"]
    study = parse_study(build(fold_csv, *flags))
    assert list(study.models) == ["efficientnet_b4"], "one without weights could only be trained"
    assert study.models["efficientnet_b4"].checkpoint == str(weights)
    assert study.models["efficientnet_b4"].weights == "none"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--skip_training"], "--skip_training and --checkpoints go together: name one file per model"),
        (["--checkpoints", "a=b.pth"], "--skip_training and --checkpoints go together: name one file per model"),
        (["--skip_training", "--checkpoints", "a"], "--checkpoints: 'a' has no file; write MODEL=FILE"),
        (
            ["--skip_training", "--models", "efficientnet_b2", "efficientnet_b4", "--checkpoints", "efficientnet_b2=x"],
            "--checkpoints: none for model 'efficientnet_b4'",
        ),
        (
            ["--skip_training", "--models", "efficientnet_b2", "--checkpoints", "efficientnet_b2=x", "other=y"],
            "--checkpoints: 'other' is not among --models",
        ),
    ],
)
def test_flags_that_dont_go_together(fold_csv: Path, flags: list[str], expected: str) -> None:
    assert expected in problems_of(fold_csv, *flags)


def test_a_csv_outside_the_image_root_is_refused(fold_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert "is not below" in problems_of(fold_csv, "--image_root", str(tmp_path / "elsewhere"))[0]


def test_a_file_name_with_blanks_still_names_a_study(fold_csv: Path) -> None:
    renamed = fold_csv.with_name("my folds (1).csv")
    fold_csv.rename(renamed)
    study = parse_study(build(renamed))
    assert (study.study, study.datasets["dr"].csv) == ("benchmark_my_folds_1_", "my folds (1).csv")


def test_abbreviated_and_missing_flags_are_refused(fold_csv: Path) -> None:
    for flags in (["--fold_csv", str(fold_csv), "--epoch", "3"], ["--epochs", "3"]):
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


def test_main_writes_the_study_and_runs_it(fold_csv: Path, tmp_path: Path, calls: list[list[str]]) -> None:
    out = tmp_path / "out"
    flags = ["--fold_csv", str(fold_csv), "--out_dir", str(out), "--epochs", "2", "--num_workers", "4"]
    assert benchmark.main(flags) == 3, "Snakemake's status is the script's"
    (command,) = calls
    assert command[command.index("--directory") + 1] == str(out)
    assert command[command.index("--cores") + 1] == "4"
    written = json.loads((out / "benchmark_study.json").read_text(encoding="utf-8"))
    assert written["training"]["epochs"] == 2
    assert parse_study(written).study == "benchmark_fold_0"


def test_earlier_results_need_resume(fold_csv: Path, tmp_path: Path, calls: list[list[str]]) -> None:
    finished = tmp_path / "out" / "results" / "benchmark_fold_0"
    finished.mkdir(parents=True)
    flags = ["--fold_csv", str(fold_csv), "--out_dir", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match="holds results already; pass --resume"):
        benchmark.main(flags)
    assert not calls
    assert benchmark.main([*flags, "--resume"]) == 3
    assert len(calls) == 1


def test_mistakes_come_before_anything_is_run(fold_csv: Path, tmp_path: Path, calls: list[list[str]]) -> None:
    out = ["--out_dir", str(tmp_path / "out")]
    for flags in (["--fold_csv", str(fold_csv.with_name("lost.csv"))], ["--fold_csv", str(fold_csv), "--epochs", "0"]):
        with pytest.raises(ConfigError):
            benchmark.main([*flags, *out])
    lost = ["--fold_csv", str(fold_csv), "--skip_training", "--checkpoints", "resnet18=lost.pth"]
    with pytest.raises(ConfigError, match=r"models\.resnet18\.checkpoint: no file '.*lost\.pth'"):
        benchmark.main([*lost, *out])
    assert not calls and not (tmp_path / "out").exists()

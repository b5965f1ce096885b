"""Training, search, feature cache and final model as the rules call them, on a few drawn images."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from archbench.artifacts import read_json, write_json
from archbench.config import ConfigError, parse_study
from archbench.models.building import build_network
from archbench.models.weights import save_weights
from archbench.settings import SearchRange, Tuning
from archbench.tuning import Diverged, best_of_n, counted, search, summarize
from scripts import cache_features, final_model, train, tune

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))
from tiny_cases import CLASSES, SIDE, N, make_cases, write_cases

RECIPE = {"epochs": 2, "batch_size": 8, "loss": "cross_entropy", "lr": 0.01, "early_stopping": {"metric": "loss"}}


class Desk:
    """A folder with data, a study and calls of the scripts."""

    def __init__(self, folder: Path, *, weights: bool = False, **sections: Any) -> None:
        self.folder = folder
        self.files = write_cases(folder)
        model: dict[str, Any] = {"architecture": "custom1", "image_size": SIDE}
        if weights:
            torch.manual_seed(5)
            start = build_network("custom1", num_classes=7, image_size=SIDE)
            save_weights(start.network, folder / "start.safetensors", {})
            model["weights"] = f"file:{folder / 'start.safetensors'}"
        content = {
            "study": "desk",
            "datasets": {"eyes": {"format": "table", "root": "data", "csv": "t.csv", "classes": list(CLASSES)}},
            "models": {"small": model},
            **sections,
            "training": {**RECIPE, **sections.get("training", {})},
        }
        self.study = parse_study(content, check_files=False)
        write_json(folder / "study.json", self.study.model_dump())
        self.start = ["--weights", str(folder / "start.safetensors")] if weights else []

    def call(self, script: Any, *arguments: str) -> None:
        common = ["--study", "study.json", "--dataset", "eyes", "--model", "small", "--code", "c"]
        files = [f"--{name}={path}" for name, path in self.files.items()]
        common[1] = str(self.folder / "study.json")
        assert script.main([*common, *files, *self.start, *arguments]) == 0

    def train(self, name: str, *arguments: str, fold: int = 0, seed: int = 3) -> Path:
        out = self.folder / name
        self.call(
            train, "--fold", str(fold), "--seed", str(seed), "--state", str(out / "state.pt"), "--best",
            str(out / "best.safetensors"), "--history", str(out / "history.csv"), "--settings",
            str(out / "settings.json"), *arguments,
        )  # fmt: skip
        return out


def history(folder: Path) -> np.ndarray:
    """Epoch, losses and rate, without clock times."""
    rows = (folder / "history.csv").read_text().splitlines()[1:]
    return np.array([[float(cell) for cell in row.split(",")[:4]] for row in rows])


FROZEN = {"freeze": "backbone", "augmentation": "none", "epochs": 4, "dropout": 0.3}


def test_cached_features_give_the_same_numbers(tmp_path: Path) -> None:
    desk = Desk(tmp_path, weights=True, training=FROZEN)
    assert desk.study.caches_features("small", "eyes")
    pointer = tmp_path / "features.json"
    desk.call(cache_features, "--cache-dir", str(tmp_path / "shared"), "--output", str(pointer))
    for fold, seed in ((0, 3), (1, 4)):
        whole = desk.train(f"whole{fold}", fold=fold, seed=seed)
        cached = desk.train(f"cached{fold}", "--features", str(pointer), fold=fold, seed=seed)
        np.testing.assert_allclose(history(cached), history(whole), rtol=1e-5, atol=1e-5)
        one, other = load_file(whole / "best.safetensors"), load_file(cached / "best.safetensors")
        assert set(one) == set(other)
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-5)
        assert read_json(cached / "settings.json")["cached_features"] is True
    assert history(cached)[0, 1] != history(cached)[-1, 1], "the head does learn"


def test_the_feature_cache_is_found_by_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk(tmp_path, weights=True, training=FROZEN)
    arguments = ("--cache-dir", str(tmp_path / "shared"), "--output")
    desk.call(cache_features, *arguments, str(tmp_path / "a.json"))
    capsys.readouterr()
    desk.call(cache_features, *arguments, str(tmp_path / "b.json"))
    assert "already there" in capsys.readouterr().err
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    torch.manual_seed(6)
    save_weights(build_network("custom1", num_classes=7, image_size=SIDE).network, tmp_path / "start.safetensors", {})
    desk.call(cache_features, *arguments, str(tmp_path / "c.json"))
    assert (tmp_path / "c.json").read_text() != (tmp_path / "a.json").read_text()
    assert len(list((tmp_path / "shared").glob("*.npy"))) == 2


@pytest.mark.parametrize(("precision", "told"), [("auto", "off"), ("bf16", "on (bfloat16)")])
def test_the_log_says_what_is_trained_and_whether_in_mixed_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str, told: str
) -> None:
    """Asked for by S1; on a CPU `auto` falls back to full precision."""
    desk = Desk(tmp_path, training={"epochs": 1, "precision": precision}, compute={"device": "cpu"})
    desk.train("run")
    cases = make_cases(tmp_path / "again")
    sizes = [int((~np.isnan(cases.part(0, part).targets).all(axis=1)).sum()) for part in ("train", "val")]
    assert (
        f"custom1 at {SIDE} px on cpu, mixed precision {told}, {sizes[0]} training and {sizes[1]} validation images"
        in capsys.readouterr().err
    )


def test_a_gpu_that_slurm_gave_and_torch_does_not_see_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU here")
    desk = Desk(tmp_path, training={"epochs": 1})
    desk.train("without")
    assert "SLURM gave" not in capsys.readouterr().err
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    desk.train("with")
    assert "SLURM gave this job a GPU, but torch sees none" in capsys.readouterr().err


def tuning(**changes: Any) -> dict[str, Any]:
    space = {"lr": {"low": 0.001, "high": 0.1, "log": True}, "dropout": {"choices": [0.0, 0.1]}}
    return {"trials": 4, "pruner": "none", "space": space, **changes}


def tune_fold(desk: Desk, fold: int = 0, workers: int = 1) -> dict[str, Any]:
    storage = desk.folder / "search" / f"fold{fold}.db"
    for worker in range(workers):
        desk.call(
            tune, "--fold", str(fold), "--storage", str(storage), "--worker", str(worker),
            "--done", str(desk.folder / f"done{worker}.json"),
        )  # fmt: skip
    result = desk.folder / f"tuned{fold}.json"
    desk.call(
        tune, "--fold", str(fold), "--storage", str(storage), "--result", str(result), "--figure",
        str(desk.folder / f"tuned{fold}.png"),
    )  # fmt: skip
    return read_json(result)


def test_a_search_keeps_its_budget_and_tells_what_it_bought(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tuning=tuning())
    summary = tune_fold(desk, workers=2)
    assert (summary["budget"], summary["trials_run"], len(summary["best_of_n"])) == (4, 4, 4)
    assert summary["trials"][0]["values"] == {"lr": 0.01, "dropout": 0.0}, "the recipe's own values first"
    assert summary["untuned_value"] == summary["best_of_n"][0] >= summary["best_value"]
    assert summary["best_value"] == min(trial["value"] for trial in summary["trials"]) == summary["best_of_n"][-1]
    assert set(summary["training"]) == {"lr", "dropout"}
    assert (tmp_path / "tuned0.png").read_bytes()[:4] == b"\x89PNG"


def test_tuned_values_are_trained_with(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tuning=tuning())
    write_json(tmp_path / "tuned.json", {"training": {"lr": 0.0321, "asl": {"clip": 0.2}}})
    settings = read_json(desk.train("run", "--tuned", str(tmp_path / "tuned.json")) / "settings.json")
    assert (settings["training"]["lr"], settings["training"]["asl"]["clip"], settings["tuned"]) == (0.0321, 0.2, True)


def test_the_search_sees_no_test_case(tmp_path: Path) -> None:
    """The same search, with other targets in the test part alone, finds the same values."""
    desk = Desk(tmp_path / "a", tuning=tuning(trials=3))
    first = tune_fold(desk)
    other = Desk(tmp_path / "b", tuning=tuning(trials=3))
    cases = make_cases(tmp_path / "c")
    test = set(cases.part(0, "test").case_ids.tolist())
    images = np.load(tmp_path / "b" / "cache" / "images.npy")
    rows = cases.cache.rows(sorted(test))
    images[rows] = 255 - images[rows]
    np.save(tmp_path / "b" / "cache" / "images.npy", images)
    second = tune_fold(other)
    assert [t["value"] for t in first["trials"]] == [t["value"] for t in second["trials"]]


def test_an_interrupted_search_goes_on_within_its_budget(tmp_path: Path) -> None:
    storage, calls = tmp_path / "s.db", []
    plan = Tuning(trials=5, space={"lr": SearchRange(low=0.0, high=1.0)}, pruner="none")

    def run(objective: Any) -> None:
        search(objective, tuning=plan, storage=storage, name="n", worker=0, maximize=True, defaults=None)

    def killed(values: dict[str, Any], report: Any, number: int) -> float:
        calls.append(number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return float(values["lr"])

    with pytest.raises(KeyboardInterrupt):
        run(killed)
    run(killed)
    summary = summarize(storage=storage, name="n", maximize=True, metric="qwk", budget=5)
    assert summary["trials_run"] == 5 and len(calls) == 6
    assert summary["best_value"] == max(trial["value"] for trial in summary["trials"])
    assert len({trial["values"]["lr"] for trial in summary["trials"]}) == 5, "no value twice"
    run(killed)
    assert len(calls) == 6, "the budget is used up"
    with sqlite3.connect(storage) as database:
        assert database.execute("select count(*) from trials").fetchone() == (6,)


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_every_sampler_searches(tmp_path: Path, sampler: str) -> None:
    plan = Tuning(trials=30, sampler=sampler, space={"lr": SearchRange(low=1e-5, high=1.0, log=True)}, pruner="none")
    search(
        lambda values, report, number: -abs(np.log10(values["lr"]) + 2),
        tuning=plan, storage=tmp_path / "s.db", name="n", worker=0, maximize=True, defaults={"lr": 0.5},
    )  # fmt: skip
    summary = summarize(storage=tmp_path / "s.db", name="n", maximize=True, metric="m", budget=30)
    assert abs(np.log10(summary["training"]["lr"]) + 2) < 0.5 < abs(summary["untuned_value"])


@pytest.mark.parametrize("pruner", ["median", "successive_halving"])
def test_pruners_break_off_what_lags_behind(tmp_path: Path, pruner: str) -> None:
    epochs: list[int] = []

    def objective(values: dict[str, Any], report: Any, number: int) -> float:
        for epoch in range(1, 11):
            report(epoch, float(10 - number) + epoch)
            epochs.append(number)
        return float(10 - number)

    plan = Tuning(trials=10, pruner=pruner, space={"lr": SearchRange(low=0.1, high=1.0)})
    search(objective, tuning=plan, storage=tmp_path / "s.db", name="n", worker=0, maximize=True, defaults=None)
    summary = summarize(storage=tmp_path / "s.db", name="n", maximize=True, metric="m", budget=10)
    states = [trial["state"] for trial in summary["trials"]]
    assert states[0] == "complete" and "pruned" in states and len(epochs) < 100
    assert summary["trials_run"] == 10, "a pruned trial is a trial of the budget"


def test_a_diverged_training_counts_as_a_trial(tmp_path: Path) -> None:
    def objective(values: dict[str, Any], report: Any, number: int) -> float:
        if number == 1:
            raise Diverged("the training loss is nan")
        return 0.5

    plan = Tuning(trials=3, pruner="none", space={"lr": SearchRange(low=0.1, high=1.0)})
    search(objective, tuning=plan, storage=tmp_path / "s.db", name="n", worker=0, maximize=True, defaults=None)
    summary = summarize(storage=tmp_path / "s.db", name="n", maximize=True, metric="m", budget=3)
    assert [trial["value"] for trial in summary["trials"]] == [0.5, None, 0.5]
    assert summary["trials"][1]["diverged"] == "the training loss is nan"


def test_best_of_n_by_hand() -> None:
    assert best_of_n([None, 0.3, 0.2, None, 0.5], maximize=True) == [None, 0.3, 0.3, 0.3, 0.5]
    assert best_of_n([0.3, 0.4, 0.1], maximize=False) == [0.3, 0.3, 0.1]
    assert counted([]) == []


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ({"learning_rate": {"low": 0.1, "high": 1.0}}, "unknown key"),
        ({"lr": {"low": 0.1}}, "give low and high, or choices"),
        ({"lr": {"low": 1.0, "high": 0.1}}, "must be below"),
        ({"lr": {"low": -1.0, "high": 0.1}}, "greater than 0"),
        ({"optimizer": {"choices": ["adam", "lion"]}}, "lion"),
        ({"weight_decay": {"low": 0.0, "high": 0.1, "log": True}}, "needs a low above 0"),
    ],
)
def test_a_space_of_illegal_values_is_refused(tmp_path: Path, space: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Desk(tmp_path, tuning={"space": space})


def test_the_final_model_takes_all_cases_for_the_median_epoch(tmp_path: Path) -> None:
    """Asked for by S4: trained on all data, marked as not evaluated."""
    desk = Desk(tmp_path, training={"epochs": 6})
    folds = []
    for k, best in enumerate((5, 2, 3)):
        folds.append(str(tmp_path / f"fold{k}.json"))
        write_json(folds[-1], {"best_epoch": best, "training": {"lr": 0.01 * (k + 1)}})
    out = tmp_path / "final"
    desk.call(
        final_model, "--fold-settings", *folds, "--state", str(out / "state.pt"), "--best",
        str(out / "best.safetensors"), "--history", str(out / "history.csv"), "--settings", str(out / "settings.json"),
    )  # fmt: skip
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["evaluated"], settings["epochs"], settings["cases"]) == (False, 3, N - 1)  # one is unknown
    assert "none is left to evaluate it on" in settings["reason"]
    assert settings["training"]["lr"] == pytest.approx(0.03), "the values of the fold that gave the epoch"
    rows = (out / "history.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 and rows[1].split(",")[2] == "", "nothing is validated"
    assert load_file(out / "best.safetensors")

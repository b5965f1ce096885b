"""Several datasets, seeds and a failed model of a study of masks, from drawn masks to report and leaderboard."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from archbench.artifacts import read_json, write_json, write_table
from archbench.config import parse_study
from archbench.leaderboard.database import open_database, read_runs
from archbench.leaderboard.study_runs import runs_of
from archbench.leaderboard.versus import compare_runs
from scripts import add_to_leaderboard, assemble_mask_report, score_masks

PATIENTS, SEEDS, SIDE = 12, (1, 2), 24
SHIFTS = {("good", 1): 1, ("good", 2): 2, ("bad", 1): 5, ("bad", 2): 5}
LOG = "train/s/left/broken/fold0-seed1.log"


def block(at: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:14, at : at + 10] = 1
    return mask


def more(model: str, patient: int) -> int:
    """Patients differ, those of one fold too."""
    return patient // 2 % 2 + (patient // 4 % 2 if model == "bad" else 0)


def draw(folder: Path, results: Path) -> None:
    """True masks of two pictures a patient, and those of two models and two seeds, shifted by so many pixels."""
    names = [f"p{k:02d}_{visit}.png" for k in range(PATIENTS) for visit in range(2)]
    folder.mkdir(parents=True)
    for k, name in enumerate(names):
        Image.fromarray(block(1 + k % 3)).save(folder / name)
    columns = {"case_id": names, "patient_id": [name[:3] for name in names], "image": names, "mask": names}
    manifest = {**columns, "lesions": pa.array([None] * len(names), pa.string())}
    write_table(
        results / "data/manifest.parquet",
        pa.table(manifest),
        {"root": str(folder), "labels": ["block"], "phantom": True},
    )
    for model in ("good", "bad"):
        place, entries = results / model / "masks", []
        place.mkdir(parents=True)
        for seed in SEEDS:
            for k, name in enumerate(names):
                file = f"{k:06d}-seed{seed}.png"
                shift = SHIFTS[model, seed] + more(model, k // 2)
                Image.fromarray(block(1 + k % 3 + shift)).save(place / file)
                entries.append({"case": name, "fold": k // 2 % 2, "seed": seed, "file": file, "seconds": 0.1})
        write_json(place / "index.json", {"masks": entries, "peak_memory_mib": 10.0})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets scored; a third model left no masks but a log."""
    folder = tmp_path_factory.mktemp("masks")
    entry = {
        "format": "image_masks", "root": "d", "images": "i", "masks": "m", "task": "segmentation",
        "segmentation": {"structures": {"block": [1]}},
    }  # fmt: skip
    parsed = parse_study(
        {
            "study": "s",
            "datasets": {"left": entry, "right": entry},
            "models": {name: {"architecture": "unet", "image_size": 32} for name in ("good", "bad", "broken")},
            "protocol": {"kind": "cross_validation", "folds": 2, "seeds": list(SEEDS)},
            "evaluation": {"resamples": 200, "comparison_resamples": 200},
        },
        check_files=False,
    )
    write_json(folder / "study.json", parsed.model_dump())
    write_json(folder / "audit.json", {"warnings": []})
    for dataset in ("left", "right"):
        results = folder / "results" / dataset
        draw(folder / "data" / dataset, results)
        given = ["--models", "good", "bad", "--masks", *(str(results / name / "masks") for name in ("good", "bad"))]
        given += ["--manifest", str(results / "data/manifest.parquet"), "--audit", str(folder / "audit.json")]
        common = ["--study", str(folder / "study.json"), "--dataset", dataset, "--code", "c"]
        assert score_masks.main([*common, *given, "--output", str(results / "masks")]) == 0
    (folder / "logs" / LOG).parent.mkdir(parents=True)
    (folder / "logs" / LOG).write_text("epoch 1\nRuntimeError: <the loss> is not finite\n")
    return folder


def assemble(study: Path, *options: str) -> int:
    masks = [f"{name}={study / 'results' / name / 'masks'}" for name in ("left", "right")]
    given = ["--study", study / "study.json", "--results", study / "results", "--logs", study / "logs"]
    return assemble_mask_report.main([*map(str, given), "--masks", *masks, *options])


def dice_of(study: Path, model: str, seed: int) -> float:
    """Mean over patients of their mean over pictures, by hand from what was drawn."""
    values = []
    for k in range(PATIENTS):
        shift = SHIFTS[model, seed] + more(model, k)
        values.append(2 * 10 * (10 - shift) / 200)
    return float(np.mean(values))


def test_seeds_are_averaged_and_their_spread_widens_the_interval(study: Path) -> None:
    summary = read_json(study / "results/left/masks/summary.json")
    assert summary["seeds"] == [1, 2] and summary["n_cases"] == 2 * PATIENTS and summary["n_patients"] == PATIENTS
    found = {model: summary["models"][model]["structures"]["block"]["dice"] for model in ("good", "bad")}
    for model, record in found.items():
        assert record["value"] == pytest.approx(np.mean([dice_of(study, model, seed) for seed in SEEDS]))
        assert record["n_cases"] == 2 * PATIENTS
    width = {model: record["high"] - record["low"] for model, record in found.items()}
    # two seeds .1 apart have a standard error s / sqrt(S) of .05
    assert width["good"] > 3 * 0.05 > width["bad"] > 0, "the seeds of the second agree"
    assert not any("one seed" in warning for warning in summary["warnings"])
    assert summary["comparison"]["dice"]["pairs"][0]["verdict"] == "better"
    with (study / "results/left/masks/per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * PATIENTS and {row["seed"] for row in rows} == {"1", "2"}


def test_a_model_without_masks_stops_the_whole_report_but_not_a_partial_one(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert assemble(study) == 1
    assert "no masks of left/broken, right/broken" in capsys.readouterr().err
    write_json(study / "failed.json", [str(study / "logs" / LOG)])
    assert assemble(study, "--partial", "--failed-logs", str(study / "failed.json")) == 0
    results = read_json(study / "results/results.json")
    assert results["status"] == "partial" and results["datasets"]["left"]["models"]["good"]["status"] == "complete"
    lost = {name: results["datasets"][name]["models"]["broken"] for name in ("left", "right")}
    assert [lost["left"]["status"], lost["right"]["status"]] == ["failed", "not finished"]
    assert lost["left"]["metrics"] is None and "is not finite" in lost["left"]["log"]["lines"][-1]
    page = (study / "results/report.html").read_text()
    assert "broken: failed, no masks to compare" in page and "&lt;the loss&gt; is not finite" in page
    assert "broken: not finished, see Failures" in page


def test_the_page_has_every_dataset_with_names_of_its_own(study: Path) -> None:
    assert assemble(study, "--partial") == 0
    page = (study / "results/report.html").read_text()
    names = re.findall(r'\sid="([^"]+)"', page)
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})
    assert {"left-answer", "right-answer", "left-pairs", "right-pairs"} <= set(names)
    assert "left: The answer" in page and page.count("Best, median and worst cases") == 2
    with (study / "results/results_table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["dataset"], row["model"]) for row in rows} == {
        (d, m) for d in ("left", "right") for m in ("good", "bad")
    }
    text = (study / "results/results_table.txt").read_text()
    assert text.startswith("left\n") and "\nright\n" in text


def test_the_runs_of_masks_enter_the_leaderboard_and_can_be_paired(study: Path, tmp_path: Path) -> None:
    assert assemble(study, "--partial") == 0
    database = tmp_path / "runs.sqlite"
    given = ["--results", study / "results", "--database", database, "--output", tmp_path / "told.json"]
    assert add_to_leaderboard.main(list(map(str, given))) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["problem"] is None and told["new"] == 4 and len(told["left_out"]) == 2
    with open_database(database) as connection:
        runs = {(run.dataset, run.model): run for run in read_runs(connection)}
    good, bad = runs["left", "good"], runs["left", "bad"]
    summary = read_json(study / "results/left/masks/summary.json")
    assert good.primary["value"] == summary["models"]["good"]["structures"]["block"]["dice"]["value"]
    assert (good.task, good.primary_metric, good.data_hash) == ("segmentation", "dice", bad.data_hash)
    assert good.details["architecture"] == "unet" and good.details["seeds"] == [1, 2]
    row = compare_runs(bad, good, resamples=200, confidence=0.95)
    pair = summary["comparison"]["dice"]["pairs"][0]
    assert row["difference"] == pytest.approx(pair["difference"], abs=1e-6) and row["low"] > 0


def test_a_table_that_is_not_of_its_metric_is_refused(study: Path) -> None:
    assert assemble(study, "--partial") == 0
    place = study / "results/left/masks/per_case.csv"
    kept = place.read_text()
    try:
        place.write_text(re.sub(r"(?m)^(good,p00_0.png,p00,block),[^,]+", r"\1,0.1", kept))
        left_out = runs_of(study / "results").left_out
    finally:
        place.write_text(kept)
    assert any("left/good" in text and "don't belong together" in text for text in left_out)

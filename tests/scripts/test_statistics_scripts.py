"""`evaluate` and `calibrate` from files to files: settings arrive, trained patients are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archbench.artifacts import write_predictions
from archbench.config import parse_study
from archbench.out_of_fold import LeakError
from scripts import calibrate, evaluate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from label_tables import LABELS, label_table
from planted import fold_file

TABLE = label_table(skill=0.5, n=600)


def study_file(folder: Path, **evaluation: Any) -> Path:
    study = parse_study(
        {
            "study": "files",
            "datasets": {
                "chest": {
                    **{"format": "table", "root": ".", "csv": "labels.csv", "task": "multilabel"},
                    "columns": {"label": list(LABELS)},
                }
            },
            "models": {"small": {"architecture": "custom1", "image_size": 64}},
            "evaluation": {"resamples": 200, **evaluation},
        },
        check_files=False,
    )
    path = folder / "study.json"
    path.write_text(json.dumps(study.model_dump(mode="json")), encoding="utf-8")
    return path


def run(script: Any, folder: Path, *, smuggled: str | None = None, **evaluation: Any) -> dict[str, Any]:
    predictions, output = folder / "predictions.parquet", folder / "found.json"
    write_predictions(predictions, TABLE)
    arguments = ["--study", study_file(folder, **evaluation), "--dataset", "chest", "--model", "small"]
    arguments += ["--predictions", predictions, "--folds", fold_file(folder, TABLE, smuggled=smuggled)]
    assert script.main([str(word) for word in [*arguments, "--output", output, "--code", "x"]]) == 0
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def test_every_setting_of_thresholds_and_sets_reaches_metrics_json(tmp_path: Path) -> None:
    thresholds = {"rule": "sensitivity", "value": 0.9, "few_positive_patients": 1000}
    plain = run(evaluate, tmp_path)
    changed = run(evaluate, tmp_path, thresholds=thresholds, conformal_coverage=0.8)
    assert plain["tuned"]["rule"] == {"kind": "f1", "value": None, "few_positive_patients": 25}
    assert changed["tuned"]["rule"] == {"kind": "sensitivity", "value": 0.9, "few_positive_patients": 1000}
    assert {entry["scope"] for entry in changed["tuned"]["spread"].values()} == {"global"}
    assert changed["tuned"]["global"]["metrics"]["recall_micro"]["value"] == pytest.approx(0.9, abs=0.05)
    assert (plain["conformal"]["target"], changed["conformal"]["target"]) == (0.9, 0.8)
    assert changed["conformal"]["coverage"]["value"] < plain["conformal"]["coverage"]["value"]
    assert "conformal" not in run(evaluate, tmp_path, conformal_coverage=None)


@pytest.mark.parametrize("script", [evaluate, calibrate], ids=["evaluate", "calibrate"])
def test_isotonic_steps_are_allowed_by_the_study_alone(tmp_path: Path, script: Any) -> None:
    def method(**settings: Any) -> str:
        found = run(script, tmp_path, **settings)
        return str(found["tuned"]["calibration"] if script is evaluate else found["method"])

    assert method() == "platt" and method(isotonic=True) == "isotonic"


def test_patients_that_isotonic_steps_need(tmp_path: Path) -> None:
    few = run(calibrate, tmp_path, isotonic=True, isotonic_patients=20)["parameters"]
    many = run(calibrate, tmp_path, isotonic=True, isotonic_patients=5000)["parameters"]
    assert all(entry["steps"] for entry in few) and not any(entry["steps"] for entry in many)
    assert "isotonic needs 5000" in many[0]["reason"]


@pytest.mark.parametrize("script", [evaluate, calibrate], ids=["evaluate", "calibrate"])
def test_a_patient_trained_on_in_its_own_fold_is_refused(tmp_path: Path, script: Any) -> None:
    patient = str(np.unique(TABLE.patient_id)[7])
    with pytest.raises(LeakError, match=f"trained on: .'{patient}'"):
        run(script, tmp_path, smuggled=patient)

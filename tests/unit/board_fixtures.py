"""Results folders of small studies whose metrics are those of their predictions; the skill of each model is chosen."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import Predictions, provenance, write_json, write_predictions
from archbench.evaluation import evaluate
from archbench.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
GRADES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative")


def script(name: str) -> Any:
    """A script of the checkout as a module, to be called within the test."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def predictions_of(skill: float, *, patients: int = 40, data_seed: int = 1, seed: int = 42) -> Predictions:
    """Two cases a patient, three folds by patient; logits are the truth times skill plus noise."""
    rng = np.random.default_rng(data_seed)
    names = np.repeat([f"p{k:03d}" for k in range(patients)], 2)
    truth = rng.integers(0, len(GRADES), len(names))
    noise = np.random.default_rng([seed, int(1000 * skill)]).normal(size=(len(names), len(GRADES)))
    return Predictions(
        case_id=np.array([f"{name}_{side}" for name, side in zip(names, "LR" * patients, strict=True)]),
        patient_id=names,
        split=np.full(len(names), "test"),
        fold=np.array([int(name[1:]) % 3 for name in names]),
        seed=np.full(len(names), seed),
        logits=(skill * np.eye(len(GRADES))[truth] + noise).astype(np.float32),
        targets=truth[:, None].astype(float),
        classes=GRADES,
        labels=("grade",),
        metadata={"decision": "expected_grade"},
    )


def write_results(
    root: Path,
    skills: dict[str, float],
    *,
    study: str = "first",
    dataset: str = "fundus",
    latency_ms: dict[str, float] | None = None,
    data_seed: int = 1,
    training: dict[str, Any] | None = None,
    task: str = "ordinal",
    draw: Callable[..., Predictions] = predictions_of,
    **drawn: Any,
) -> Path:
    """Write results/<study> with results.json and the prediction tables; return the folder."""
    primary = TASKS[task].primary
    if draw is predictions_of:
        drawn["data_seed"] = data_seed
    folder = root / "results" / study
    models: dict[str, Any] = {}
    for name, skill in skills.items():
        rows = draw(skill=skill, **drawn)
        write_predictions(folder / dataset / name / "predictions.parquet", rows)
        scored = evaluate(rows, metrics=TASKS[task].metrics, primary=primary, resamples=200, confidence=0.95, seed=0)
        origin = provenance(study=study, dataset=dataset, model=name, config_hash="c0ffee", code="e4a1")
        settings = {"provenance": origin, "train_seconds": 6.0, "device": "cpu", "parameters": 11, "image_size": 64}
        models[name] = {
            "status": "complete",
            "metrics": {"provenance": origin, "task": task, **scored},
            "runs": [{"fold": fold, "seed": 42, "settings": settings} for fold in range(3)],
            "missing": {},
        }
    timing = {
        "hardware": {"cpu": "Test CPU", "gpu": None},
        "results": [
            {"model": name, "runtime": "onnxruntime", "batch_size": 1, "median_ms": value}
            for name, value in (latency_ms or {}).items()
        ],
    }
    configuration = {
        "study": study,
        "datasets": {dataset: {"format": "table", "root": str(root), "task": task, "classes": list(GRADES)}},
        "models": {name: {"architecture": "resnet18", "weights": "none"} for name in skills},
        "training": training or {"lr": 1e-3},
        "protocol": {"kind": "cross_validation", "folds": 3, "seeds": [42]},
        "evaluation": {"confidence": 0.95, "clinical_cut": 2},
        "compute": {"threads": 1},
    }
    content = {"data": "real", "timing": timing, "models": models, "selected_and_reported_on_same_cases": False}
    write_json(
        folder / "results.json", {"study": study, "configuration": configuration, "datasets": {dataset: content}}
    )
    return folder

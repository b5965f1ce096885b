"""SYNTHETIC results of single models: runs, metrics, calibration, export, Grad-CAM; no value in them was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from synthetic_study import METRIC_NAMES, SyntheticStudy, provenance_of, record_of

from archbench.artifacts import Predictions, undefined, write_json, write_predictions


def write_model(
    folder: Path,
    name: str,
    dataset: str,
    spec: SyntheticStudy,
    patients: np.ndarray,
    y_true: np.ndarray,
    logits: np.ndarray,
    rng: np.random.Generator,
) -> None:
    write_result_files(folder / name, name, dataset, spec, patients, y_true, logits)
    size = 3_000_000 * (1 + list(spec.models).index(name))
    for seed in spec.seeds:
        for fold in range(spec.folds):
            _write_run(folder / name / f"fold{fold}-seed{seed}", name, dataset, size, rng)
    parity = [
        {"batch_size": b, "max_abs_difference": 3.1e-7, "max_rel_difference": 1e-6, "passed": True} for b in (1, 3, 8)
    ]
    write_json(
        folder / name / "export.json",
        {
            "provenance": provenance_of(dataset, name),
            "model": name,
            "fold": 0,
            "seed": 42,
            "exporter": "dynamo",
            "opset": 18,
            "image_size": 96,
            "onnx_bytes": 4 * size,
            "parameters": size,
            "parity": parity,
            "passed": True,
        },
    )
    if spec.gradcam:
        _write_gradcam(folder / name / "gradcam", name, dataset, spec, y_true, logits)


def _write_run(folder: Path, name: str, dataset: str, size: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    epochs = np.arange(1, 13)
    train = 1.5 * np.exp(-epochs / 5) + 0.1 + rng.normal(0, 0.02, 12)
    val = 1.5 * np.exp(-epochs / 5) + 0.35 + rng.normal(0, 0.04, 12)
    score = 0.85 * (1 - np.exp(-epochs / 4)) + rng.normal(0, 0.02, 12)
    lines = ["epoch,train_loss,val_loss,val_qwk,lr,images_per_s,seconds"]
    lines += [
        f"{e},{a:.5f},{b:.5f},{c:.5f},0.001,{180 + e},2.1" for e, a, b, c in zip(epochs, train, val, score, strict=True)
    ]
    (folder / "history.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(
        folder / "settings.json",
        {
            "provenance": provenance_of(dataset, name),
            "architecture": "resnet18",
            "weights": "none",
            "image_size": 96,
            "parameters": size,
            "best_epoch": int(epochs[score.argmax()]),
            "epochs_run": 12,
            "best_value": float(score.max()),
            "metric": "qwk",
            "train_seconds": 31.5,
            "device": "cpu",
            "precision": "fp32",
            "class_weights": None,
            "stopped_early": False,
            "training": {"lr": 0.001},
        },
    )


def quality_of(logits: np.ndarray, y_true: np.ndarray, n_classes: int) -> dict[str, float]:
    """Rough stand-ins for the metrics: the report's tests need plausible numbers, not the right formula."""
    predicted = logits.argmax(axis=1)
    accuracy = float((predicted == y_true).mean())
    distance = float(np.abs(predicted - y_true).mean())
    qwk = 1 - float(((predicted - y_true) ** 2).mean()) / ((n_classes**2 - 1) / 6)
    values = (qwk, accuracy, accuracy - 0.01, accuracy - 0.02, distance, min(0.99, accuracy + 0.2))
    return dict(zip(METRIC_NAMES, values, strict=True))


def write_result_files(
    folder: Path,
    name: str,
    dataset: str,
    spec: SyntheticStudy,
    patients: np.ndarray,
    y_true: np.ndarray,
    logits: np.ndarray,
) -> None:
    n, k = len(y_true), len(spec.classes)
    fold = patients % spec.folds
    predicted = logits.argmax(axis=1)
    matrix = np.zeros((k, k), int)
    np.add.at(matrix, (y_true, predicted), 1)
    records: dict[str, Any] = {m: record_of(m, v, n) for m, v in quality_of(logits, y_true, k).items()}
    for metric, reason in spec.undefined_metrics.items():
        records[metric] = undefined(metric, reason, n, n // 2)
    grid = np.linspace(0, 1, 101)
    power = 0.15 + 0.1 * (hash_free(name) % 4)
    write_json(
        folder / "metrics.json",
        {
            "provenance": provenance_of(dataset, name),
            "dataset": dataset,
            "model": name,
            "task": "ordinal",
            "classes": list(spec.classes),
            "primary": "qwk",
            "n_cases": n,
            "n_patients": spec.n_patients,
            "folds": list(range(spec.folds)),
            "seeds": list(spec.seeds),
            "metrics": records,
            "per_class": {c: _class_records(matrix, i, n) for i, c in enumerate(spec.classes)},
            "per_fold": [
                {"fold": f, "seed": s, "n_cases": n // spec.folds, "metrics": {"qwk": records["qwk"]["value"]}}
                for s in spec.seeds
                for f in range(spec.folds)
            ],
            "confusion_matrix": matrix.tolist(),
            "roc": {c: {"fpr": grid.tolist(), "tpr": (grid**power).tolist()} for c in spec.classes},
            "seed_sd": {"qwk": None},
            "warnings": [],
        },
    )
    write_json(folder / "calibration.json", _calibration(name, dataset, n, spec))
    write_predictions(
        folder / "predictions.parquet",
        Predictions(
            case_id=np.array([f"case{i:04d}" for i in range(n)]),
            patient_id=np.array([f"patient{p:03d}" for p in patients]),
            split=np.full(n, "test"),
            fold=fold,
            seed=np.full(n, spec.seeds[0]),
            logits=logits,
            targets=y_true[:, None].astype(float),
            classes=tuple(spec.classes),
            labels=("grade",),
        ),
    )


def hash_free(name: str) -> int:
    """A number from a name that is the same in every process."""
    return sum(name.encode())


def _class_records(matrix: np.ndarray, i: int, n: int) -> dict[str, Any]:
    support, called = int(matrix[i].sum()), int(matrix[:, i].sum())
    recall = matrix[i, i] / support if support else None
    precision = matrix[i, i] / called if called else None
    found = {"recall": recall, "precision": precision, "f1": recall, "auroc": 0.9}
    reason = "the class has no case"
    return {
        "support": support,
        **{
            key: undefined(key, reason, n, n // 2) if value is None else record_of(key, float(value), n, 0.09)
            for key, value in found.items()
        },
    }


def _calibration(name: str, dataset: str, n: int, spec: SyntheticStudy) -> dict[str, Any]:
    bins = [
        {"confidence": c, "accuracy": c - 0.08, "low": max(0.0, c - 0.2), "high": min(1.0, c + 0.04), "n": 20}
        for c in (0.35, 0.5, 0.65, 0.8, 0.95)
    ]
    better = [{**b, "accuracy": b["confidence"] - 0.01} for b in bins]
    pair = {"raw": record_of("ece", 0.082, n, 0.02), "calibrated": record_of("ece", 0.031, n, 0.015)}
    return {
        "provenance": provenance_of(dataset, name),
        "method": "temperature",
        "parameters": [
            {"fold": f, "seed": spec.seeds[0], "temperature": 1.3 + 0.05 * f, "fitted_on": "other folds"}
            for f in range(spec.folds)
        ],
        "ece": {**pair, "null_floor": 0.028},
        "log_loss": {"raw": record_of("log_loss", 0.9, n), "calibrated": record_of("log_loss", 0.8, n)},
        "brier": {"raw": record_of("brier", 0.4, n), "calibrated": record_of("brier", 0.38, n)},
        "reliability": {"raw": bins, "calibrated": better},
    }


def _write_gradcam(
    folder: Path, name: str, dataset: str, spec: SyntheticStudy, y_true: np.ndarray, logits: np.ndarray
) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    y, x = np.mgrid[0:160, 0:160]
    for i in range(spec.cam_cases):
        predicted = int(logits[i].argmax())
        disc = np.clip(200 - 2 * np.hypot(x - 80, y - 80), 0, 255)
        spot = np.exp(-((x - 40 - 5 * i % 60) ** 2 + (y - 60) ** 2) / 300)
        pictures = {
            "original": np.stack([disc, disc * 0.5, disc * 0.3], axis=-1),
            "heatmap": np.stack([255 * spot, 80 * spot, 255 * (1 - spot)], axis=-1),
        }
        pictures["overlay"] = 0.6 * pictures["original"] + 0.4 * pictures["heatmap"]
        files = {key: f"{i:03d}_{key}.png" for key in pictures}
        for key, pixels in pictures.items():
            Image.fromarray(pixels.astype(np.uint8)).save(folder / files[key])
        cases.append(
            {
                "case_id": f"case{i:04d}",
                "fold": 0,
                "true": int(y_true[i]),
                "predicted": predicted,
                "probability": 0.7,
                **files,
                "cam_max_in_lesion": bool(i % 3) if spec.phantom else None,
            }
        )
    hit = {"value": 0.65, "low": 0.43, "high": 0.82, "n_cases": spec.cam_cases, "chance": 0.06}
    write_json(
        folder / "gradcam.json",
        {
            "provenance": provenance_of(dataset, name),
            "target_layer": "layer4",
            "cases": cases,
            "lesion_hit": hit if spec.phantom else None,
        },
    )


def write_failed(folder: Path, logs: Path, name: str, dataset: str, spec: SyntheticStudy) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    log = logs / spec.name / "train" / dataset / name / "fold0-seed42.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"epoch {k}" for k in range(40)] + ["Traceback (most recent call last):", "RuntimeError: out of <memory>"]
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")

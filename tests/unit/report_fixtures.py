"""SYNTHETIC artifacts of a whole study, for tests of the report only: no value in them was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from archbench.artifacts import Predictions, undefined, write_json, write_predictions, write_table

GRADES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative")
MODELS = ("custom1", "resnet18", "effnet_lite0")
METRIC_NAMES = ("qwk", "accuracy", "balanced_accuracy", "macro_f1", "macro_mae", "auroc_macro")


@dataclass(frozen=True)
class SyntheticStudy:
    """What the synthetic tree holds; every part can be left out or broken."""

    models: Sequence[str] = MODELS
    classes: Sequence[str] = GRADES
    datasets: Sequence[str] = ("fundus",)
    folds: int = 3
    seeds: Sequence[int] = (42,)
    n_patients: int = 90
    phantom: bool = True
    failed: Sequence[str] = ()
    undefined_metrics: dict[str, str] = field(default_factory=dict)
    ensemble: str = "mean"
    timing: bool = True
    gradcam: bool = True
    cam_cases: int = 20
    problems: int = 3
    same_cases: bool = False
    label: str = "plain"

    @property
    def name(self) -> str:
        """Study name."""
        return f"synthetic_{self.label}"


def configuration_of(spec: SyntheticStudy) -> dict[str, Any]:
    """The study file of a synthetic study as plain values."""
    return {
        "study": spec.name,
        "datasets": {
            name: {
                "format": "phantom" if spec.phantom else "table",
                **({} if spec.phantom else {"csv": "labels.csv", "root": "."}),
                "task": "ordinal",
                "classes": list(spec.classes),
                "preprocessing": {"crop_border": True, "clahe": 3.0, "normalization": "imagenet"},
            }
            for name in spec.datasets
        },
        "protocol": {
            "kind": "cross_validation",
            "folds": spec.folds,
            "validation_fraction": 0.15,
            "seeds": list(spec.seeds),
            "split_seed": 42,
        },
        "training": {
            "loss": "weighted_cross_entropy",
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "epochs": 12,
            "batch_size": 16,
            "augmentation": "light",
            "early_stopping": {"metric": "qwk", "mode": "max", "patience": 5},
        },
        "models": {
            name: {"architecture": "resnet18", "weights": "none", "image_size": 64 + 32 * (k % 4)}
            for k, name in enumerate(spec.models)
        },
        "explain": {"cases": spec.cam_cases or 1},
        "inference": {"batch_sizes": [1, 8]},
        "ensemble": {"candidates": ["mean", "logistic"] if spec.ensemble else []},
        "evaluation": {"resamples": 2000, "confidence": 0.95, "comparison_resamples": 10000},
    }


def write_study(root: Path, spec: SyntheticStudy | None = None) -> tuple[dict[str, Any], Path]:
    """Write a synthetic results tree below `root`; return the configuration and results/<study>."""
    spec = spec or SyntheticStudy()
    results = root / "results" / spec.name
    for dataset in spec.datasets:
        _write_dataset(results, root / "logs", dataset, spec)
    return configuration_of(spec), results


def write_study_file(path: Path, configuration: dict[str, Any]) -> Path:
    """Write the configuration as the resolved JSON that scripts take."""
    path.write_text(json.dumps(configuration), encoding="utf-8")
    return path


def _provenance(dataset: str, model: str | None = None) -> dict[str, Any]:
    packages = {"torch": "2.14.1", "numpy": "2.4.6", "onnxruntime-gpu": "1.31.1"}
    return {
        "study": "synthetic",
        "dataset": dataset,
        "model": model,
        "config_hash": "0123456789abcdef",
        "code": "fedcba9876543210",
        "device": "cpu",
        "python": "3.11.2",
        "packages": packages,
    }


def _write_dataset(results: Path, logs: Path, dataset: str, spec: SyntheticStudy) -> None:
    rng = np.random.default_rng(7)
    folder = results / dataset
    patients = np.repeat(np.arange(spec.n_patients), 2)
    y_true = rng.integers(0, len(spec.classes), len(patients))
    _write_audit(folder, dataset, spec, patients, y_true)
    alive = [name for name in spec.models if name not in spec.failed]
    skill = {name: 0.9 + 1.6 * (k + 1) / len(spec.models) for k, name in enumerate(spec.models)}
    tables = {}
    for name in alive:
        tables[name] = _logits(rng, y_true, len(spec.classes), skill[name])
        _write_model(folder, name, dataset, spec, patients, y_true, tables[name], rng)
    for name in spec.failed:
        _write_failed(folder, logs, name, dataset, spec)
    if spec.ensemble and len(alive) >= 2:
        tables["ensemble"] = np.mean([tables[name] for name in alive], axis=0)
        _write_result_files(folder / "ensemble", "ensemble", dataset, spec, patients, y_true, tables["ensemble"])
        write_json(folder / "ensemble" / "decision.json", _decision(dataset, spec, alive))
    if spec.timing:
        write_json(folder / "timing.json", _timing(dataset, alive))
    write_json(folder / "comparison.json", _comparison(dataset, tables, y_true))


def _logits(rng: np.random.Generator, y_true: np.ndarray, n_classes: int, skill: float) -> np.ndarray:
    distance = np.abs(np.arange(n_classes)[None] - y_true[:, None])
    return np.asarray(-skill * distance + rng.normal(0, 1.2, (len(y_true), n_classes)), dtype=np.float32)


def _write_audit(folder: Path, dataset: str, spec: SyntheticStudy, patients: np.ndarray, y_true: np.ndarray) -> None:
    kinds = ("missing_file", "near_duplicate", "bad_label", "truncated")
    counts = np.bincount(y_true, minlength=len(spec.classes)).tolist()
    n_folds = spec.folds
    part = {"n_cases": len(y_true) // n_folds, "n_patients": spec.n_patients // n_folds, "per_class": counts}
    write_json(
        folder / "data" / "audit.json",
        {
            "provenance": _provenance(dataset),
            "dataset": dataset,
            "phantom": spec.phantom,
            "task": "ordinal",
            "classes": [
                {"name": name, "n_cases": counts[k], "n_patients": len(set(patients[y_true == k].tolist()))}
                for k, name in enumerate(spec.classes)
            ],
            "n_rows": len(y_true) + spec.problems,
            "n_cases": len(y_true),
            "n_patients": spec.n_patients,
            "n_dropped": spec.problems,
            "problems": [
                {
                    "kind": kinds[k % 4],
                    "severity": ("error", "warning")[k % 2],
                    "file": f"images/patient{k:03d}_left_with_a_long_name.jpg",
                    "row": k + 2,
                    "case_id": f"case{k}",
                    "message": "the file named in this row does not exist below the data root",
                }
                for k in range(spec.problems)
            ],
            "dropped": {"missing_file": spec.problems} if spec.problems else {},
            "protocol": {"kind": "cross_validation", "folds": n_folds},
            "warnings": [],
            "folds": [{"fold": k, "parts": dict.fromkeys(("train", "val", "test"), part)} for k in range(n_folds)],
        },
    )
    write_table(
        folder / "data" / "folds.parquet",
        pa.table({"case_id": ["a"], "patient_id": ["p"], "fold": [0], "split": ["test"]}),
        {"provenance": _provenance(dataset), "selected_and_reported_on_same_cases": spec.same_cases},
    )


def _write_model(
    folder: Path,
    name: str,
    dataset: str,
    spec: SyntheticStudy,
    patients: np.ndarray,
    y_true: np.ndarray,
    logits: np.ndarray,
    rng: np.random.Generator,
) -> None:
    _write_result_files(folder / name, name, dataset, spec, patients, y_true, logits)
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
            "provenance": _provenance(dataset, name),
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
            "provenance": _provenance(dataset, name),
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


def _record(name: str, value: float, n: int, spread: float = 0.05) -> dict[str, Any]:
    low, high = max(0.0, value - spread), value + spread if name == "macro_mae" else min(1.0, value + spread)
    return {
        "name": name,
        "value": value,
        "low": low,
        "high": high,
        "n_cases": n,
        "n_patients": n // 2,
        "reason": None,
    }


def _quality(logits: np.ndarray, y_true: np.ndarray, n_classes: int) -> dict[str, float]:
    """Rough stand-ins for the metrics: the report's tests need plausible numbers, not the right formula."""
    predicted = logits.argmax(axis=1)
    accuracy = float((predicted == y_true).mean())
    distance = float(np.abs(predicted - y_true).mean())
    qwk = 1 - float(((predicted - y_true) ** 2).mean()) / ((n_classes**2 - 1) / 6)
    values = (qwk, accuracy, accuracy - 0.01, accuracy - 0.02, distance, min(0.99, accuracy + 0.2))
    return dict(zip(METRIC_NAMES, values, strict=True))


def _write_result_files(
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
    records: dict[str, Any] = {m: _record(m, v, n) for m, v in _quality(logits, y_true, k).items()}
    for metric, reason in spec.undefined_metrics.items():
        records[metric] = undefined(metric, reason, n, n // 2)
    grid = np.linspace(0, 1, 101)
    power = 0.15 + 0.1 * (hash_free(name) % 4)
    write_json(
        folder / "metrics.json",
        {
            "provenance": _provenance(dataset, name),
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
            key: undefined(key, reason, n, n // 2) if value is None else _record(key, float(value), n, 0.09)
            for key, value in found.items()
        },
    }


def _calibration(name: str, dataset: str, n: int, spec: SyntheticStudy) -> dict[str, Any]:
    bins = [
        {"confidence": c, "accuracy": c - 0.08, "low": max(0.0, c - 0.2), "high": min(1.0, c + 0.04), "n": 20}
        for c in (0.35, 0.5, 0.65, 0.8, 0.95)
    ]
    better = [{**b, "accuracy": b["confidence"] - 0.01} for b in bins]
    pair = {"raw": _record("ece", 0.082, n, 0.02), "calibrated": _record("ece", 0.031, n, 0.015)}
    return {
        "provenance": _provenance(dataset, name),
        "method": "temperature",
        "parameters": [
            {"fold": f, "seed": spec.seeds[0], "temperature": 1.3 + 0.05 * f, "fitted_on": "other folds"}
            for f in range(spec.folds)
        ],
        "ece": {**pair, "null_floor": 0.028},
        "log_loss": {"raw": _record("log_loss", 0.9, n), "calibrated": _record("log_loss", 0.8, n)},
        "brier": {"raw": _record("brier", 0.4, n), "calibrated": _record("brier", 0.38, n)},
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
            "provenance": _provenance(dataset, name),
            "target_layer": "layer4",
            "cases": cases,
            "lesion_hit": hit if spec.phantom else None,
        },
    )


def _write_failed(folder: Path, logs: Path, name: str, dataset: str, spec: SyntheticStudy) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    log = logs / spec.name / "train" / dataset / name / "fold0-seed42.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"epoch {k}" for k in range(40)] + ["Traceback (most recent call last):", "RuntimeError: out of <memory>"]
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _decision(dataset: str, spec: SyntheticStudy, alive: Sequence[str]) -> dict[str, Any]:
    best = alive[-1]
    chosen = f"best base ({best})" if spec.ensemble == "best base" else spec.ensemble
    gain = {"value": 0.012, "low90": 0.003 if spec.ensemble == "mean" else -0.004, "high90": 0.022}
    return {
        "provenance": _provenance(dataset, "ensemble"),
        "candidates": [
            {"name": f"best base ({best})", "value": 0.8, "low": 0.75, "high": 0.85, "gain": None, "against": None},
            {"name": "mean", "value": 0.812, "low": 0.77, "high": 0.86, "gain": gain, "against": f"best base ({best})"},
            {
                "name": "logistic",
                "value": 0.809,
                "low": 0.76,
                "high": 0.86,
                "gain": {"value": -0.003, "low90": -0.01, "high90": 0.004},
                "against": "mean",
            },
        ],
        "choice": chosen,
        "reason": "The lower 90 % bound of the gain in qwk decides: the more complex one is taken if it is above 0.",
        "members": list(alive),
        "per_fold_choice": [{"fold": k, "choice": chosen, "reason": "see above"} for k in range(spec.folds)],
        "diagnostics": [],
        "best_base": best,
    }


def _timing(dataset: str, alive: Sequence[str]) -> dict[str, Any]:
    rows, whole, stages, contenders, speedups, noise = [], [], [], [], [], []  # type: ignore[var-annotated]
    for k, model in enumerate(alive):
        for runtime, factor in (("onnxruntime", 1.0), ("torch", 1.7)):
            for batch in (1, 8):
                ms = (1.5 + 2.3 * k) * factor * (1 if batch == 1 else 5.5)
                rows.append(_timing_row(model, runtime, batch, ms))
            ms = (1.5 + 2.3 * k) * factor
            whole.append({**_timing_row(model, runtime, 1, ms + 5.0), "p95_ms": 1.3 * (ms + 5.0)})
            steps = {"decode_ms": 3.0, "preprocess_ms": 2.0, "model_ms": ms, "total_ms": ms + 5.0}
            stages.append({"model": model, "runtime": runtime, "n": 90, **steps})
            contenders.append(_contender(model, runtime))
        for batch in (1, 8):
            names = {"model": model, "batch_size": batch, "n_rounds": 9}
            ratio = {"ratio": 1.7, "low": 1.6, "high": 1.8, "floor": 1.05, "verdict": "slower"}
            speedups.append({**names, "runtime": "torch", "against": "onnxruntime", **ratio})
            noise.append({**names, "runtime": "onnxruntime", "ratio": 1.01, "low": 0.97, "high": 1.05, "floor": 1.05})
    uncounted = ["relu", "_native_batch_norm_legit_no_training"]
    size = {"parameters": 1_000_000, "gmacs": 0.25, "counted_by": "a counter", "uncounted": uncounted, "image_size": 64}
    return {
        "provenance": _provenance(dataset),
        "hardware": {"cpu": "Synthetic CPU", "cores": 2, "threads": 2, "memory_gib": 24, "gpu": None, "os": "Linux"},
        "machine": {"instructions": ["avx2"], "governor": None, "hypervisor": True, "cpu_quota": 1.5, "packages": {}},
        "rounds": 9,
        "headline": "onnxruntime",
        "quantile_calls": {"median": 6, "p95": 72, "p99": 368},
        "isolation": isolation_account(disturbed=False),
        "energy": {"cpu": {"source": None, "reason": "no counter"}},
        "models": dict.fromkeys(alive, size),
        "contenders": contenders,
        "results": rows,
        "host_to_host": [],
        "end_to_end": whole,
        "stages": stages,
        "speedups": speedups,
        "noise": noise,
    }


def _timing_row(model: str, runtime: str, batch: int, ms: float) -> dict[str, Any]:
    row = {"model": model, "runtime": runtime, "batch_size": batch, "n": 90, "n_rounds": 9}
    times = {"median_ms": ms, "low_ms": 0.95 * ms, "high_ms": 1.05 * ms, "p99_ms": None}
    tail = {"p95_ms": ms * 1.2 if batch == 1 else None, "p95_low_ms": ms * 1.1, "p95_high_ms": ms * 1.3}
    rate = 1000 * batch / ms
    return {
        **row,
        **times,
        **tail,
        "throughput_img_per_s": rate,
        "throughput_low": rate / 1.05,
        "throughput_high": rate / 0.95,
        "energy_j_per_image": None,
    }


def _contender(model: str, runtime: str) -> dict[str, Any]:
    return {
        "model": model,
        "runtime": runtime,
        "device": "cpu",
        "twin": False,
        "status": "timed",
        "reason": None,
        "provider": "CPUExecutionProvider",
        "threads": 2,
        "bytes": 4_000_000,
        "starts_ms": [900.0],
        "load_ms": 300.0,
        "peak_memory_mib": {"1": 100.0, "8": 130.0},
        "gpu_memory_mib": None,
    }


def isolation_account(*, disturbed: bool) -> dict[str, Any]:
    """The account of nine rounds and a repeated one, in which others used a third of the machine or nothing."""
    reasons = ["others used 33 % of the processors"] if disturbed else []
    facts = {"seconds": 2.0, "foreign_share": 0.33 if disturbed else 0.01, "pressure_share": 0.1, "throttled": 0}
    return {
        "disturbed": disturbed,
        "disturbed_rounds": 9 if disturbed else 0,
        "repeated_rounds": 1,
        "reasons": ["others used the processors"] if disturbed else [],
        "rounds": [
            {"round": k, "kept": k > 0, "disturbed": disturbed, "reasons": reasons, **facts, "involuntary_per_s": 500.0}
            for k in range(10)
        ],
    }


def _comparison(dataset: str, tables: dict[str, np.ndarray], y_true: np.ndarray) -> dict[str, Any]:
    n_classes = next(iter(tables.values())).shape[1] if tables else 0
    value = {name: _quality(table, y_true, n_classes)["qwk"] for name, table in tables.items()}
    order = sorted(value, key=lambda name: -value[name])
    pairs = []
    for a, b in combinations(order, 2):
        gap = value[a] - value[b]
        verdict = "better" if gap > 0.06 else ("inconclusive" if gap > 0.01 else "equivalent")
        pair = {"a": a, "b": b, "difference": gap, "low": gap - 0.04, "high": gap + 0.04}
        pairs.append({**pair, "p": 0.01, "p_holm": 0.0004 if gap > 0.06 else 0.21, "verdict": verdict})
    return {
        "provenance": _provenance(dataset),
        "primary": "qwk",
        "delta": 0.02,
        "models": [
            {
                "model": name,
                "value": value[name],
                "low": value[name] - 0.05,
                "high": min(1.0, value[name] + 0.05),
                "mean_rank": k + 1.2,
                "rank_low": k + 1,
                "rank_high": k + 2,
                "p_rank1": 0.8 / (k + 1) ** 2,
            }
            for k, name in enumerate(order)
        ],
        "pairs": pairs,
        "best": order[0] if order else None,
        "warnings": [],
    }

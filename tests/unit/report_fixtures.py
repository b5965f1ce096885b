"""SYNTHETIC artifacts of a whole study, for tests of the report only: no value in them was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from synthetic_models import quality_of, write_failed, write_model, write_result_files
from synthetic_study import SyntheticStudy, configuration_of, provenance_of
from synthetic_timing import timing_of

from archbench.artifacts import write_json, write_table


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
        write_model(folder, name, dataset, spec, patients, y_true, tables[name], rng)
    for name in spec.failed:
        write_failed(folder, logs, name, dataset, spec)
    if spec.ensemble and len(alive) >= 2:
        tables["ensemble"] = np.mean([tables[name] for name in alive], axis=0)
        write_result_files(folder / "ensemble", "ensemble", dataset, spec, patients, y_true, tables["ensemble"])
        write_json(folder / "ensemble" / "decision.json", _decision(dataset, spec, alive))
    if spec.timing:
        write_json(folder / "timing.json", timing_of(dataset, alive))
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
            "provenance": provenance_of(dataset),
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
        {"provenance": provenance_of(dataset), "selected_and_reported_on_same_cases": spec.same_cases},
    )


def _decision(dataset: str, spec: SyntheticStudy, alive: Sequence[str]) -> dict[str, Any]:
    best = alive[-1]
    chosen = f"best base ({best})" if spec.ensemble == "best base" else spec.ensemble
    gain = {"value": 0.012, "low90": 0.003 if spec.ensemble == "mean" else -0.004, "high90": 0.022}
    return {
        "provenance": provenance_of(dataset, "ensemble"),
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


def _comparison(dataset: str, tables: dict[str, np.ndarray], y_true: np.ndarray) -> dict[str, Any]:
    n_classes = next(iter(tables.values())).shape[1] if tables else 0
    value = {name: quality_of(table, y_true, n_classes)["qwk"] for name, table in tables.items()}
    order = sorted(value, key=lambda name: -value[name])
    pairs = []
    for a, b in combinations(order, 2):
        gap = value[a] - value[b]
        verdict = "better" if gap > 0.06 else ("inconclusive" if gap > 0.01 else "equivalent")
        pair = {"a": a, "b": b, "difference": gap, "low": gap - 0.04, "high": gap + 0.04}
        pairs.append({**pair, "p": 0.01, "p_holm": 0.0004 if gap > 0.06 else 0.21, "verdict": verdict})
    return {
        "provenance": provenance_of(dataset),
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

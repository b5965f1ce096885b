"""SYNTHETIC thresholds, cut points, decision curves, sets and calibration tables for tests of the report only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import read_json, write_json

FOLDS, SEEDS = range(3), (1,)


def record(value: float, half: float = 0.03, method: str = "percentile") -> dict[str, Any]:
    """A record of docs/result_files.md."""
    bounds = {"low": value - half, "high": value + half}
    return {"name": "x", "value": value, **bounds, "n_cases": 90, "n_patients": 45, "method": method, "reason": None}


def tuned_section(labels: Sequence[str], rare: str) -> dict[str, Any]:
    """Thresholds of every label in every fold; the rare one takes the one for all."""
    parameters = [
        {
            "label": label,
            "fold": fold,
            "seed": seed,
            "scope": "label" if label not in ("", rare) else "global",
            "logit": None,
            "probability": 0.3 + 0.05 * k + 0.02 * fold,
            "n_positive_patients": 9 if label == rare else 60,
            "reason": None,
        }
        for k, label in enumerate(["", *labels])
        for fold in FOLDS
        for seed in SEEDS
    ]
    return {
        "rule": {"kind": "sensitivity", "value": 0.9, "few_positive_patients": 7},
        "calibration": "platt",
        "reason": None,
        "parameters": parameters,
        "label": {"metrics": {"f1_macro": record(0.61)}, "per_label": {}},
        "global": {"metrics": {"f1_macro": record(0.58)}, "per_label": {}},
    }


def cut_section(classes: Sequence[str]) -> dict[str, Any]:
    """Cut points between grades, near where rounding cuts."""
    cuts = [k + 0.45 for k in range(len(classes) - 1)]
    return {
        "used": "expected_grade",
        "reason": None,
        "parameters": [
            {"fold": fold, "seed": 1, "cuts": [cut + 0.04 * fold for cut in cuts], "n_cases": 60, "n_patients": 30}
            for fold in FOLDS
        ],
        "spread": [
            {
                "below": a,
                "above": b,
                "rounding": k + 0.5,
                "mean": cut + 0.04,
                "sd": 0.04,
                "low": cut,
                "high": cut + 0.08,
            }
            for k, (a, b, cut) in enumerate(zip(classes, classes[1:], cuts, strict=False))
        ],
        "metrics": {"qwk": record(0.7), "accuracy": record(0.6)},
        "gain": record(0.012),
    }


def curve_section(questions: Sequence[str], useful_until: float = 0.5) -> dict[str, Any]:
    """Net benefit that falls below that of treating none at `useful_until`."""
    thresholds = np.arange(0.02, 0.99, 0.02)
    share = 0.3
    every = share - (1 - share) * thresholds / (1 - thresholds)
    model = share * (1 - (thresholds / useful_until) ** 2)
    return {
        "probabilities": "calibrated",
        "reason": None,
        "thresholds": thresholds.tolist(),
        "questions": {
            name: {
                "model": model.tolist(),
                "low": (model - 0.02).tolist(),
                "high": (model + 0.02).tolist(),
                "all": every.tolist(),
                "none": [0.0] * len(thresholds),
                "prevalence": share,
                "n_cases": 90,
                "n_patients": 45,
            }
            for name in questions
        },
    }


def conformal_section(names: Sequence[str], kind: str, coverage: float = 0.91) -> dict[str, Any]:
    """Sets with a coverage near the promise; the last class had too few patients."""
    by: dict[str, Any] = {
        name: {"coverage": record(coverage), "n_patients_fitted": 31, "always_inside": name == names[-1]}
        for name in names
    }
    if kind == "labels":
        for values in by.values():
            values |= {"coverage_present": record(0.88), "coverage_absent": record(0.93), "undecided": 0.2}
    whole = {"coverage": record(coverage, 0.02), "mean_size": record(1.8), "empty": 0.01, "single": 0.7, "full": 0.05}
    return {"target": 0.9, "kind": kind, "reason": None, **whole, "by": by}


def table_section(questions: Sequence[str], slope: float = 0.7) -> dict[str, Any]:
    """Calibration of every question before and after."""

    def state(error: float, at: float) -> dict[str, Any]:
        bins = [
            {
                "predicted": p,
                "observed": p + error * (0.5 - p),
                "low": None if p > 0.9 else p - 0.08,
                "high": None if p > 0.9 else p + 0.08,
                "n_cases": 3 if p < 0.1 else 40,
                "n_patients": 20,
            }
            for p in np.linspace(0.05, 0.95, 10).tolist()
        ]
        values = {"ece": record(error / 3, 0.01), "mce": record(error), "brier": record(0.2), "log_loss": record(0.5)}
        line = {"slope": record(at, 0.1, "normal"), "intercept": record(0.0, 0.1, "normal")}
        return {**values, "null_floor": 0.02, **line, "bins": bins}

    whole = {"ece": record(0.05), "null_floor": 0.02, "mce": record(0.1), "brier": record(0.2), "log_loss": record(0.5)}
    return {
        "macro": {"raw": whole, "calibrated": whole},
        "questions": {name: {"raw": state(0.3, slope), "calibrated": state(0.03, 1.0)} for name in questions},
    }


def add_decisions(results: Path, dataset: str, names: Sequence[str], kind: str = "classes") -> None:
    """Add every section to all models of a dataset in an existing tree."""
    for path in sorted((results / dataset).glob("*/metrics.json")):
        metrics, calibration = read_json(path), read_json(path.with_name("calibration.json"))
        metrics |= {"decision_curve": curve_section(names), "conformal": conformal_section(names, kind)}
        if kind == "labels":
            metrics["tuned"] = tuned_section(names, names[-1])
        if kind == "classes":
            metrics["cut_points"] = cut_section(names)
        calibration["table"] = table_section(names)
        write_json(path, metrics)
        write_json(path.with_name("calibration.json"), calibration)

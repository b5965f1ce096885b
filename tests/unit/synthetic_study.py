"""What a SYNTHETIC study holds, its configuration and its words; for tests of the report only: nothing was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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


def provenance_of(dataset: str, model: str | None = None) -> dict[str, Any]:
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


def record_of(name: str, value: float, n: int, spread: float = 0.05) -> dict[str, Any]:
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

"""The runs of a finished study, from its results folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from archbench.artifacts import ArtifactError, Predictions, read_json, read_predictions
from archbench.leaderboard.mask_runs import OUTPUTS, mask_table, mean_dice
from archbench.leaderboard.run import Run, data_hash, digest, predictions_hash, stored_table
from archbench.metrics.auroc import metric_at_cut
from archbench.metrics.scoring import score, scored_rows
from archbench.prompts import TRUTH

ENSEMBLE = "ensemble"
TOLERANCE = 1e-6
# What says how a run was made, and what only says where.
MADE_BY = ("protocol", "training", "tuning")
PLACES = ("root", "csv", "images", "masks")


@dataclass(frozen=True)
class FoundRuns:
    """What a results folder holds.

    Attributes:
        runs: Models that were evaluated.
        left_out: In words, the models that weren't added and why.
    """

    runs: list[Run]
    left_out: list[str]


def runs_of(results: str | Path) -> FoundRuns:
    """Return the runs of a study, each checked against its predictions.

    Args:
        results: Folder of the study, results/<study>.
    Raises:
        ArtifactError: If the folder holds no results.json.
    """
    results = Path(results)
    document = read_json(results / "results.json")
    if not isinstance(document, dict) or not isinstance(document.get("datasets"), dict):
        raise ArtifactError(f"{results / 'results.json'} is no result of a study: name a folder results/<study>")
    added_at = datetime.now(UTC).isoformat(timespec="seconds")  # one for the whole study
    runs, left_out = [], []
    for dataset, content in document["datasets"].items():
        for model, found in content["models"].items():
            try:
                runs.append(_run(document, results / dataset / model, content, found, added_at))
            except (ArtifactError, ValueError) as error:
                left_out.append(f"{dataset}/{model}: {error}")
    return FoundRuns(runs, left_out)


def _run(
    document: Mapping[str, Any], folder: Path, content: Mapping[str, Any], found: Mapping[str, Any], added_at: str
) -> Run:
    dataset, model = folder.parent.name, folder.name
    metrics, configuration = found.get("metrics"), document["configuration"]
    if not metrics:
        raise ValueError(f"was not evaluated ({(found.get('missing') or {}).get('metrics') or found.get('status')})")
    rows = _rows(folder, metrics)
    cut = (configuration.get("evaluation") or {}).get("clinical_cut", 2)
    check_primary(rows, metrics["primary"], metrics["metrics"].get(metrics["primary"]), clinical_cut=cut)
    identity = {
        "study": str(document["study"]),
        "dataset": dataset,
        "model": model,
        "data_hash": data_hash(rows),
        "config_hash": config_hash(configuration, dataset, model),
    }
    trained = [run["settings"] for run in found.get("runs") or [] if run.get("settings")]
    return Run(
        id=digest([*identity.values(), predictions_hash(rows)]),
        added_at=added_at,
        **identity,
        task=str(metrics.get("task") or configuration["datasets"][dataset].get("task") or "ordinal"),
        code=str((trained[0] if trained else metrics).get("provenance", {}).get("code", "unknown")),
        primary_metric=str(metrics["primary"]),
        phantom=content.get("data") == "phantom",
        details=_details(document, dataset, model, content, found, trained),
        metrics={name: dict(record) for name, record in metrics["metrics"].items()},
        timings=[row for row in (content.get("timing") or {}).get("results", []) if row["model"] == model],
        predictions=stored_table(rows),
    )


def _rows(folder: Path, metrics: Mapping[str, Any]) -> Predictions:
    """What a run was scored by: of masks the Dice of every case.

    Raises:
        ValueError: If the model was told where the truth lies.
    """
    prompt = metrics.get("prompt")
    if prompt and prompt["source"] == TRUTH:
        raise ValueError(f"was told the truth's {prompt['kind']}s: an upper bound, which is not ranked")
    if metrics.get("task") == "segmentation":
        return mask_table(folder.parent / "masks" / "per_case.csv", folder.name)
    return scored_rows(read_predictions(folder / "predictions.parquet"))


def check_primary(rows: Predictions, primary: str, record: Mapping[str, Any] | None, *, clinical_cut: int) -> None:
    """Refuse a primary metric that isn't that of the predictions: a leaderboard ranks what was predicted.

    Raises:
        ValueError: With both values.
    """
    if record is None or record["value"] is None:
        return
    if rows.outputs == OUTPUTS:
        point = mean_dice(rows)
    else:
        patients = np.unique(rows.patient_id)
        point = score(rows, metric_at_cut(primary, clinical_cut), patients, np.zeros((0, len(patients)))).point
    if not abs(point - record["value"]) <= TOLERANCE:
        raise ValueError(
            f"metrics.json says {primary} {record['value']:.6f}, its predictions give {point:.6f}: they don't"
            " belong together; run the study again"
        )


def config_hash(configuration: Mapping[str, Any], dataset: str, model: str) -> str:
    """Return the hash of what made a run: the same on every machine, wherever data and weights lie."""
    data = {key: value for key, value in configuration["datasets"][dataset].items() if key not in PLACES}
    chosen = configuration["models"] if model == ENSEMBLE else {model: configuration["models"].get(model)}
    made_by = {key: configuration.get(key) for key in (*MADE_BY, *([ENSEMBLE] if model == ENSEMBLE else []))}
    models = {name: _without_folders(entry or {}) for name, entry in chosen.items()}
    return digest([json.dumps([data, models, made_by], sort_keys=True, default=str)])


def _without_folders(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A model's entry with the names of its files, without their folders, which may say who works where."""
    told = dict(entry)
    if told.get("checkpoint"):
        told["checkpoint"] = PurePath(told["checkpoint"]).name
    for key, prefix in (("weights", "file:"), ("architecture", "hf:")):
        value = str(told.get(key) or "")
        if value.startswith(prefix) and value.removeprefix(prefix).startswith(("/", ".", "~")):
            told[key] = prefix + PurePath(value.removeprefix(prefix)).name
    return told


def _details(
    document: Mapping[str, Any],
    dataset: str,
    model: str,
    content: Mapping[str, Any],
    found: Mapping[str, Any],
    trained: list[dict[str, Any]],
) -> dict[str, Any]:
    metrics, configuration = found["metrics"], document["configuration"]
    entry = _without_folders(configuration["models"].get(model) or {})
    seconds = [run["train_seconds"] for run in trained if run.get("train_seconds") is not None]
    origin, timing = metrics.get("provenance", {}), content.get("timing") or {}
    return {
        "architecture": entry.get("architecture") or ("ensemble" if model == ENSEMBLE else ""),
        "image_size": (trained[0] if trained else entry).get("image_size"),
        "weights": entry.get("weights"),
        "recipe": entry.get("training") or {},
        "members": (found.get("decision") or {}).get("members") or [],
        "folds": metrics.get("folds", []),
        "seeds": metrics.get("seeds", []),
        "n_cases": metrics["n_cases"],
        "n_patients": metrics["n_patients"],
        "classes": metrics.get("classes") or list(configuration["datasets"][dataset].get("classes") or []),
        "confidence": (configuration.get("evaluation") or {}).get("confidence", 0.95),
        "parameters": (trained[0] if trained else found.get("export") or {}).get("parameters"),
        "train_seconds": sum(seconds) if seconds else None,
        "hardware": timing.get("hardware") or {},
        "latency_runtime": timing.get("headline"),
        "timing_disturbed": bool((timing.get("isolation") or {}).get("disturbed")),
        "device": (trained[0] if trained else origin).get("device", "unknown"),
        "packages": origin.get("packages", {}),
        "evaluation_code": origin.get("code", "unknown"),
        "study_hash": origin.get("config_hash", "unknown"),
        "selected_and_reported_on_same_cases": bool(content.get("selected_and_reported_on_same_cases")),
        "warnings": list(metrics.get("warnings") or []),
        "status": found.get("status"),
    }

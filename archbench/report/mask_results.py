"""results.json and the text table of a segmentation study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archbench.artifacts import package_versions
from archbench.report.collect import FINISHED, DatasetResult, ModelResult, StudyResult
from archbench.report.mask_tables import to_text


def mask_results(study: StudyResult, summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the content of results.json: by dataset what summary.json says, and what is known of each model.

    Args:
        summaries: Content of summary.json by dataset; a dataset without masks is left out.
    """
    lost = [model for dataset in study.datasets for model in without_masks(dataset, summaries.get(dataset.name))]
    return {
        "study": study.name,
        "task": "segmentation",
        "status": "partial" if lost else FINISHED,
        "data": "phantom" if study.phantom else "real",
        "provenance": {"study": study.name, "code": study.code, "packages": package_versions()},
        "configuration": study.configuration,
        "datasets": {dataset.name: _of_dataset(dataset, summaries.get(dataset.name)) for dataset in study.datasets},
    }


def _of_dataset(dataset: DatasetResult, summary: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "data": "phantom" if dataset.phantom else "real",
        "primary": "dice",
        "selected_and_reported_on_same_cases": dataset.same_cases,
        "audit": dataset.audit,
        "timing": dataset.timing,
        "masks": summary,
        "models": {model.name: _of_model(model, summary) for model in dataset.models if not model.is_ensemble},
    }


def _of_model(model: ModelResult, summary: Mapping[str, Any] | None) -> dict[str, Any]:
    scored = summary is not None and model.name in summary["models"]
    return {
        "status": FINISHED if scored else model.status,
        "metrics": _metrics(model.name, summary) if scored and summary is not None else None,
        "export": model.export,
        "runs": [
            {"fold": run.fold, "seed": run.seed, "settings": run.settings, "history": run.history} for run in model.runs
        ],
        "log": None if model.log is None else {"path": model.log.path, "lines": list(model.log.lines)},
    }


def _metrics(model: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The records over all structures as metrics.json of other tasks has them."""
    return {
        "provenance": summary["provenance"],
        "task": "segmentation",
        "primary": "dice",
        "n_cases": summary["n_cases"],
        "n_patients": summary["n_patients"],
        "folds": summary["folds"],
        "seeds": summary["seeds"],
        "classes": list(summary["models"][model]["detection"]),
        "metrics": summary["models"][model]["structures"][summary["structures"][0]],
        "prompt": summary["models"][model].get("prompt"),
        "warnings": summary["warnings"],
    }


def without_masks(dataset: DatasetResult, summary: Mapping[str, Any] | None) -> list[ModelResult]:
    """Return the trained models whose masks were not scored."""
    scored = {} if summary is None else summary["models"]
    return [model for model in dataset.models if not model.is_ensemble and model.name not in scored]


def study_text(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the results of every dataset for a terminal, under its name where there are several."""
    if len(summaries) == 1:
        return to_text(next(iter(summaries.values())))
    return "\n".join(f"{name}\n{to_text(summary)}" for name, summary in summaries.items())

"""results.json: everything that is known about a study, valid at any moment of its run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archbench.artifacts import package_versions, write_json
from archbench.report.collect import (
    FAILED,
    FINISHED,
    PENDING,
    UNFINISHED,
    DatasetResult,
    ModelResult,
    StudyResult,
    collect_study,
)
from archbench.report.tables import result_rows

LOCK_TIMEOUT_S = 120


def refresh_results(
    *,
    configuration: dict[str, Any],
    results: Path,
    output: Path,
    logs: Path | None = None,
    code: str = "",
    running: bool = True,
) -> dict[str, Any]:
    """Collect the study and write results.json; several jobs may do so at once.

    The lock covers reading and writing, so that an earlier look at the artifacts never
    overwrites a later one.

    Args:
        running: Models without metrics are pending, not failed.
    Returns:
        What was written.
    """
    from filelock import FileLock

    output.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(output.with_name(f".{output.name}.lock"), timeout=LOCK_TIMEOUT_S):
        study = collect_study(configuration=configuration, results=results, logs=logs, code=code)
        document = results_document(study, running=running)
        write_json(output, document)
    return document


def results_document(study: StudyResult, *, running: bool = False) -> dict[str, Any]:
    """All artifacts of a study in one JSON-able structure."""
    absent = {FAILED: PENDING, UNFINISHED: PENDING} if running else {}
    complete = all(model.status == FINISHED for dataset in study.datasets for model in dataset.models)
    rows = [{**row, "status": absent.get(row["status"], row["status"])} for row in result_rows(study)]
    return {
        "study": study.name,
        "status": "complete" if complete else ("running" if running else "partial"),
        "data": "phantom" if study.phantom else "real",
        "provenance": {"study": study.name, "code": study.code, "packages": package_versions()},
        "configuration": study.configuration,
        "rows": rows,
        "datasets": {dataset.name: _dataset_document(dataset, absent) for dataset in study.datasets},
    }


def _dataset_document(dataset: DatasetResult, absent: Mapping[str, str]) -> dict[str, Any]:
    return {
        "data": "phantom" if dataset.phantom else "real",
        "primary": dataset.primary,
        "selected_and_reported_on_same_cases": dataset.same_cases,
        "audit": dataset.audit,
        "comparison": dataset.comparison,
        "timing": dataset.timing,
        "missing": dataset.missing,
        "models": {model.name: _model_document(model, absent) for model in dataset.models},
    }


def _model_document(model: ModelResult, absent: Mapping[str, str]) -> dict[str, Any]:
    return {
        "status": absent.get(model.status, model.status),
        "metrics": model.metrics,
        "calibration": model.calibration,
        "export": model.export,
        "gradcam": model.gradcam,
        "decision": model.decision,
        "runs": [
            {"fold": run.fold, "seed": run.seed, "settings": run.settings, "history": run.history} for run in model.runs
        ],
        "tuning": list(model.tuning),
        "final": model.final,
        "missing": model.missing,
        "log": None if model.log is None else {"path": model.log.path, "lines": list(model.log.lines)},
    }

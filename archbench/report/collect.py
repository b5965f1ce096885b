"""Read the artifacts of a study into one typed structure.

Absence is information here: what is missing is noted with the reason, so that the report can
say it, and nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archbench.artifacts import ArtifactError, read_table
from archbench.report.artifact_files import Run, collect_runs, collect_searches, read_optional
from archbench.report.logs import JobLogs, LogTail
from archbench.tasks import TASKS

ENSEMBLE = "ensemble"
FINISHED, INCOMPLETE, FAILED, PENDING = "complete", "incomplete", "failed", "pending"
UNFINISHED = "not finished"


@dataclass(frozen=True)
class ModelResult:
    """What is known about one model (or the ensemble) on one dataset.

    Attributes:
        status: complete, incomplete (metrics exist, something else is missing), failed (a job of it did) or
            not finished (it was not run, or interrupted).
        missing: What is missing -> why.
        log: The end of the log of the job that failed, or else of its newest one, if one was found.
    """

    name: str
    folder: Path
    status: str
    entry: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    export: dict[str, Any] | None = None
    gradcam: dict[str, Any] | None = None
    decision: dict[str, Any] | None = None
    runs: tuple[Run, ...] = ()
    tuning: tuple[dict[str, Any], ...] = ()
    final: dict[str, Any] | None = None
    missing: dict[str, str] = field(default_factory=dict)
    log: LogTail | None = None

    @property
    def is_ensemble(self) -> bool:
        """Whether this is the ensemble and not a trained model."""
        return self.name == ENSEMBLE

    @property
    def fell_back(self) -> bool:
        """Whether this is an ensemble that uses its best base model alone."""
        return str((self.decision or {}).get("choice", "")).startswith("best base")

    @property
    def members(self) -> list[str]:
        """The models that an ensemble runs; empty for a trained model."""
        decision = self.decision or {}
        return [decision["best_base"]] if self.fell_back else list(decision.get("members", []))

    def record(self, metric: str) -> dict[str, Any] | None:
        """The record of a metric, or None if it was not computed for this model."""
        return (self.metrics or {}).get("metrics", {}).get(metric)

    def settings(self, key: str) -> list[Any]:
        """The values of a key of settings.json over the runs that have it."""
        return [run.settings[key] for run in self.runs if run.settings and run.settings.get(key) is not None]


@dataclass(frozen=True)
class DatasetResult:
    """What is known about one dataset of the study; models in the order of the study file."""

    name: str
    entry: dict[str, Any]
    models: tuple[ModelResult, ...]
    audit: dict[str, Any] | None
    comparison: dict[str, Any] | None
    timing: dict[str, Any] | None
    same_cases: bool
    confidence: float
    missing: dict[str, str]

    @property
    def phantom(self) -> bool:
        """Whether the data were drawn, not measured."""
        if self.audit is not None and "phantom" in self.audit:
            return bool(self.audit["phantom"])
        return str(self.entry.get("format")).startswith("phantom")

    @property
    def outputs(self) -> str:
        """What the models predict: classes, labels, zones or value."""
        task = TASKS.get(str(self.entry.get("task") or "ordinal"))
        return task.outputs if task else "classes"

    @property
    def unit(self) -> str:
        """What a model is asked of: image, or volume."""
        return "volume" if self.entry.get("volumes") else "image"

    @property
    def a_unit(self) -> str:
        """The same with its article."""
        return f"{'a' if self.unit == 'volume' else 'an'} {self.unit}"

    @property
    def evaluated(self) -> tuple[ModelResult, ...]:
        """The models that have metrics."""
        return tuple(model for model in self.models if model.metrics is not None)

    @property
    def drawn(self) -> tuple[ModelResult, ...]:
        """The models with pictures of their own: an ensemble that is one of its models would hide that one."""
        return tuple(model for model in self.evaluated if not (model.is_ensemble and self._is_one_member(model)))

    def _is_one_member(self, ensemble: ModelResult) -> bool:
        base = self.find((ensemble.decision or {}).get("best_base")) if ensemble.fell_back else None
        mine, its = ensemble.record(self.primary), base.record(self.primary) if base else None
        return mine is not None and its is not None and mine["value"] == its["value"]

    @property
    def without_result(self) -> tuple[ModelResult, ...]:
        """The models that have no metrics."""
        return tuple(model for model in self.models if model.metrics is None)

    @property
    def failed(self) -> tuple[ModelResult, ...]:
        """Those of them of which a job failed."""
        return tuple(model for model in self.models if model.status == FAILED)

    @property
    def unfinished(self) -> tuple[ModelResult, ...]:
        """Those of them that were not run, or interrupted."""
        return tuple(model for model in self.models if model.status == UNFINISHED)

    @property
    def ensemble(self) -> ModelResult | None:
        """The ensemble, if there is one."""
        return next((model for model in self.models if model.is_ensemble), None)

    @property
    def primary(self) -> str:
        """The name of the metric that ranks the models."""
        for source in (self.comparison, *(model.metrics for model in self.evaluated)):
            if source and source.get("primary"):
                return str(source["primary"])
        task = TASKS.get(str(self.entry.get("task") or "ordinal"))
        return task.primary if task else "auroc_macro"

    def find(self, name: str | None) -> ModelResult | None:
        """The model of that name, if it belongs to the dataset."""
        return next((model for model in self.models if model.name == name), None)

    @property
    def headline_runtime(self) -> str:
        """The runtime whose latency stands for a model."""
        return str((self.timing or {}).get("headline") or "onnxruntime")

    @property
    def timing_disturbed(self) -> bool:
        """Whether other work on the machine disturbed the timing as a whole: no headline rests on it then."""
        return bool(((self.timing or {}).get("isolation") or {}).get("disturbed"))

    def latency(self, model: str, runtime: str | None = None, batch_size: int = 1) -> dict[str, Any] | None:
        """The timing of a model with one runtime (the headline's) and batch size, if it was measured."""
        runtime = runtime or self.headline_runtime
        for row in (self.timing or {}).get("results", []):
            if (row["model"], row["runtime"], row["batch_size"]) == (model, runtime, batch_size):
                return dict(row)
        return None


@dataclass(frozen=True)
class StudyResult:
    """A study as its artifacts show it."""

    name: str
    configuration: dict[str, Any]
    folder: Path
    datasets: tuple[DatasetResult, ...]
    code: str

    @property
    def phantom(self) -> bool:
        """Whether any dataset of the study was drawn."""
        return any(dataset.phantom for dataset in self.datasets)

    @property
    def without_result(self) -> tuple[tuple[str, str], ...]:
        """(dataset, model) of all that have no metrics."""
        return tuple((d.name, m.name) for d in self.datasets for m in d.without_result)


def collect_study(
    *,
    configuration: Mapping[str, Any],
    results: Path,
    logs: Path | None = None,
    failed_logs: Sequence[Path] | None = None,
    outdated: Collection[Path] = (),
    code: str = "",
) -> StudyResult:
    """Read all artifacts of a study.

    Args:
        configuration: The study file as plain values.
        results: The folder of the study, `results/<study>`.
        logs: Folder that holds one log per job; searched for the logs of failed jobs.
        failed_logs: Logs of the jobs that failed, where that is known; else the logs themselves are read for it.
        outdated: Files and folders of an earlier run, which this one was to make anew and hasn't: they don't count.
        code: Fingerprint of the report's code.
    Returns:
        The study. Missing or damaged files are noted, never raised.
    """
    config = dict(configuration)
    jobs = JobLogs(logs, failed_logs, frozenset(outdated))
    datasets = tuple(
        _collect_dataset(name, dict(entry), config, results / name, jobs)
        for name, entry in config.get("datasets", {}).items()
    )
    return StudyResult(
        name=str(config.get("study", results.name)),
        configuration=config,
        folder=results,
        datasets=datasets,
        code=code,
    )


def _collect_dataset(
    name: str, entry: dict[str, Any], config: dict[str, Any], folder: Path, jobs: JobLogs
) -> DatasetResult:
    missing: dict[str, str] = {}
    audit = read_optional(folder / "data" / "audit.json", "audit", missing)
    timing = read_optional(folder / "timing.json", "timing", missing, jobs.outdated)
    comparison = read_optional(folder / "comparison.json", "comparison", missing, jobs.outdated)
    models = [
        _collect_model(model, dict(values or {}), config, folder, timing, jobs)
        for model, values in config.get("models", {}).items()
    ]
    if _expects_ensemble(config, folder):
        models.append(_collect_ensemble(folder, config, jobs, n_base=sum(m.metrics is not None for m in models)))
    return DatasetResult(
        name=name,
        entry=entry,
        models=tuple(models),
        audit=audit,
        comparison=comparison,
        timing=timing,
        same_cases=_same_cases(folder / "data" / "folds.parquet"),
        confidence=float((config.get("evaluation") or {}).get("confidence") or 0.95),
        missing=missing,
    )


def _collect_model(
    name: str,
    entry: dict[str, Any],
    config: dict[str, Any],
    dataset_folder: Path,
    timing: dict[str, Any] | None,
    jobs: JobLogs,
) -> ModelResult:
    folder = dataset_folder / name
    missing: dict[str, str] = {}
    metrics = read_optional(folder / "metrics.json", "metrics", missing, jobs.outdated)
    calibration = read_optional(folder / "calibration.json", "calibration", missing, jobs.outdated)
    elsewhere = bool(entry.get("predictions"))  # a CSV of another tool: nothing was to be exported or timed
    export = None if elsewhere else read_optional(folder / "export.json", "export", missing, jobs.outdated)
    gradcam = None
    if (config.get("explain") or {}).get("cases", 1):
        gradcam = read_optional(folder / "gradcam" / "gradcam.json", "gradcam", missing, jobs.outdated)
    timed = timing is not None and any(row["model"] == name for row in timing.get("results", []))
    if not timed and not elsewhere:
        missing["timing"] = "not timed"
    failed, log = jobs.failure_of(dataset_folder, name) if missing else (False, None)
    return ModelResult(
        name=name,
        folder=folder,
        status=_status(folder, metrics, missing, failed),
        entry=entry,
        metrics=metrics,
        calibration=calibration,
        export=export,
        gradcam=gradcam,
        runs=collect_runs(folder),
        tuning=collect_searches(folder),
        final=read_optional(folder / "final" / "settings.json", "final", {}),
        missing=missing,
        log=log,
    )


def _expects_ensemble(config: dict[str, Any], folder: Path) -> bool:
    if ENSEMBLE in config.get("models", {}):  # a model of this name in a CSV is a model like the others
        return False
    if (folder / ENSEMBLE / "metrics.json").exists():
        return True
    candidates = (config.get("ensemble") or {}).get("candidates")
    return bool(candidates) and len(config.get("models", {})) >= 2


def _status(folder: Path, metrics: dict[str, Any] | None, missing: dict[str, str], failed: bool) -> str:
    if metrics is not None:
        return INCOMPLETE if missing else FINISHED
    damaged = (folder / "metrics.json").exists()
    return FAILED if failed or damaged else UNFINISHED


def _collect_ensemble(dataset_folder: Path, config: dict[str, Any], jobs: JobLogs, *, n_base: int) -> ModelResult:
    folder = dataset_folder / ENSEMBLE
    missing: dict[str, str] = {}
    metrics = read_optional(folder / "metrics.json", "metrics", missing, jobs.outdated)
    calibration = read_optional(folder / "calibration.json", "calibration", missing, jobs.outdated)
    decision = read_optional(folder / "decision.json", "decision", missing, jobs.outdated)
    if metrics is None and n_base < 2:
        missing["metrics"] = f"an ensemble needs two evaluated models, there are {n_base}"
    failed, log = jobs.failure_of(dataset_folder, ENSEMBLE) if metrics is None else (False, None)
    return ModelResult(
        name=ENSEMBLE,
        folder=folder,
        status=_status(folder, metrics, missing, failed),
        entry={"architecture": "", "candidates": (config.get("ensemble") or {}).get("candidates", [])},
        metrics=metrics,
        calibration=calibration,
        decision=decision,
        missing=missing,
        log=log,
    )


def _same_cases(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        _, metadata = read_table(path)
    except ArtifactError:
        return False
    return bool(metadata.get("selected_and_reported_on_same_cases"))

"""Tables of the page about cost: training jobs, export parity."""

from __future__ import annotations

from statistics import median
from typing import Any

from archbench.report.cells import Cell, Column, Table, number_cell, undefined_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.labels import format_duration, format_si, format_value
from archbench.report.quality_tables import caption


def training_table(dataset: DatasetResult) -> Table | None:
    """Seconds, images or volumes per second, epochs and memory of the training jobs of each model."""
    trained = [model for model in dataset.models if model.runs]
    if not trained:
        return None
    columns = [
        Column("Model", numeric=False),
        Column("Jobs", "folds times seeds"),
        Column("Time per job", "median; smallest and largest below"),
        Column(f"{dataset.unit.capitalize()}s / s", "median over the epochs of all jobs"),
        Column("Epochs run", "median"),
        Column("Best epoch", "smallest to largest"),
        Column("Parameters"),
        Column("Peak memory", "largest over the jobs"),
        Column("Device", numeric=False),
    ]
    rows = [_training_row(model) for model in trained]
    return Table(f"training-{dataset.name}", caption(dataset, "training jobs."), columns, rows, sortable=True)


def _training_row(model: ModelResult) -> list[Cell]:
    seconds = model.settings("train_seconds")
    speeds = [v for run in model.runs for v in run.history.get("images_per_s") or [] if v is not None]
    epochs, best = model.settings("epochs_run"), model.settings("best_epoch")
    memory = model.settings("peak_memory_mib")
    parameters = next(iter(model.settings("parameters")), None)
    devices = dict.fromkeys(
        f"{s.get('device', '')} {s.get('precision', '')}".strip() for run in model.runs if (s := run.settings)
    )
    spread = (
        f"{format_duration(min(seconds))} to {format_duration(max(seconds))}"
        if max(seconds, default=0) > 1.1 * min(seconds, default=0)
        else ""
    )
    best_range = " to ".join(dict.fromkeys((f"{min(best):g}", f"{max(best):g}"))) if best else ""
    return [
        Cell(model.name, model.name.lower()),
        Cell(str(len(model.runs)), len(model.runs)),
        _median_cell(seconds, format_duration, sub=spread),
        _median_cell(speeds, lambda v: format_value(v, 0 if v >= 10 else 1)),
        _median_cell(epochs, lambda v: f"{v:g}"),
        Cell(best_range, median(best)) if best else undefined_cell("not recorded"),
        number_cell(parameters, format_si(parameters), reason="not recorded"),
        number_cell(max(memory, default=None), f"{max(memory, default=0):,.0f}\u00a0MiB", reason="not recorded"),
        Cell(", ".join(devices)),
    ]


def _median_cell(values: list[float], show: Any, sub: str = "") -> Cell:
    if not values:
        return undefined_cell("not recorded")
    middle = float(median(values))
    return Cell(show(middle), middle, sub=sub)


def variants_of(export: dict[str, Any]) -> list[dict[str, Any]]:
    """The exported precisions of a model; an account without them describes a single fp32 file."""
    status = "passed" if export.get("passed") else "failed"
    plain = {"precision": "fp32", "status": status, "rung": export.get("exporter"), "bytes": export.get("onnx_bytes")}
    return export.get("variants") or [{**plain, "parity": {"batches": export.get("parity", [])}}]


def parity_table(dataset: DatasetResult) -> Table | None:
    """Every ONNX export of each model: how far its logits and its primary metric are from torch's."""
    exported = [
        (model.name, variant) for model in dataset.models if model.export for variant in variants_of(model.export)
    ]
    if not exported:
        return None
    batches = sorted({row["batch_size"] for _, variant in exported for row in _compared(variant)})
    columns = [
        Column("Model", numeric=False),
        Column("Precision", numeric=False),
        Column("ONNX file"),
        Column("Exporter", numeric=False),
        *(Column(f"Batch {size}", "largest absolute difference of the logits") for size in batches),
        Column("Metric", "change of the primary metric on the validation set; below, its 90 % interval"),
        Column("Changed", "decisions that differ from torch's"),
        Column("Gate", numeric=False),
    ]
    text = f"export to ONNX, compared with PyTorch on real validation {dataset.unit}s before any timing."
    if dataset.phantom:
        text = f"export to ONNX, compared with PyTorch on validation {dataset.unit}s before any timing."
    rows = [_parity_row(name, variant, batches) for name, variant in exported]
    return Table(f"parity-{dataset.name}", caption(dataset, text), columns, rows)


def _compared(variant: dict[str, Any]) -> list[dict[str, Any]]:
    return (variant.get("parity") or {}).get("batches") or []


def _parity_row(name: str, variant: dict[str, Any], batches: list[int]) -> list[Cell]:
    found = {row["batch_size"]: row for row in _compared(variant)}
    status, reason = str(variant["status"]), variant.get("reason")
    passed, size, quality = status == "passed", variant.get("bytes") or None, variant.get("quality") or {}
    cells = []
    for batch in batches:
        value = (found.get(batch) or {}).get("max_abs_difference")
        cells.append(number_cell(value, "0" if value == 0 else f"{value or 0:.1e}", reason="not compared"))
    change, low, high = (quality.get(key) for key in ("difference", "low", "high"))
    interval = "" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
    shown = number_cell(change, f"{change or 0:+.3f}", reason=quality.get("reason") or "not compared", sub=interval)
    flips, decisions = quality.get("flips"), quality.get("n_decisions")
    return [
        Cell(name, name.lower(), tone="" if passed else "struck"),
        Cell(str(variant["precision"])),
        number_cell(size, f"{(size or 0) / 2**20:.1f}\u00a0MiB", reason="there is no file"),
        Cell(str(variant.get("rung") or "none")),
        *cells,
        shown,
        number_cell(flips, f"{flips} of {decisions}", reason="nothing is decided, or nothing was compared"),
        Cell(status, sub="" if passed else str(reason or ""), tone="good" if passed else "bad"),
    ]

"""Tables of the page about cost: training jobs, export parity."""

from __future__ import annotations

from statistics import median
from typing import Any

from archbench.report.cells import Cell, Column, Table, number_cell, undefined_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.labels import format_duration, format_si, format_value
from archbench.report.quality_tables import caption


def training_table(dataset: DatasetResult) -> Table | None:
    """Seconds, images per second, epochs and memory of the training jobs of each model."""
    trained = [model for model in dataset.models if model.runs]
    if not trained:
        return None
    columns = [
        Column("Model", numeric=False),
        Column("Jobs", "folds times seeds"),
        Column("Time per job", "median; smallest and largest below"),
        Column("Images / s", "median over the epochs of all jobs"),
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


def parity_table(dataset: DatasetResult) -> Table | None:
    """The ONNX export of each model and how far its outputs are from torch's."""
    exported = [model for model in dataset.models if model.export]
    if not exported:
        return None
    batches = sorted({row["batch_size"] for m in exported for row in (m.export or {}).get("parity", [])})
    columns = [
        Column("Model", numeric=False),
        Column("ONNX file"),
        Column("Opset"),
        Column("Exporter", numeric=False),
        *(Column(f"Batch {size}", "largest absolute difference of the logits") for size in batches),
        Column("Parity", numeric=False),
    ]
    rows = [_parity_row(model.name, model.export or {}, batches) for model in exported]
    text = "export to ONNX, compared with PyTorch on real validation images before any timing."
    if dataset.phantom:
        text = "export to ONNX, compared with PyTorch on validation images before any timing."
    return Table(f"parity-{dataset.name}", caption(dataset, text), columns, rows)


def _parity_row(name: str, export: dict[str, Any], batches: list[int]) -> list[Cell]:
    found = {row["batch_size"]: row for row in export.get("parity", [])}
    size = export.get("onnx_bytes")
    cells = []
    for batch in batches:
        value = (found.get(batch) or {}).get("max_abs_difference")
        cells.append(number_cell(value, "0" if value == 0 else f"{value or 0:.1e}", reason="not compared"))
    passed = bool(export.get("passed"))
    return [
        Cell(name, name.lower()),
        number_cell(size, f"{(size or 0) / 2**20:.1f}\u00a0MiB", reason="not recorded"),
        Cell(str(export.get("opset", "")), export.get("opset")),
        Cell(str(export.get("exporter", ""))),
        *cells,
        Cell("passed" if passed else "failed", tone="good" if passed else "bad"),
    ]
